/** The visitor's conversation with the site, as long as the page is shown. */

import { type Conversation, Palaver, type SendOptions, type Token, TokenRefused, newId } from "palaver-client";

import { announce } from "../page/announcement";
import { about, palaver } from "../page/client";
import { Signal } from "../page/signal";
import { local } from "../page/storage";
import { t } from "../page/strings";
import { type Identity, resolveIdentity, subjectOf } from "./identity";
import { type KeptConversation, Memory } from "./memory";
import { playSound } from "./sound";
import { fetchToken } from "./visitor_token";

const FORBIDDEN = 4403;
const IDENTITY_RETRY_DELAY = 5_000; // ms

/** Events of the widget, with what they tell. */
export interface WidgetEvents {
  ready: null;
  open: null;
  close: null;
  message: { id: string; text: string };
  reply: { turn: string; text: string; outcome: string };
  unread: { count: number };
  error: { code: string; message: string };
}

export type Emit = <Name extends keyof WidgetEvents>(name: Name, detail: WidgetEvents[Name]) => void;

interface Options {
  /** The server's origin. */
  host: string;
  /** The site's public key. */
  site: string;
  emit: Emit;
}

export class Session {
  readonly memory: Memory;
  /** Null before the first connection. */
  readonly conversation = new Signal<Conversation | null>(null);
  readonly isOpen = new Signal(false);
  /** Replies that the person has not seen. */
  readonly unread = new Signal(0);
  /** Why there is no chat; empty: there is one. */
  readonly refusal = new Signal("");
  /** Whether the page wants a sound, where the person has not chosen. */
  hasSoundByDefault = false;
  /** The chat is open because it was open on the page before. */
  isRestored = false;
  /** Whether the chat is a part of the page, and not opened. */
  isInline = false;
  readonly #host: string;
  readonly #site: string;
  readonly #emit: Emit;
  readonly #end: (() => void)[] = [];
  #identity: Identity | null = null;
  #subject = "";
  /** The person of the latest token. */
  #person = "";
  #isStarted = false;
  /** Counts connections as other persons. */
  #run = 0;
  /** Messages from before the connection. */
  #queued: string[] = [];
  /** Turns whose end is awaited. */
  readonly #open = new Set<string>();
  #isThreadNew = false;
  #hasWarned = false;

  constructor({ host, site, emit }: Options) {
    this.#host = host;
    this.#site = site;
    this.#emit = emit;
    this.memory = new Memory(site);
    this.#listen(document, "visibilitychange", () => this.#handleVisibility());
    this.#listen(window, "online", () => this.#handleVisibility());
    this.#end.push(this.memory.subscribe(() => this.#followOtherTabs()));
  }

