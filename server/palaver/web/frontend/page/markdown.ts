/** Markdown to blocks of tokens. A growing text is parsed again from its last block on only. */

import MarkdownIt from "markdown-it";
import type Token from "markdown-it/lib/token.mjs";
import { tasklist } from "@mdit/plugin-tasklist";
import { tex } from "@mdit/plugin-tex";

export type { Token };

const SAFE_LINK = /^(https?:\/\/|mailto:)/i;

const MAX_NESTING = 100; // of markdown-it
const parser = new MarkdownIt({ html: false, linkify: true });
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
parser.validateLink = (url) => SAFE_LINK.test(url);
parser.use(tasklist, { label: false });
parser.use(tex, { delimiters: "all", render: (content) => content });
/** Knows paragraphs only. */
const plainParser = new MarkdownIt("zero");

/** Return the tokens of a text. The parser leaves out what is nested too deeply: then all is plain. */
function tokenize(text: string): Token[] {
  const tokens = parser.parse(text, {});
  const isCut = tokens.some(({ level }) => level >= MAX_NESTING - 1);
  return isCut ? plainParser.parse(text, {}) : tokens;
}

/** A top-level block, with its source to recognise it by. */
export interface Block {
  source: string;
  tokens: Token[];
  /** Level of the last heading up to here. */
  level: number;
}

const FIRST_LEVEL = 3; // the page itself uses the first two levels of headings

/** The blocks of a text that may grow. */
export class MarkdownText {
  #text = "";
  #blocks: Block[] = [];
  /** Where the last block begins: what comes before it cannot change when text is appended. */
  #tail = 0;

  /** Return the blocks. `isComplete`: no more text comes, so parse it as a whole. */
  blocks(text: string, isComplete: boolean): Block[] {
    if (text === this.#text && !isComplete) return this.#blocks;
    const canContinue = !isComplete && text.startsWith(this.#text);
    const start = canContinue ? this.#tail : 0;
    const kept = canContinue ? this.#blocks.slice(0, -1) : [];
    const fresh = parse(text.slice(start), kept.at(-1)?.level ?? FIRST_LEVEL - 1);
    this.#text = text;
    this.#blocks = [...kept, ...fresh.blocks];
    this.#tail = start + fresh.tail;
    return this.#blocks;
  }
}

/** Parse a text that comes after a heading of `level`. `tail`: where its last block begins. */
function parse(text: string, level: number): { blocks: Block[]; tail: number } {
  const tokens = tokenize(text);
  const starts = lineStarts(text);
  const blocks: Block[] = [];
  let first = 0;
  let tail = 0;
  tokens.forEach((token, index) => {
    if (token.level !== 0 || token.nesting === 1) return;
    const [from = 0, to = from] = tokens[first]?.map ?? [];
    tail = starts[from] ?? 0;
    const source = text.slice(tail, starts[to] ?? text.length);
    if (token.type === "heading_close") level = setLevel(tokens[first], level);
    blocks.push({ source, tokens: tokens.slice(first, index + 1), level });
    first = index + 1;
  });
  return { blocks, tail };
}

/** Return the text that can be read aloud, by paragraph: without code, formulas and thoughts. */
export function plainParagraphs(text: string): string[] {
  const said = splitThoughts(text).filter((part) => part.kind === "text");
  const tokens = said.flatMap((part) => tokenize(part.text));
  const inline = tokens.filter((token) => token.type === "inline");
  const paragraphs = inline.map(({ children }) => (children ?? []).map(readableText).join(""));
  return paragraphs.map((paragraph) => paragraph.trim()).filter(Boolean);
}

function readableText({ type, content }: Token): string {
  if (type === "softbreak" || type === "hardbreak") return " ";
  return type === "text" || type === "code_inline" ? content.replaceAll(/\s?\[\d{1,3}\]/g, "") : "";
}

/** Give a heading a level at most one below that of the heading before it; return the level. */
function setLevel(heading: Token | undefined, before: number): number {
  if (!heading) return before;
  const level = Math.min(Number(heading.tag.slice(1)) + FIRST_LEVEL - 1, before + 1, 6);
  heading.tag = `h${level}`;
  return level;
}

/** Return the position of each line, as markdown-it counts lines. */
function lineStarts(text: string): number[] {
  const starts = [0];
  for (const match of text.matchAll(/\r\n?|\n/g)) starts.push(match.index + match[0].length);
  return starts;
}

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const OPENING = /^\s*<(think|thinking|reasoning)>/i;
const CLOSING = /<\/(?:think|thinking|reasoning)>/i;

/** A part of a reply: what the model has thought, or what it says. */
export interface Part {
  kind: "thought" | "text";
  text: string;
  isOpen: boolean;
}

/**
 * Split a reply into thoughts and text. A thought begins at the beginning of a line outside code;
 * some models write only its end.
 */
export function splitThoughts(text: string): Part[] {
  const parts: Part[] = [];
  let rest = text;
  while (rest) {
    const begin = findThought(rest);
    if (!begin) break;
    if (begin.start) parts.push({ kind: "text", text: rest.slice(0, begin.start), isOpen: false });
    const end = CLOSING.exec(rest.slice(begin.content));
    const stop = end ? begin.content + end.index : rest.length;
    parts.push({ kind: "thought", text: rest.slice(begin.content, stop).trim(), isOpen: !end });
    rest = end ? rest.slice(stop + end[0].length) : "";
  }
  if (rest) parts.push({ kind: "text", text: rest, isOpen: true });
  return parts.filter((part) => part.isOpen || part.text.trim());
}

function findThought(text: string): { start: number; content: number } | null {
  let fence = "";
  let at = 0;
  for (const line of text.split("\n")) {
    const mark = FENCE.exec(line)?.[1] ?? "";
    if (!fence && mark) fence = mark;
    else if (fence && mark.startsWith(fence) && !line.trim().slice(mark.length)) fence = "";
    else if (!fence) {
      const opening = OPENING.exec(line);
      if (opening) return { start: at, content: at + opening[0].length };
      if (/^\s*<\/think>/i.test(line)) return { start: 0, content: 0 };
    }
    at += line.length + 1;
  }
  return null;
}
