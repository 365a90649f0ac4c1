/** The address of the page: `/c/{id}` is a conversation. */

import { newId } from "palaver-client";

import { Signal } from "./signal";

const PATH = /^\/c\/([^/]+)$/;

/** The id of the conversation that the page shows. */
export const thread = new Signal(threadOfAddress());

window.addEventListener("popstate", () => (thread.value = threadOfAddress()));

/** Return the id in the address; any other address becomes that of a new conversation. */
function threadOfAddress(): string {
  const match = PATH.exec(location.pathname);
  try {
    if (match?.[1]) return decodeURIComponent(match[1]);
  } catch {
    // not a valid address: begin a new conversation
  }
  const id = newId();
  history.replaceState(null, "", pathOf(id));
  return id;
}

export function pathOf(id: string): string {
  return `/c/${encodeURIComponent(id)}`;
}

export function show(id: string): void {
  if (id === thread.value) return;
  history.pushState(null, "", pathOf(id));
  thread.value = id;
}
