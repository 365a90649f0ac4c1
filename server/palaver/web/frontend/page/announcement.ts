/** What screen readers read now. */

import { Signal } from "./signal";

/** Shown by an element with the role `status`. */
export const announcement = new Signal("");

/** Let screen readers read a text; an empty one between makes them read the same text again. */
export function announce(text: string): void {
  announcement.value = text;
}
