/** What is loaded when a reply needs it, where the program has it: large libraries, rare forms. */

import type { Root } from "hast";
import type { ComponentType, RefObject } from "preact";

/** Returns coloured source, or null for an unknown language. */
export type Highlight = (language: string, source: string) => Root | null;

export type FeedbackFormModule = typeof import("./feedback_form");

export interface CodeToolsProperties {
  source: string;
  language: string;
  /** The element that shows the code. */
  place: RefObject<HTMLElement | null>;
}

interface Extras {
  /** Without it, code has no colours. */
  loadHighlighter: (() => Promise<Highlight>) | null;
  /** Without it, formulas are shown as they were written. */
  loadKatex: (() => Promise<typeof import("katex").default>) | null;
  /** Without it, a thumb down asks for no reason. */
  loadFeedbackForm: (() => Promise<FeedbackFormModule>) | null;
  /** Without it, code can only be copied. */
  CodeTools: ComponentType<CodeToolsProperties> | null;
  /** Names the day of a moment, in s since 1970. Without it, days are not set apart. */
  formatDay: ((seconds: number) => string) | null;
}

export const extras: Extras = {
  loadHighlighter: null,
  loadKatex: null,
  loadFeedbackForm: null,
  CodeTools: null,
  formatDay: null,
};
