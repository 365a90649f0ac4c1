import type { AttachedFile } from "./files.ts";
import type { Problem } from "./frames.ts";
import { newId } from "./ids.ts";

/** A part of the browser's `Storage`. */
export interface Storage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

/** A message that the server has not stored. */
export interface UnsentMessage {
  id: string;
  text: string;
  skill?: string;
  arguments?: Record<string, unknown>;
  /** Files of one's own that were uploaded before. */
  attachments?: AttachedFile[];
  /** The turn that it follows, null for the beginning; what came later is superseded. */
  after?: string | null;
  /** The id of the approval that it answers. */
  answers?: string;
  /** Set when the message was refused; it is not sent again by itself. */
  problem?: Problem;
}

/** How to send a message. */
export type SendOptions = Pick<UnsentMessage, "skill" | "arguments" | "attachments" | "after" | "answers">;

const TOO_LARGE: Problem = { code: "too_large", message: "This message is too long to send." };

/** The messages of one conversation that the server has not stored, kept across reloads. */
export class Outbox {
  readonly messages = new Map<string, UnsentMessage>();
  readonly #storage: Storage | null;
  readonly #key: string;

  constructor(thread: string, storage: Storage | null) {
    this.#storage = storage;
    this.#key = `palaver.unsent.${thread}`;
    const stored = storage?.getItem(this.#key);
    const messages = stored ? (JSON.parse(stored) as UnsentMessage[]) : [];
    for (const message of messages) this.messages.set(message.id, message);
  }

  add(text: string, about: SendOptions): UnsentMessage {
    const message: UnsentMessage = { id: newId(), text, ...about };
    this.messages.set(message.id, message);
    this.save();
    return message;
  }

  remove(id: string): void {
    if (this.messages.delete(id)) this.save();
  }

  /** Refuse the longest message, because the server closed the connection over its size. */
  refuseLongest(): void {
    const waiting = [...this.messages.values()].filter((message) => !message.problem);
    waiting.sort((a, b) => b.text.length - a.text.length);
    if (waiting[0]) waiting[0].problem = TOO_LARGE;
  }

  /** Return the frame of a message, or null after refusing one of more than `limit` bytes. */
  encode({ problem, attachments, ...message }: UnsentMessage, limit: number): string | null {
    const files = attachments && { attachments: attachments.map(({ id }) => ({ file: id })) };
    const data = JSON.stringify({ type: "send", ...message, ...files });
    if (new TextEncoder().encode(data).length <= limit) return data;
    const stored = this.messages.get(message.id);
    if (stored) stored.problem = TOO_LARGE;
    return null;
  }

  save(): void {
    if (this.messages.size) {
      this.#storage?.setItem(this.#key, JSON.stringify([...this.messages.values()]));
    } else {
      this.#storage?.removeItem(this.#key);
    }
  }
}
