/** What the widget keeps in the browser, for one site: who the visitor is, and the conversations. */

import { readJson, session, writeJson } from "../page/storage";

/** The conversation of one person of this browser. */
export interface KeptConversation {
  thread: string;
  /** The id of the last turn whose reply the person has seen. */
  seen: string;
  /** A reply is on its way, or was not seen: the widget connects when a page is loaded. */
  isAwaited: boolean;
}

export interface Visitor {
  /** The server's signed statement that makes this browser the same person again. */
  statement: string;
  person: string;
}

interface Kept {
  visitor?: Visitor;
  /** By the subject of the signed identity; empty: nobody has signed one. */
  conversations?: Record<string, KeptConversation>;
  hasSound?: boolean;
}

export class Memory {
  readonly #key: string;

  constructor(site: string) {
    this.#key = `palaver.widget.${site}`;
  }

  get visitor(): Visitor | null {
    return this.#read().visitor ?? null;
  }

  set visitor(visitor: Visitor) {
    this.#change({ visitor });
  }

  /** Null: the person has not chosen. */
  get hasSound(): boolean | null {
    return this.#read().hasSound ?? null;
  }

  set hasSound(hasSound: boolean) {
    this.#change({ hasSound });
  }

  /** Whether the chat is open in this tab. */
  get isOpen(): boolean {
    return session.getItem(`${this.#key}.open`) === "1";
  }

  set isOpen(isOpen: boolean) {
    session.setItem(`${this.#key}.open`, isOpen ? "1" : "0");
  }

  conversation(subject: string): KeptConversation | null {
    return this.#read().conversations?.[subject] ?? null;
  }

  /** Whether somebody who uses this browser waits for a reply. */
  get isAnyAwaited(): boolean {
    return Object.values(this.#read().conversations ?? {}).some(({ isAwaited }) => isAwaited);
  }

  keep(subject: string, conversation: KeptConversation): void {
    const { conversations } = this.#read();
    this.#change({ conversations: { ...conversations, [subject]: conversation } });
  }

  /** Call `listener` after a change by another tab; return a function that ends it. */
  subscribe(listener: () => void): () => void {
    const handle = (event: StorageEvent) => {
      if (event.key === this.#key) listener();
    };
    window.addEventListener("storage", handle);
    return () => window.removeEventListener("storage", handle);
  }

  #read(): Kept {
    return readJson<Kept>(this.#key, {});
  }

  #change(change: Kept): void {
    writeJson(this.#key, { ...this.#read(), ...change });
  }
}
