/** Messages that could not be sent from conversations which are not shown: they are sent from here. */

import type { UnsentMessage } from "palaver-client";

import { palaver } from "./client";
import { local, readJson } from "./storage";

const PREFIX = "palaver.unsent."; // of palaver-client
let isSending = false;

/** Send what waits in all conversations, one after the other. */
export async function sendUnsent(): Promise<void> {
  if (isSending) return;
  isSending = true;
  for (const thread of waitingThreads()) await sendFrom(thread);
  isSending = false;
}

function waitingThreads(): string[] {
  const keys = local.keys().filter((key) => key.startsWith(PREFIX));
  const waiting = keys.filter((key) => readJson<UnsentMessage[]>(key, []).some(({ problem }) => !problem));
  return waiting.map((key) => key.slice(PREFIX.length));
}

/** Keep a conversation open until its messages are stored or refused, or another key is used. */
function sendFrom(thread: string): Promise<void> {
  const conversation = palaver.value.open(thread);
  return new Promise((resolve) => {
    const end = () => {
      for (const name of ["change", "status"]) conversation.removeEventListener(name, check);
      unsubscribe();
      conversation.close();
      resolve();
    };
    const check = () => {
      const isRefused = conversation.status === "refused";
      if (isRefused || conversation.unsent.every(({ problem }) => problem)) end();
    };
    const unsubscribe = palaver.subscribe(end);
    for (const name of ["change", "status"]) conversation.addEventListener(name, check);
  });
}
