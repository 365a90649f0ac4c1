/** Reading replies aloud with the browser's own voices. */

import { plainParagraphs } from "./markdown";
import { Signal } from "./signal";

/** The id of the turn that is read aloud. */
export const spoken = new Signal<string | null>(null);

export const canSpeak = "speechSynthesis" in window;

/** Read a reply aloud; another one stops. Long utterances are cut by some browsers: one a paragraph. */
export function speak(id: string, text: string): void {
  stopSpeaking();
  const utterances = plainParagraphs(text).map((paragraph) => new SpeechSynthesisUtterance(paragraph));
  const last = utterances.at(-1);
  if (!last) return;
  last.onend = () => {
    if (spoken.value === id) spoken.value = null;
  };
  spoken.value = id;
  for (const utterance of utterances) speechSynthesis.speak(utterance);
}

export function stopSpeaking(): void {
  spoken.value = null;
  speechSynthesis.cancel();
}
