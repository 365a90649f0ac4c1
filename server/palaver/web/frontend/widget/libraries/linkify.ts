/**
 * In place of the package `linkify-it`, which is as large as the whole chat: finds addresses that begin with
 * `http://` or `https://`. markdown-it asks where it sees `://`.
 */

const ADDRESS = /^https?:\/\/[^\s<>"`|｜]+/i;
/** At the end of an address, these belong to the sentence around it. */
const PUNCTUATION = new Set(".,;:!?'*_~。，；：！？、");
const CLOSING: Record<string, string> = { ")": "(", "]": "[", "}": "{", "）": "（", "」": "「" };

export default class Linkify {
  set(): void {
    // Nothing can be set: an address always has its scheme.
  }

  matchAtStart(text: string): { url: string } | null {
    const found = ADDRESS.exec(text)?.[0];
    return found ? { url: withoutPunctuation(found) } : null;
  }
}

function withoutPunctuation(address: string): string {
  const brackets = Object.entries(CLOSING);
  const surplus = new Map(brackets.map(([close, open]) => [close, count(address, close) - count(address, open)]));
  let end = address.length;
  for (; end; end -= 1) {
    const last = address[end - 1] ?? "";
    const unopened = surplus.get(last) ?? 0;
    if (!PUNCTUATION.has(last) && unopened <= 0) break;
    if (unopened > 0) surplus.set(last, unopened - 1);
  }
  return address.slice(0, end);
}

function count(text: string, character: string): number {
  return text.split(character).length - 1;
}
