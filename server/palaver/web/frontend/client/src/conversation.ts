import { Connection, type Status } from "./connection.ts";
import type { ConversationEvent, HistoryEntry, Problem, Refusal, ServerFrame, Welcome } from "./frames.ts";
import { Outbox, type SendOptions, type UnsentMessage } from "./outbox.ts";
import type { Palaver } from "./palaver.ts";
import { isTemporary } from "./problems.ts";
import { Ratings } from "./ratings.ts";
import { ConversationState } from "./state.ts";
import { TokenRefused } from "./tokens.ts";

export type { Status };

const RETRY_DELAY = 2; // s before a refused message is sent again, unless the server gives one
const RENEWAL_RETRY_DELAY = 5_000; // ms before a token is asked for again

/**
 * One conversation, live. Events: `change` (turns or unsent messages), `status`.
 *
 * `Palaver.open` makes it; `close` it when it is not shown any more.
 */
export class Conversation extends EventTarget {
  readonly thread: string;
  readonly state = new ConversationState();
  /** What the person thinks of the replies; `load` it to know what was said before. */
  readonly ratings: Ratings;
  /** The person that the server takes the client for. */
  person: string | null;
  /** Why the server does not accept the connection at present; null when it has not said so. */
  problem: Problem | null = null;
  readonly #palaver: Palaver;
  readonly #connection: Connection;
  readonly #outbox: Outbox;
  #maxMessageBytes = Infinity;
  #isWelcomed = false;
  #needsSnapshot = false;
  #helloToken: string | null = null;
  /** Set when a token was refused, until one is accepted. */
  #isTokenRefused = false;
  #renewalTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(palaver: Palaver, thread: string) {
    super();
    this.thread = thread;
    this.ratings = new Ratings(palaver, thread);
    this.#palaver = palaver;
    this.person = palaver.options.person;
    this.#outbox = new Outbox(thread, palaver.options.storage);
    this.#connection = new Connection(palaver.socketUrl, palaver.options.WebSocket, {
      prepare: () => (palaver.tokens.isDue ? palaver.tokens.get() : null),
      hello: () => this.#hello(),
      handleFrame: (frame) => this.#handleFrame(frame),
      handleClose: (code) => {
        if (code === 1009) this.#outbox.refuseLongest();
      },
      handleRefusal: (code) => code === 4401 && this.#forgetToken(),
      handleStatus: () => this.#handleStatus(),
    });
    this.#connection.connect();
  }

  get status(): Status {
    return this.#connection.status;
  }

  /** Why the server refused the connection, when the status is `refused`. */
  get refusal(): { code: number; reason: string } | null {
    return this.#connection.refusal;
  }

  /** Messages that the server has not stored, oldest first. */
  get unsent(): UnsentMessage[] {
    return [...this.#outbox.messages.values()];
  }

  /** Close the connection, unless the conversation was opened more often than closed. */
  close(): void {
    if (this.#palaver.release(this)) this.#connection.close();
  }

  /** Reconnect or test the connection now: after the network or the page has come back. */
  checkConnection(): void {
    this.#connection.check();
  }

  /** Send a message and return its id. It is kept and sent again until the server has stored it. */
  send(text: string, about: SendOptions = {}): string {
    const message = this.#outbox.add(text, about);
    this.#sendMessage(message);
    this.#emit("change");
    return message.id;
  }

  /** Send a refused message again. */
  retry(id: string): void {
    const message = this.#outbox.messages.get(id);
    if (!message) return;
    delete message.problem;
    this.#sendMessage(message);
    this.#emit("change");
  }

  /** Remove a message that was not stored. */
  discard(id: string): void {
    this.#outbox.remove(id);
    this.#emit("change");
  }

  /** Make an alternative, with what came after it, the history again. */
  select(turn: string): void {
    this.#connection.send(JSON.stringify({ type: "select", turn }));
  }

  /** Replace the text of one's own message in the history; the reply, and what came later, stay. */
  async revise(turn: string, text: string): Promise<void> {
    await this.#palaver.revise(this.thread, turn, text);
  }

  /** Stop a turn; without `turn` the running one. */
  stop(turn: string | null = null): void {
    this.#connection.send(JSON.stringify({ type: "stop", turn }));
  }

  /** Load the page of history before the first turn. */
  async loadEarlier(): Promise<void> {
    const { earlier } = this.state;
    if (!earlier) return;
    const path = `/v1/conversations/${encodeURIComponent(this.thread)}/history`;
    const page = await this.#palaver.get<{ history: HistoryEntry[]; earlier: string }>(
      `${path}?before=${encodeURIComponent(earlier)}`,
    );
    if (this.state.earlier !== earlier) return; // another call, or a snapshot, was faster
    this.state.prepend(page.history, page.earlier);
    this.#emit("change");
  }

  #hello(): object {
    const { person } = this.#palaver.options;
    const token = (this.#helloToken = this.#palaver.tokens.current);
    const since = this.#needsSnapshot ? null : (this.state.cursor ?? "start");
    return { type: "hello", thread: this.thread, person, token, since };
  }

  #sendMessage(message: UnsentMessage): void {
    if (!this.#isWelcomed || message.problem) return;
    const frame = this.#outbox.encode(message, this.#maxMessageBytes);
    if (frame) this.#connection.send(frame);
    else this.#emit("change");
  }

  #handleFrame(frame: ServerFrame): void {
    switch (frame.type) {
      case "welcome":
        this.#handleWelcome(frame);
        break;
      case "reset":
        this.state.applySnapshot(frame.snapshot, frame.cursor);
        break;
      case "ack":
        this.#outbox.remove(frame.id);
        break;
      case "error":
        this.#handleRefusal(frame);
        break;
      case "selected":
      case "stopped":
      case "refreshed":
      case "pong":
        return;
      default:
        this.#handleEvent(frame);
    }
    this.#emit("change");
  }

  #handleWelcome(frame: Welcome): void {
    this.person = frame.person;
    this.#maxMessageBytes = frame.max_message_bytes;
    if (frame.snapshot) this.state.applySnapshot(frame.snapshot, frame.cursor);
    else this.state.begin(frame.cursor);
    this.#needsSnapshot = false;
    this.#isWelcomed = true;
    this.#isTokenRefused = false;
    this.problem = null;
    this.#scheduleRenewal(this.#palaver.tokens.renewalDelay);
    this.#connection.welcome();
    for (const message of this.#outbox.messages.values()) this.#sendMessage(message);
  }

  #handleEvent(event: ConversationEvent): void {
    if (event.type === "message") this.#outbox.remove(event.id);
    if (event.turn === undefined || this.state.apply(event)) return;
    this.#needsSnapshot = true;
    this.#connection.restart();
  }

  #handleRefusal(frame: Refusal): void {
    if (!this.#isWelcomed) this.problem = { code: frame.code, message: frame.message };
    const message = this.#outbox.messages.get(frame.id ?? "");
    if (!message) return;
    if (isTemporary(frame.code)) {
      const delay = (frame.retry_after ?? RETRY_DELAY) * 1000;
      setTimeout(() => this.#sendMessage(message), delay);
      return;
    }
    message.problem = { code: frame.code, message: frame.message };
    this.#outbox.save();
  }

  /** Forget the token of the connection; return true when another one may help. */
  #forgetToken(): boolean {
    const isFirst = this.#palaver.tokens.areRenewed && !this.#isTokenRefused;
    this.#isTokenRefused = true;
    this.#palaver.tokens.forget(this.#helloToken);
    return isFirst;
  }

  #scheduleRenewal(delay: number): void {
    clearTimeout(this.#renewalTimer);
    if (!this.#palaver.tokens.areRenewed) return;
    this.#renewalTimer = setTimeout(() => void this.#renewToken(), delay);
  }

  /** Give the connection a new token, so that it stays open. */
  async #renewToken(): Promise<void> {
    const { tokens } = this.#palaver;
    try {
      this.#helloToken = await tokens.get();
    } catch (error) {
      if (!(error instanceof TokenRefused)) this.#scheduleRenewal(RENEWAL_RETRY_DELAY);
      return;
    }
    if (!this.#isWelcomed) return;
    this.#connection.send(JSON.stringify({ type: "refresh", token: this.#helloToken }));
    this.#scheduleRenewal(tokens.renewalDelay);
  }

  #handleStatus(): void {
    if (this.status !== "open") {
      this.#isWelcomed = false;
      clearTimeout(this.#renewalTimer);
    }
    this.#emit("status");
  }

  #emit(name: "change" | "status"): void {
    this.dispatchEvent(new Event(name));
  }
}
