/** The person's conversations, as the server lists them: pinned ones first, then the newest. */

import type { ConversationChange, Erasure, ListedConversation } from "palaver-client";

import { palaver } from "./client";
import { forgetUnsent } from "./drafts";
import { Signal } from "./signal";

export type { ListedConversation };

const MAX_TITLE = 80; // characters
const MAX_TITLED = 10; // untitled conversations that get a title at once
const MAX_LISTED = 500; // older ones are found by searching
const SEARCH_DELAY = 250; // ms after the last key

class ConversationList extends Signal<ListedConversation[]> {
  #query = "";
  #isArchive = false;
  /** All that was listed, also what the present list has not. */
  readonly #known = new Map<string, ListedConversation>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Tells other tabs to load the list again. */
  readonly #tabs = new BroadcastChannel("palaver.conversations");
  /** Conversations that a title was asked for. */
  readonly #titled = new Set<string>();

  constructor() {
    super([]);
    this.#tabs.onmessage = () => void this.load();
  }

  /** Whether the list is what a search has found. */
  get isSearched(): boolean {
    return this.#query !== "";
  }

  /** Whether the list is the archive. */
  get isArchive(): boolean {
    return this.#isArchive;
  }

  find(thread: string): ListedConversation | undefined {
    return this.#known.get(thread);
  }

  /** Load the list, or what the search finds. */
  async load(): Promise<void> {
    const query = this.#query;
    const archived = this.#isArchive;
    const wanted = query ? [{ q: query }, { q: query, archived: true }] : [{ archived }];
    const { value: client } = palaver;
    try {
      const found = await Promise.all(wanted.map((filter) => this.#read(filter)));
      if (query !== this.#query || archived !== this.#isArchive || client !== palaver.value) return;
      this.#show(found.flat());
    } catch {
      return; // what is shown stays
    }
    for (const item of this.value.filter(({ title }) => !title).slice(0, MAX_TITLED)) await this.#makeTitle(item.thread);
  }

  async #read(filter: { q?: string; archived?: boolean }): Promise<ListedConversation[]> {
    const items: ListedConversation[] = [];
    let before = "";
    do {
      const part = await palaver.value.list(before ? { ...filter, before } : filter);
      items.push(...part.conversations);
      before = part.next;
    } while (before && items.length < MAX_LISTED);
    return items;
  }

  /** Show what a text is found in; an empty one shows all. */
  search(query: string): void {
    clearTimeout(this.#timer);
    this.#query = query.trim();
    this.#timer = setTimeout(() => void this.load(), SEARCH_DELAY);
  }

  /** Show the archive, or the other conversations. */
  showArchive(isArchive: boolean): void {
    this.#isArchive = isArchive;
    this.#show([]);
    void this.load();
  }

  /** Show all conversations that are not archived. */
  reset(): void {
    this.#isArchive = false;
    this.search("");
  }

  /** Forget everything: somebody else may use the page now. */
  clear(): void {
    this.#known.clear();
    this.#titled.clear();
    this.#show([]);
  }

  #show(items: ListedConversation[]): void {
    for (const item of items) this.#known.set(item.thread, item);
    this.value = sorted(items);
  }

  async rename(thread: string, title: string): Promise<void> {
    const name = title.trim().slice(0, MAX_TITLE);
    if (name) await this.#change(thread, { title: name });
  }

  pin(thread: string, pinned: boolean): Promise<void> {
    return this.#change(thread, { pinned });
  }

  archive(thread: string, archived: boolean): Promise<void> {
    return this.#change(thread, { archived });
  }

  /** Erase a conversation; return the receipt. */
  async remove(thread: string): Promise<Erasure> {
    const receipt = await palaver.value.remove(thread);
    this.#known.delete(thread);
    forgetUnsent(thread);
    await this.#reload();
    return receipt;
  }

  /** Note a message: its conversation is the newest, with the message as title until it has one. */
  touch(thread: string, text: string): void {
    const title = text.replace(/^\/[\w-]+ /, "").slice(0, MAX_TITLE);
    const known = this.find(thread) ?? { thread, title, pinned: false, archived: false, excerpt: "" };
    const item = { ...known, archived: false, active_at: Date.now() / 1000 };
    this.#known.set(thread, item);
    const others = this.value.filter((other) => other.thread !== thread);
    const isListed = this.#query ? others.length < this.value.length : !this.#isArchive;
    this.#show(isListed ? [item, ...others] : others);
  }

  /** Note the end of a reply: the conversation gets a title, if it has none. */
  async settle(thread: string): Promise<void> {
    await this.#makeTitle(thread);
    await this.#reload();
  }

  async #makeTitle(thread: string): Promise<void> {
    if (this.#titled.has(thread)) return;
    this.#titled.add(thread);
    try {
      const { title } = await palaver.value.makeTitle(thread);
      if (title) this.#show(this.value.map((item) => (item.thread === thread ? { ...item, title } : item)));
      else this.#titled.delete(thread); // it has no reply yet
    } catch {
      this.#titled.delete(thread); // the server is busy
    }
  }

  async #change(thread: string, change: ConversationChange): Promise<void> {
    await palaver.value.change(thread, change);
    await this.#reload();
  }

  async #reload(): Promise<void> {
    await this.load();
    this.tellOthers();
  }

  /** Let other tabs load their lists again. */
  tellOthers(): void {
    this.#tabs.postMessage("changed");
  }
}

function sorted(items: ListedConversation[]): ListedConversation[] {
  return items.toSorted((a, b) => Number(b.pinned) - Number(a.pinned) || b.active_at - a.active_at);
}

export const conversations = new ConversationList();
