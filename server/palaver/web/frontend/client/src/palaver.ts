import { Conversation } from "./conversation.ts";
import { type FileLimits, type StoredFile, type UploadOptions, postFile } from "./files.ts";
import type { Attachment, HistoryEntry } from "./frames.ts";
import { RequestError, problemOf } from "./request_error.ts";
import type { Storage } from "./outbox.ts";
import type { Feedback, Opinion } from "./ratings.ts";
import { type TokenProvider, Tokens } from "./tokens.ts";

export interface Options {
  /** The server's address, like `https://chat.example`. */
  url: string;
  /** The key, where the server asks for one, or a function that gets a token whenever one is needed. */
  token?: string | TokenProvider | null;
  /** Names the person, where the key may. */
  person?: string | null;
  /** Keeps unsent messages across reloads: `localStorage`, or anything like it. */
  storage?: Storage | null;
  /** For runtimes that have none. */
  WebSocket?: typeof WebSocket;
}

export interface SkillInfo {
  name: string;
  description: string;
  /** Messages to begin with. */
  prompts?: string[];
}

export interface ServerInfo {
  version: string;
  model: string | null;
  demonstration: boolean;
  /** Conversations may be shared. */
  sharing: boolean;
  /** Limits of files; null: nobody may upload. */
  files: FileLimits | null;
  /** The skill that answers a message with images sees them. */
  vision: boolean;
  /** The caller may connect another model to the server. */
  setup: boolean;
}

/** The person that the server takes the caller for. */
export interface Identity {
  person: string;
  /** The name of the key; empty on a server without keys. */
  key: string;
  rights: string[];
  /** Several people may stand behind it: it has no list, no export and no erasure. */
  is_shared: boolean;
}

/** A conversation in the list of a person. */
export interface ListedConversation {
  thread: string;
  title: string;
  /** s since 1970 of the person's last message. */
  active_at: number;
  pinned: boolean;
  archived: boolean;
  /** The text around what a search has found. */
  excerpt: string;
}

export type ConversationChange = Partial<Pick<ListedConversation, "title" | "pinned" | "archived">>;

/** A snapshot that whoever knows its address may read. */
export interface Share {
  id: string;
  /** s since 1970 of its newest entry. */
  at: number;
  /** The address of its page. */
  path: string;
}

export interface SharedConversation {
  title: string;
  history: HistoryEntry[];
  at: number;
  /** Older entries are missing. */
  is_cut: boolean;
}

/** Numbers of what is stored about a person. */
export interface DataSummary {
  conversations: number;
  messages: number;
  /** Of the messages, those that wait for a reply. */
  waiting: number;
  replies: number;
  titles: number;
  /** Ratings of replies. */
  feedback: number;
  memories: number;
  files: number;
}

/** The receipt of an erasure: how much was erased, and when, in s since 1970. */
export interface Erasure {
  person: string;
  conversations: number;
  messages: number;
  events: number;
  dead_letters: number;
  memories: number;
  files: number;
  /** Rows of prepared training data. */
  training_rows: number;
  at: number;
}

interface ListPart {
  conversations: ListedConversation[];
  /** The `before` of the following part; empty at the end. */
  next: string;
}

/**
 * A server, seen by one person. It has any number of conversations, each with one connection, however
 * often it is opened.
 */
export class Palaver {
  readonly options: Required<Options>;
  readonly tokens: Tokens;
  readonly #open = new Map<string, { conversation: Conversation; count: number }>();

  constructor(options: Options) {
    this.options = {
      token: null,
      person: null,
      storage: null,
      WebSocket: globalThis.WebSocket,
      ...options,
    };
    this.tokens = new Tokens(this.options.token);
  }

  /** The address of the websocket. */
  get socketUrl(): string {
    const url = new URL("/ws", this.options.url);
    url.protocol = url.protocol.replace("http", "ws");
    return url.href;
  }

  /** Return the conversation of a thread, connected. Each call wants a `close`. */
  open(thread: string): Conversation {
    const entry = this.#open.get(thread) ?? { conversation: new Conversation(this, thread), count: 0 };
    entry.count += 1;
    this.#open.set(thread, entry);
    return entry.conversation;
  }

  /** Note that a conversation was closed once; return true when nobody else has it open. */
  release(conversation: Conversation): boolean {
    const entry = this.#open.get(conversation.thread);
    if (entry?.conversation !== conversation) return false;
    entry.count -= 1;
    if (entry.count) return false;
    this.#open.delete(conversation.thread);
    return true;
  }

  async about(): Promise<ServerInfo> {
    return this.get("/v1/about");
  }

  async skills(): Promise<SkillInfo[]> {
    return (await this.get<{ skills: SkillInfo[] }>("/v1/skills")).skills;
  }

  /** Return a part of the person's conversations, newest first. `q` searches in titles and texts. */
  async list(filter: { q?: string; archived?: boolean; before?: string } = {}): Promise<ListPart> {
    const query = new URLSearchParams(Object.entries(filter).map(([name, value]) => [name, String(value)]));
    return this.get(`/v1/conversations?${query}`);
  }

  async change(thread: string, change: ConversationChange): Promise<ListedConversation> {
    return this.request("PATCH", pathOf(thread), change);
  }

