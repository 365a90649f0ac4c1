/** The button in a corner of the page, and the window that it opens. */

import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { findFocus } from "../page/focus";
import { Icon } from "../page/icon";
import { useSignal } from "../page/signal";
import { t } from "../page/strings";
import { Chat, focusField } from "./chat";
import type { WidgetOptions } from "./options";
import type { Session } from "./session";

/** Where the window covers the whole screen. */
const PHONE = matchMedia("(max-width: 30rem), (max-height: 26rem) and (pointer: coarse)");

export function Launcher({ session, options }: { session: Session; options: WidgetOptions }) {
  const isOpen = useSignal(session.isOpen);
  const unread = useSignal(session.unread);
  const button = useRef<HTMLButtonElement>(null);
  const news = unread > 0 && !isOpen ? t.widget.unread(unread) : "";
  const label = isOpen ? t.widget.close : t.widget.open;
  return (
    <>
      <ChatWindow session={session} options={options} launcher={button} />
      <button
        ref={button}
        id="launcher"
        type="button"
        aria-label={news ? `${label}: ${news}` : label}
        aria-expanded={isOpen}
        aria-controls="window"
        onClick={() => (isOpen ? session.close() : session.open())}
      >
        <Icon name={isOpen ? "close" : "chat"} />
        {news && <span class="unread">{unread}</span>}
      </button>
      <p class="visually-hidden" role="status">{news}</p>
    </>
  );
}

interface WindowProperties {
  session: Session;
  options: WidgetOptions;
  launcher: RefObject<HTMLButtonElement | null>;
}

function ChatWindow({ session, options, launcher }: WindowProperties) {
  const isOpen = useSignal(session.isOpen);
  const isPhone = useMedia(PHONE);
  const dialog = useRef<HTMLDialogElement>(null);
  const chat = useRef<HTMLDivElement>(null);
  const before = useRef<Element | null>(null);
  const inside = useRef<Element | null>(null);

  useLayoutEffect(() => {
    if (isOpen) before.current = findFocus();
  }, [isOpen]);
  useLayoutEffect(() => {
    const node = dialog.current;
    if (!node || !isOpen) return;
    if (isPhone) node.showModal();
    else node.open = true; // unlike `show()`, it leaves the focus where it is
    if (inside.current instanceof HTMLElement) inside.current.focus();
    return () => {
      // A phone that is turned closes the window and opens another one.
      const focus = findFocus();
      inside.current = session.isOpen.value && node.contains(focus) ? focus : null;
      node.close();
    };
  }, [isOpen, isPhone]);
  useLayoutEffect(() => {
    if (!isOpen) return;
    const node = dialog.current;
    if (!isPhone && !session.isRestored) focusField(chat.current);
    return () => {
      if (node?.contains(findFocus()) || isPhone) returnFocus(before.current, launcher.current);
    };
  }, [isOpen]);
  useVisualViewport(dialog, isOpen && isPhone);

  return (
    <dialog
      ref={dialog}
      id="window"
      class={isPhone ? "window full" : "window"}
      aria-labelledby="title"
      onClose={() => {
        // By a gesture of the system; not because the page has taken the widget away.
        if (dialog.current?.open === false) session.close();
      }}
    >
      <Chat session={session} options={options} place={chat} onClose={() => session.close()} />
    </dialog>
  );
}

/** Give the focus back to what had it before the window, else to the launcher. */
function returnFocus(before: Element | null, launcher: HTMLElement | null): void {
  const isKept = before instanceof HTMLElement && before.isConnected && before !== document.body;
  (isKept ? before : launcher)?.focus();
}

function useMedia(query: MediaQueryList): boolean {
  const [matches, setMatches] = useState(query.matches);
  useEffect(() => {
    const update = () => setMatches(query.matches);
    query.addEventListener("change", update);
    return () => query.removeEventListener("change", update);
  }, [query]);
  return matches;
}

/** Keep a window that covers the screen above the keyboard of a phone. */
function useVisualViewport(dialog: RefObject<HTMLDialogElement | null>, isActive: boolean): void {
  useLayoutEffect(() => {
    const viewport = window.visualViewport;
    const style = dialog.current?.style;
    if (!isActive || !viewport || !style) return;
    const fit = () => {
      style.top = `${viewport.offsetTop}px`;
      style.height = `${viewport.height}px`;
    };
    fit();
    viewport.addEventListener("resize", fit);
    viewport.addEventListener("scroll", fit);
    return () => {
      viewport.removeEventListener("resize", fit);
      viewport.removeEventListener("scroll", fit);
      style.top = style.height = "";
    };
  }, [isActive]);
}
