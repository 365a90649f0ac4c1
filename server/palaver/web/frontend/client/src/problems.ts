/** Which problems another attempt can help with. The codes are those of docs/protocol.md. */

/** The message is refused for a while: it is sent again by itself. */
const TEMPORARY = new Set(["overloaded", "ledger_unavailable", "files_unavailable", "engine_unavailable"]);

/** The same message is refused, or fails, for the same reason again. */
const PERMANENT = new Set([
  "invalid_input", "bad_request", "unauthenticated", "forbidden", "not_found", "conflict",
  "too_large", "prompt_too_long", "limit_exceeded", "unsupported", "configuration", "engine_died",
  "max_attempts_exceeded", "outcome_unknown",
]);

/** Return true when the client sends the message again by itself. */
export function isTemporary(code: string): boolean {
  return TEMPORARY.has(code);
}

/** Return true when a person may try the same message again with hope. */
export function canRetry(code: string | undefined): boolean {
  return !PERMANENT.has(code ?? "");
}