  /** Let the model make a title, where there is none. */
  async makeTitle(thread: string): Promise<ListedConversation> {
    return this.request("POST", `${pathOf(thread)}/title`);
  }

  /** Erase a conversation, or one's own part of it where it has other members. */
  async remove(thread: string): Promise<Erasure> {
    return this.request("DELETE", pathOf(thread));
  }

  /** Replace the text of one's own message in the history; the reply stays. */
  async revise(thread: string, turn: string, text: string): Promise<void> {
    await this.request("PATCH", `${pathOf(thread)}/turns/${encodeURIComponent(turn)}`, { text });
  }

  async me(): Promise<Identity> {
    return this.get("/v1/me");
  }

  // Shares

  /** Return the shares of a conversation, oldest first. */
  async shares(thread: string): Promise<Share[]> {
    return (await this.get<{ shares: Share[] }>(`${pathOf(thread)}/shares`)).shares;
  }

  /** Share the conversation as it is now. */
  async share(thread: string): Promise<Share> {
    return this.request("POST", `${pathOf(thread)}/shares`);
  }

  async revokeShare(thread: string, id: string): Promise<void> {
    await this.request("DELETE", `${pathOf(thread)}/shares/${encodeURIComponent(id)}`);
  }

  /** Return what a share shows; anybody may. */
  async shared(id: string): Promise<SharedConversation> {
    return this.get(`/v1/shares/${encodeURIComponent(id)}`);
  }

  // Files

  /** Upload a file, to be sent with a message. Throws `RequestError`, and the signal's reason. */
  async upload(content: Blob, options: UploadOptions = {}): Promise<StoredFile> {
    const { person } = this.options;
    const token = await this.tokens.get();
    const url = new URL("/v1/files", this.options.url);
    url.searchParams.set("name", options.name ?? ("name" in content ? String(content.name) : ""));
    if (person) url.searchParams.set("person", person);
    try {
      return await postFile(url, content, token, options);
    } catch (error) {
      if (error instanceof RequestError && error.status === 401) this.tokens.forget(token);
      throw error;
    }
  }

  /** Return the person's files, the newest first. */
  async files(): Promise<StoredFile[]> {
    return (await this.get<{ files: StoredFile[] }>("/v1/files")).files;
  }

  async deleteFile(id: string): Promise<void> {
    await this.request("DELETE", `/v1/files/${encodeURIComponent(id)}`);
  }

  /** Return the content of a file that was sent in a conversation. */
  async readFile(attachment: Attachment, thread: string): Promise<Blob> {
    return (await this.#fetch("GET", `${attachment.url}?${new URLSearchParams({ thread })}`)).blob();
  }

  // Feedback; `Conversation.ratings` keeps that of one conversation

  /** Return all feedback that the person has given in a conversation. */
  async feedback(thread: string): Promise<Feedback[]> {
    return (await this.get<{ feedback: Feedback[] }>(`${pathOf(thread)}/feedback`)).feedback;
  }

  /** Rate the reply of a turn; it replaces an earlier rating. */
  async giveFeedback(thread: string, turn: string, opinion: Opinion): Promise<Feedback> {
    return this.request("PUT", feedbackPathOf(thread, turn), opinion);
  }

  async withdrawFeedback(thread: string, turn: string): Promise<void> {
    await this.request("DELETE", feedbackPathOf(thread, turn));
  }

  // The person's data

  /** Count what is stored about the person. */
  async summarizeData(): Promise<DataSummary> {
    return this.get("/v1/export/summary");
  }

  /** Return everything that is stored about the person, as JSON. */
  async exportData(): Promise<Blob> {
    return (await this.#fetch("GET", "/v1/export")).blob();
  }

  /** Erase everything that is stored about the person. */
  async eraseData(): Promise<Erasure> {
    return this.request("POST", "/v1/erase");
  }

  /** Return a whole conversation as Markdown or JSON. */
  async export(thread: string, format: "markdown" | "json"): Promise<Blob> {
    return (await this.#fetch("GET", `${pathOf(thread)}/export?format=${format}`)).blob();
  }

  /** Return the JSON at a path. Throws `RequestError`. */
  async get<Body>(path: string): Promise<Body> {
    return this.request("GET", path);
  }

  /** Send a request of the HTTP API and return the JSON of its response. Throws `RequestError`. */
  async request<Body>(method: string, path: string, body?: object): Promise<Body> {
    return (await this.#fetch(method, path, body)).json() as Promise<Body>;
  }

  async #fetch(method: string, path: string, body?: object): Promise<Response> {
    const token = await this.tokens.get();
    const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
    if (body) headers["Content-Type"] = "application/json";
    const content = body ? JSON.stringify(body) : null;
    const url = new URL(path, this.options.url);
    if (this.options.person) url.searchParams.set("person", this.options.person);
    const response = await fetch(url, { method, headers, body: content });
    if (response.status === 401) this.tokens.forget(token);
    if (!response.ok) throw new RequestError(path, response.status, problemOf(await response.text()));
    return response;
  }
}

function pathOf(thread: string): string {
  return `/v1/conversations/${encodeURIComponent(thread)}`;
}

function feedbackPathOf(thread: string, turn: string): string {
  return `${pathOf(thread)}/turns/${encodeURIComponent(turn)}/feedback`;
}
