/** The top of the chat: its title, the options, the button that closes it. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { Icon } from "../page/icon";
import { t } from "../page/strings";
import { Menu } from "./menu";
import type { WidgetOptions } from "./options";
import type { Session } from "./session";

interface Properties {
  session: Session;
  options: WidgetOptions;
  onClose: (() => void) | null;
  /** Called when a new conversation has begun. */
  onCreate: () => void;
}

export function Head({ session, options, onClose, onCreate }: Properties) {
  const [isMenuOpen, setMenuOpen] = useState(false);
  const button = useRef<HTMLButtonElement>(null);
  const place = useRef<HTMLDivElement>(null);
  const closeMenu = () => {
    setMenuOpen(false);
    button.current?.focus();
  };
  useLayoutEffect(() => {
    if (isMenuOpen) place.current?.querySelector<HTMLElement>(".menu button")?.focus();
  }, [isMenuOpen]);
  return (
    <div class="head">
      <h2 id="title" dir="auto">{options.title || t.widget.title}</h2>
      <div
        ref={place}
        class="menu-place"
        onKeyDown={(event) => {
          if (event.key !== "Escape" || !isMenuOpen) return;
          event.preventDefault();
          closeMenu();
        }}
        onFocusOut={(event) => {
          const next = event.relatedTarget;
          if (next instanceof Node && !place.current?.contains(next)) setMenuOpen(false);
        }}
      >
        <button
          ref={button}
          type="button"
          class="icon-button"
          aria-label={t.widget.options}
          title={t.widget.options}
          aria-expanded={isMenuOpen}
          onClick={() => setMenuOpen(!isMenuOpen)}
        >
          <Icon name="more" />
        </button>
        {isMenuOpen && (
          <Menu
            session={session}
            onClose={closeMenu}
            onCreate={() => {
              setMenuOpen(false);
              onCreate();
            }}
          />
        )}
      </div>
      {onClose && (
        <button
          type="button"
          class="icon-button"
          aria-label={t.widget.close}
          title={t.widget.close}
          onClick={onClose}
        >
          <Icon name="close" />
        </button>
      )}
    </div>
  );
}
