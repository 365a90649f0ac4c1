/** The frames that the server sends. A newer server may send more of them, and more fields. */

export type Outcome = "done" | "asked" | "stopped" | "failed";

export interface Problem {
  code: string;
  message: string;
}

export interface Citation {
  number: number;
  document: string;
  title: string;
  section: string;
  passage: string;
}

export interface Attachment {
  name: string;
  media_type: string;
  url: string;
  /** Bytes, where they are known. */
  size?: number;
}

export interface HistoryEntry {
  role: "user" | "assistant";
  text: string;
  turn: string;
  at: number;
  person?: string;
  skill?: string;
  outcome?: Outcome | null;
  citations?: Citation[];
  attachments?: Attachment[];
  /** Why the skill was chosen, and how sure that was. */
  reason?: string;
  score?: number;
  tools?: ToolUse[];
  question?: { text: string; options?: string[]; approval?: Approval };
  problem?: Problem;
  finish_reason?: FinishReason;
}

/** A tool that a reply has used; long arguments and results are cut. */
export interface ToolUse {
  /** Identifies the call in its events; the history has none. */
  call?: string;
  name: string;
  arguments?: unknown;
  state: ToolState;
  result?: unknown;
}

/** `denied`: the person did not approve the call. */
export type ToolState = "started" | "done" | "failed" | "unknown" | "denied";

/** The call of a tool that waits for the person's approval: `SendOptions.answers` names its id. */
export interface Approval {
  id: string;
  tool: string;
  description: string;
  arguments: Record<string, unknown>;
  /** All arguments as a person sees them: JSON of several lines, with what is invisible escaped. */
  shown_arguments: string;
  /** A hash of the tool's definition. */
  definition: string;
  /** In s since 1970. */
  expires_at: number;
}

/** `length`: the limit of tokens has cut the reply. */
export type FinishReason = "stop" | "length";

export interface StoredMessage {
  id: string;
  person: string;
  text: string;
  attachments?: Attachment[];
}

export interface PendingTurn {
  turn: string;
  messages: StoredMessage[];
  running: boolean;
  reply: string;
  skill?: string;
  /** When the first message was accepted, in s since 1970. */
  at?: number;
  /** Of a running turn: those that tell what is not in the reply. */
  events?: ConversationEvent[];
}

export interface Snapshot {
  history: HistoryEntry[];
  pending: PendingTurn[];
  earlier?: string;
  /** Groups of turns that follow the same turn, each by age. */
  alternatives?: string[][];
}

export interface Welcome {
  type: "welcome";
  recovered: boolean;
  cursor: string;
  person: string;
  max_message_bytes: number;
  snapshot?: Snapshot;
}

export interface Reset {
  type: "reset";
  cursor: string;
  snapshot: Snapshot;
}

export interface Ack {
  type: "ack";
  id: string;
  turn: string;
  ahead: number;
  duplicate: boolean;
  joined: boolean;
}

export interface Refusal {
  type: "error";
  code: string;
  message: string;
  id?: string;
  retry_after?: number;
}

interface TurnEvent<Type extends string> {
  type: Type;
  turn: string;
  /** Present on stored events only. */
  cursor?: string;
}

export interface MessageEvent extends TurnEvent<"message">, StoredMessage {
  ahead: number;
  moved?: boolean;
  /** When it was accepted, in s since 1970; 0: not known. */
  at?: number;
}

export interface StartedEvent extends TurnEvent<"started"> {
  attempt: number;
  position: number;
}

export interface QueuedEvent extends TurnEvent<"queued"> {
  ahead: number;
}

export interface RoutedEvent extends TurnEvent<"routed"> {
  skill: string;
  reason: string;
  score: number | null;
}

export interface TextEvent extends TurnEvent<"text"> {
  position: number;
  text: string;
}

export interface TextResetEvent extends TurnEvent<"text_reset"> {
  position: number;
}

export interface ToolEvent extends TurnEvent<"tool">, ToolUse {}

export interface CitationEvent extends TurnEvent<"citation"> {
  citation: Citation;
}

export interface AttachmentEvent extends TurnEvent<"attachment"> {
  attachment: Attachment;
}

export interface QuestionEvent extends TurnEvent<"question"> {
  question: string;
  approval?: Approval;
  options: string[];
}

export interface FinishedEvent extends TurnEvent<"finished"> {
  outcome: Outcome;
  length: number;
  /** Ids of the messages that the turn has answered. */
  messages: string[];
  usage: Record<string, unknown> | null;
  problem: Problem | null;
  finish_reason: FinishReason;
}

export type ConversationEvent =
  | MessageEvent
  | StartedEvent
  | QueuedEvent
  | RoutedEvent
  | TextEvent
  | TextResetEvent
  | ToolEvent
  | CitationEvent
  | AttachmentEvent
  | QuestionEvent
  | FinishedEvent;

export type ServerFrame =
  | Welcome
  | Reset
  | Ack
  | Refusal
  | { type: "selected"; turn: string }
  | { type: "stopped"; turn: string; state: "stopping" | "settled" | "unknown" }
  | { type: "refreshed" }
  | { type: "pong" }
  | ConversationEvent;

/** Return the epoch and the offset of a cursor. */
export function splitCursor(cursor: string): [epoch: string, offset: number] {
  const colon = cursor.lastIndexOf(":");
  return [cursor.slice(0, colon), Number(cursor.slice(colon + 1))];
}
