import type {
  Approval,
  Attachment,
  Citation,
  ConversationEvent,
  FinishReason,
  HistoryEntry,
  Outcome,
  Problem,
  StoredMessage,
  ToolUse,
} from "./frames.ts";

export type { Citation };
export type TurnState = "waiting" | "running" | Outcome;
export type ToolCall = ToolUse;

/** One message, or several that are answered together, and the reply. */
export class Turn {
  readonly id: string;
  /** The id is empty when only a snapshot's history has the message. */
  messages: StoredMessage[] = [];
  /** Ids of the messages that the finished turn has answered; null: all. */
  taken: string[] | null = null;
  state: TurnState = "waiting";
  /** When the first message was accepted, in s since 1970; null: not known. */
  at: number | null = null;
  text = "";
  /** Code points of `text`. */
  length = 0;
  /** While it waits for the model: about how many generations come first. */
  queuePosition: number | null = null;
  skill = "";
  reason = "";
  score: number | null = null;
  citations: Citation[] = [];
  /** Files of the reply; those of a message are the message's. */
  attachments: Attachment[] = [];
  tools: ToolCall[] = [];
  question: { text: string; options: string[]; approval?: Approval } | null = null;
  problem: Problem | null = null;
  usage: Record<string, unknown> | null = null;
  finishReason: FinishReason = "stop";
  /** Grows with every change. */
  version = 0;

  constructor(id: string) {
    this.id = id;
  }

  /** All messages as one text. */
  get message(): string {
    return this.messages.map((message) => message.text).join("\n\n");
  }

  get isOpen(): boolean {
    return this.state === "waiting" || this.state === "running";
  }

  setText(text: string): void {
    this.text = text;
    this.length = countCodePoints(text);
  }

  /** Take the reply from its entry in the history; what the entry lacks is kept. */
  restore(entry: HistoryEntry): void {
    this.setText(entry.text);
    this.state = entry.outcome ?? "done";
    this.skill = entry.skill || this.skill;
    this.reason = entry.reason ?? this.reason;
    this.score = entry.score ?? this.score;
    this.citations = entry.citations ?? this.citations;
    this.attachments = entry.attachments ?? this.attachments;
    this.tools = entry.tools ?? this.tools.map(ended);
    this.problem = entry.problem ?? this.problem;
    this.finishReason = entry.finish_reason ?? this.finishReason;
    const { question } = entry;
    if (question) this.question = { ...question, options: question.options ?? [] };
  }

  /** Append the part of the text that is new; return false when text before it is missing. */
  append(position: number, text: string): boolean {
    if (position > this.length) return false;
    const fresh = Array.from(text).slice(this.length - position);
    this.text += fresh.join("");
    this.length += fresh.length;
    return true;
  }

  /** Remove the text from a position on. */
  truncate(position: number): void {
    if (position >= this.length) return;
    this.text = Array.from(this.text).slice(0, position).join("");
    this.length = position;
  }

  /** Apply an event; return false when text is missing. */
  apply(event: ConversationEvent): boolean {
    this.version += 1;
    switch (event.type) {
      case "message":
        this.#addMessage(event);
        this.at ??= event.at || null;
        return true;
      case "started":
        this.state = "running";
        if (event.attempt > 1) {
          this.truncate(event.position);
          this.queuePosition = null;
        }
        return true;
      case "queued":
        this.queuePosition = event.ahead;
        return true;
      case "routed":
        this.skill = event.skill;
        this.reason = event.reason;
        this.score = event.score;
        return true;
      case "text":
        if (this.state === "waiting") this.state = "running";
        this.queuePosition = null;
        return this.append(event.position, event.text);
      case "text_reset":
        this.truncate(event.position);
        return true;
      case "tool":
        this.#setTool(event);
        return true;
      case "citation":
        if (!this.citations.some(({ number }) => number === event.citation.number)) {
          this.citations = [...this.citations, event.citation];
        }
        return true;
      case "attachment":
        if (!this.attachments.some(({ url }) => url === event.attachment.url)) {
          this.attachments = [...this.attachments, event.attachment];
        }
        return true;
      case "question":
        this.question = { text: event.question, options: event.options };
        if (event.approval) this.question.approval = event.approval;
        return true;
      case "finished":
        this.state = event.outcome;
        this.taken = event.messages;
        this.queuePosition = null;
        this.problem = event.problem;
        this.usage = event.usage;
        this.finishReason = event.finish_reason ?? "stop";
        this.tools = this.tools.map(ended);
        return this.length === event.length;
      default:
        return true; // from a newer server
    }
  }

  #addMessage({ id, person, text, attachments = [] }: StoredMessage): void {
    if (this.messages.some((message) => message.id === id)) return;
    this.messages = [...this.messages, { id, person, text, attachments }];
  }

  #setTool({ call, name, arguments: given, state, result }: ToolUse): void {
    const isSame = (tool: ToolCall) =>
      call && tool.call ? tool.call === call : tool.name === name && tool.state === "started";
    const index = this.tools.findIndex(isSame);
    const tool = { ...(call ? { call } : {}), name, arguments: given, state, result };
    this.tools = index < 0 ? [...this.tools, tool] : this.tools.with(index, tool);
  }
}

/** Return a tool's use after the end of its turn: one that still ran may or may not have ended. */
function ended(tool: ToolCall): ToolCall {
  return tool.state === "started" ? { ...tool, state: "unknown" } : tool;
}

export function countCodePoints(text: string): number {
  return Array.from(text).length;
}