  /** Continue what the person did on the page before: connect when there is something to show. */
  resume(): void {
    const kept = this.memory.conversation(this.#subject);
    if (!this.isInline && this.memory.isOpen) this.open(true);
    else if (kept?.isAwaited || (this.isInline && kept?.seen)) this.start();
  }

  /** Whether the conversation certainly has no messages yet. */
  get isNew(): boolean {
    return this.conversation.value ? this.#isThreadNew : !this.memory.conversation(this.#subject);
  }

  /** Connect, unless that was done before. Nothing is sent to the server earlier. */
  start(): void {
    if (this.#isStarted) return;
    this.#isStarted = true;
    void this.#connect();
  }

  open(isRestored = false): void {
    this.start();
    if (this.isInline || this.isOpen.value) return;
    this.isRestored = isRestored;
    this.#setOpen(true);
    this.#emit("open", null);
    this.#update();
  }

  close(): void {
    if (!this.isOpen.value) return;
    this.#setOpen(false);
    this.#emit("close", null);
  }

  /** Send a message and return its id; empty when it waits for the connection. */
  send(text: string, options: SendOptions = {}): string {
    const trimmed = text.trim();
    if (!trimmed && !options.attachments?.length) return "";
    this.start();
    const conversation = this.conversation.value;
    if (!conversation) {
      this.#queued.push(trimmed);
      return "";
    }
    const id = conversation.send(trimmed, options);
    this.#emit("message", { id, text: trimmed });
    return id;
  }

  /** Be the person of a signed identity; null: the visitor of before. */
  setIdentity(identity: Identity | null): void {
    if (typeof identity === "string") subjectOf(identity); // refuse what is no JWT at once
    this.#identity = identity;
    if (this.#isStarted) void this.#connect();
    else if (this.memory.isAnyAwaited) this.start();
  }

  newConversation(): void {
    if (this.conversation.value) this.#show(newId());
    else this.memory.keep(this.#subject, { thread: newId(), seen: "", isAwaited: false });
  }

  get hasSound(): boolean {
    return this.memory.hasSound ?? this.hasSoundByDefault;
  }

  destroy(): void {
    this.#run += 1;
    this.#leave();
    for (const end of this.#end) end();
  }

  // The connection

  /** Show the conversation of the person of the identity, unless it is shown. */
  async #connect(): Promise<void> {
    const run = (this.#run += 1);
    let subject: string;
    try {
      subject = subjectOf(await resolveIdentity(this.#identity));
    } catch (error) {
      if (run === this.#run) this.#handleMissingIdentity(run, error);
      return;
    }
    if (run !== this.#run) return;
    if (subject === this.#subject && this.conversation.value && !this.refusal.value) return;
    this.#leave();
    this.refusal.value = "";
    [this.#subject, this.#person] = [subject, ""];
    palaver.value = new Palaver({ url: this.#host, storage: local, token: () => this.#getToken() });
    void this.#loadAbout(palaver.value);
    this.#show(this.memory.conversation(subject)?.thread ?? newId());
  }

  /** Load what the server offers, such as files; the conversation does not wait for it. */
  async #loadAbout(client: Palaver): Promise<void> {
    about.value = null;
    try {
      const loaded = await client.about();
      if (client === palaver.value) about.value = loaded;
    } catch {
      // The connection shows the problem.
    }
  }

  /** The page has a function that gets the identity, and it has failed: call it again later. */
  #handleMissingIdentity(run: number, error: unknown): void {
    const message = `the identity of the visitor is missing: ${String(error)}`;
    console.error(`palaver: ${message}`);
    this.#emit("error", { code: "identity", message });
    setTimeout(() => {
      if (run === this.#run) void this.#connect();
    }, IDENTITY_RETRY_DELAY);
  }

  async #getToken(): Promise<Token> {
    const identity = await resolveIdentity(this.#identity);
    const subject = this.#subject;
    if (subjectOf(identity) !== subject) {
      void this.#connect(); // another person has signed in
      throw new Error("the identity is another person's");
    }
    try {
      const token = await fetchToken(this.#host, this.#site, this.memory, identity);
      if (subject === this.#subject) this.#person = token.person;
      return token;
    } catch (error) {
      if (!(error instanceof TokenRefused)) this.#warn(String(error));
      throw error;
    }
  }

  /** Tell the owner of the page, once: a browser does not tell why a server cannot be reached. */
  #warn(reason: string): void {
    if (this.#hasWarned) return;
    this.#hasWarned = true;
    const message =
      `${this.#host} gives no token (${reason}): it cannot be reached, or the origins of the site ` +
      `${this.#site} in its settings lack ${location.origin}`;
    console.error(`palaver: ${message}`);
    this.#emit("error", { code: "unreachable", message });
  }

  #refuse(code: string, message: string): void {
    console.error(`palaver: ${message}`);
    this.refusal.value = message;
    this.#emit("error", { code, message });
  }

  // The conversation

  #show(thread: string): void {
    this.#leave();
    const kept = this.memory.conversation(this.#subject);
    this.#isThreadNew = kept?.thread !== thread;
    if (this.#isThreadNew) this.#keep({ thread, seen: "", isAwaited: false });
    const conversation = palaver.value.open(thread);
    conversation.addEventListener("change", this.#update);
    conversation.addEventListener("status", this.#handleStatus);
    this.conversation.value = conversation;
    for (const text of this.#queued.splice(0)) this.send(text);
  }

  #leave(): void {
    const conversation = this.conversation.value;
    if (!conversation) return;
    conversation.removeEventListener("change", this.#update);
    conversation.removeEventListener("status", this.#handleStatus);
    conversation.close();
    this.#open.clear();
    this.conversation.value = null;
    this.#setUnread(0);
  }

  readonly #handleStatus = (): void => {
    const conversation = this.conversation.value;
    if (!conversation?.refusal) return;
    const { code, reason } = conversation.refusal;
    // The browser is another person than the one who began it: its statement has expired.
    if (code === FORBIDDEN && !this.#isThreadNew) {
      this.#takeUnsent(conversation);
      this.#show(newId());
    } else this.#refuse("refused", reason);
  };

  /** Take the messages that are not sent, for the conversation that comes next. */
  #takeUnsent(conversation: Conversation): void {
    for (const { id, text } of conversation.unsent) {
      conversation.discard(id);
      this.#queued.push(text);
    }
  }

  readonly #update = (): void => {
    const conversation = this.conversation.value;
    const kept = this.memory.conversation(this.#subject);
    if (conversation?.status !== "open" || (kept && kept.thread !== conversation.thread)) return;
    const { state, unsent } = conversation;
    this.#reportReplies(conversation);
    const finished = state.turns.filter((turn) => !turn.isOpen).map(({ id }) => id);
    const seen = this.#isSeen ? (finished.at(-1) ?? "") : (kept?.seen ?? "");
    // A turn that is not found is in no history any more: nothing is known to be new.
    const isKnown = !seen || finished.includes(seen);
    this.#setUnread(isKnown ? finished.length - 1 - finished.indexOf(seen) : 0);
    this.#keep({
      thread: conversation.thread,
      seen,
      isAwaited: Boolean(state.running || unsent.length || this.unread.value),
    });
  };

  #reportReplies(conversation: Conversation): void {
    for (const turn of conversation.state.turns) {
      if (turn.isOpen) this.#open.add(turn.id);
      else if (this.#open.delete(turn.id)) {
        announce(t.outcome[turn.state as keyof typeof t.outcome] ?? "");
        this.#emit("reply", { turn: turn.id, text: turn.text, outcome: turn.state });
        if (turn.problem) this.#emit("error", turn.problem);
        if (this.hasSound && !this.#isSeen) playSound();
      }
    }
  }

  #keep(conversation: KeptConversation): void {
    const kept = this.memory.conversation(this.#subject);
    // Each write wakes the other tabs.
    if (JSON.stringify(kept) !== JSON.stringify(conversation)) this.memory.keep(this.#subject, conversation);
  }

  #followOtherTabs(): void {
    const conversation = this.conversation.value;
    const kept = this.memory.conversation(this.#subject);
    if (!conversation || !kept) return;
    const isOther = !this.#identity && this.#person && this.memory.visitor?.person !== this.#person;
    if (isOther) {
      // Two tabs were new visitors at the same time: the one that was stored last counts.
      this.#takeUnsent(conversation);
      this.#leave();
      void this.#connect();
    } else if (kept.thread === conversation.thread) this.#update();
    else this.#show(kept.thread);
  }

  // What the person sees

  get #isSeen(): boolean {
    return (this.isInline || this.isOpen.value) && document.visibilityState === "visible";
  }

  #handleVisibility(): void {
    if (document.visibilityState !== "visible") return;
    this.conversation.value?.checkConnection();
    this.#update();
  }

  #setOpen(isOpen: boolean): void {
    this.isOpen.value = isOpen;
    this.memory.isOpen = isOpen;
  }

  #setUnread(count: number): void {
    if (count === this.unread.value) return;
    this.unread.value = count;
    this.#emit("unread", { count });
  }

  #listen(target: EventTarget, name: string, handle: () => void): void {
    target.addEventListener(name, handle);
    this.#end.push(() => target.removeEventListener(name, handle));
  }
}
