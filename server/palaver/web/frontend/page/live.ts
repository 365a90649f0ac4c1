/** Hooks for a conversation that changes many times a second. */

import type { Conversation, Palaver } from "palaver-client";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { announce } from "./announcement";
import { t } from "./strings";

/** Return the conversation of a thread, open as long as the component shows it. */
export function useConversation(palaver: Palaver, thread: string): Conversation | null {
  const [open, setOpen] = useState<{ palaver: Palaver; conversation: Conversation } | null>(null);
  useEffect(() => {
    const opened = palaver.open(thread);
    setOpen({ palaver, conversation: opened });
    const check = () => {
      if (!document.hidden) opened.checkConnection();
    };
    for (const name of ["online", "offline"]) window.addEventListener(name, check);
    document.addEventListener("visibilitychange", check);
    return () => {
      for (const name of ["online", "offline"]) window.removeEventListener(name, check);
      document.removeEventListener("visibilitychange", check);
      opened.close();
    };
  }, [palaver, thread]);
  // Between two threads or keys, the old conversation must not be shown, nor take a message.
  return open?.palaver === palaver && open.conversation.thread === thread ? open.conversation : null;
}

const REST = 3; // times as long as a rendering took, until the next one: long replies leave time to scroll

/** Render the component after a change, at most once in each frame of the screen. */
export function useChanges(conversation: Conversation | null): void {
  const [, setVersion] = useState(0);
  const rendering = useRef({ start: 0, rest: 0 }).current;
  useLayoutEffect(() => {
    if (!rendering.start) return; // it was rendered for another reason
    const now = performance.now();
    rendering.rest = now + REST * (now - rendering.start);
    rendering.start = 0;
  });
  useEffect(() => {
    if (!conversation) return;
    let frame = 0;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const render = () => {
      frame = 0;
      timer = undefined;
      rendering.start = performance.now();
      setVersion((version) => version + 1);
    };
    const request = () => void (frame = requestAnimationFrame(render));
    const schedule = () => {
      if (frame || timer !== undefined) return;
      const wait = rendering.rest - performance.now();
      if (wait > 0) timer = setTimeout(request, wait);
      else request();
    };
    conversation.addEventListener("change", schedule);
    conversation.addEventListener("status", schedule);
    schedule(); // something may have changed since the first rendering
    return () => {
      cancelAnimationFrame(frame);
      clearTimeout(timer);
      conversation.removeEventListener("change", schedule);
      conversation.removeEventListener("status", schedule);
    };
  }, [conversation]);
}

/** Announces, to screen readers, the end of each reply to a message of this page. */
export class ReplyWatch {
  readonly #unanswered = new Set<string>();

  add(id: string): void {
    this.#unanswered.add(id);
  }

  /** Return true when a reply has ended since the last call. */
  check(conversation: Conversation): boolean {
    if (!this.#unanswered.size) return false;
    const before = this.#unanswered.size;
    for (const turn of conversation.state.turns) {
      if (turn.isOpen) continue;
      // A message that the turn did not take moves to another turn, which answers it.
      const answered = turn.messages.filter(({ id }) => turn.taken?.includes(id) ?? true);
      const own = answered.filter(({ id }) => this.#unanswered.delete(id));
      if (own.length) announce(t.outcome[turn.state as keyof typeof t.outcome] ?? "");
    }
    return this.#unanswered.size < before;
  }
}
