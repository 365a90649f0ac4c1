/** What to tell a person about a request that did not work. */

import { RequestError } from "palaver-client";

import { t } from "./strings";

/** Return the server's own sentence, or a general one where it has said nothing. */
export function problemText(error: unknown): string {
  return (error instanceof RequestError && error.problem?.message) || t.requestFailed;
}
