/** Syntax highlighting, loaded with the first block of code. */

import type { Root } from "hast";
import { common, createLowlight } from "lowlight";

const lowlight = createLowlight(common);

/** Return the coloured source, or null for an unknown language. */
export function highlight(language: string, source: string): Root | null {
  const name = language.toLowerCase();
  return lowlight.registered(name) ? lowlight.highlight(name, source) : null;
}
