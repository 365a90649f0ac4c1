/** The whole widget, with its colours and its language. */

import { useLayoutEffect, useRef } from "preact/hooks";

import { t } from "../page/strings";
import { Chat } from "./chat";
import { accentColors } from "./colors";
import { Launcher } from "./launcher";
import type { WidgetOptions } from "./options";
import type { Session } from "./session";

interface Properties {
  session: Session;
  options: WidgetOptions;
  /** A CSS colour; empty: the widget's own. */
  accent: string;
  language: string;
  direction: "ltr" | "rtl";
}

export function WidgetView({ session, options, accent, language, direction }: Properties) {
  const place = useRef<HTMLDivElement>(null);
  const chat = useRef<HTMLDivElement>(null);
  const { mode, theme, font, radius, position } = options;
  useLayoutEffect(() => {
    const colors = accentColors(accent);
    setProperty(place.current, "--accent", colors?.accent);
    setProperty(place.current, "--accent-text", colors?.text);
    setProperty(place.current, "--radius", radius);
  }, [accent, radius]);
  const corner = position || (direction === "rtl" ? "left" : "right");
  return (
    <div ref={place} class={`widget ${mode} ${corner} ${font}-font`} lang={language} dir={direction} data-theme={theme}>
      {mode === "launcher" ? (
        <Launcher session={session} options={options} />
      ) : (
        <section class="window" aria-label={options.title || t.widget.title}>
          <Chat session={session} options={options} place={chat} onClose={null} />
        </section>
      )}
    </div>
  );
}

function setProperty(element: HTMLElement | null, name: string, value: string | undefined): void {
  if (value) element?.style.setProperty(name, value);
  else element?.style.removeProperty(name);
}
