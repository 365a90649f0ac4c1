/** A person's message; a long one is collapsed. */

import { useState } from "preact/hooks";

import { t } from "./strings";

const MAX_LINES = 15;
const MAX_CHARACTERS = 1_200;

export function Bubble({ text, isUnsent = false }: { text: string; isUnsent?: boolean }) {
  const [isOpen, setOpen] = useState(false);
  const short = shorten(text);
  const isLong = short.length < text.length;
  return (
    <div class="message-box">
      <div class={isUnsent ? "message unsent" : "message"} dir="auto">
        {isLong && !isOpen ? `${short}…` : text}
      </div>
      {isLong && (
        <button type="button" class="more" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
          {isOpen ? t.showLess : t.showMore}
        </button>
      )}
    </div>
  );
}

/** Return the beginning of a text that is too long to be shown as a whole. */
function shorten(text: string): string {
  const lines = text.split("\n", MAX_LINES + 1);
  const short = lines.length > MAX_LINES ? lines.slice(0, MAX_LINES).join("\n") : text;
  if (short.length <= MAX_CHARACTERS) return short;
  const end = MAX_CHARACTERS - 200;
  return Array.from(short.slice(0, end)).slice(0, -1).join(""); // never half of a character
}
