/**
 * A client of Palaver's conversation protocol, without a user interface. See docs/protocol.md.
 *
 *     const palaver = new Palaver({ url: "http://127.0.0.1:7252" });
 *     const conversation = palaver.open("my-thread");
 *     conversation.addEventListener("change", () => console.log(conversation.state.turns));
 *     conversation.send("Hello");
 *
 * It reconnects by itself, delivers every character exactly once, and sends a message again until
 * the server has stored it. Positions count code points.
 */

export { Conversation, type Status } from "./conversation.ts";
export {
  type AttachedFile,
  type FileLimits,
  type StoredFile,
  type UploadOptions,
  attachedFiles,
  isStoredFile,
} from "./files.ts";
export type * from "./frames.ts";
export { newId } from "./ids.ts";
export { type SendOptions, type Storage, type UnsentMessage } from "./outbox.ts";
export {
  Palaver,
  type ConversationChange,
  type DataSummary,
  type Erasure,
  type Identity,
  type ListedConversation,
  type Options,
  type ServerInfo,
  type Share,
  type SharedConversation,
  type SkillInfo,
} from "./palaver.ts";
export { canRetry, isTemporary } from "./problems.ts";
export { type Feedback, type FeedbackReason, type Opinion, type Rating, Ratings } from "./ratings.ts";
export { RequestError } from "./request_error.ts";
export { ConversationState } from "./state.ts";
export { type Token, type TokenProvider, TokenRefused } from "./tokens.ts";
export { Turn, type Citation, type ToolCall, type TurnState } from "./turn.ts";
