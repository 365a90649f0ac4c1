/**
 * A vite plugin: adapts the style sheets of the page to a shadow tree, where `:root` is another document's
 * and a `rem` is what its author wants.
 */

import type { Plugin } from "vite";

export function shadowCss(root: string): Plugin {
  return {
    name: "palaver-shadow-css",
    enforce: "pre",
    transform(code, id) {
      return /\.css(?:\?|$)/.test(id) ? adapt(code, root) : null;
    },
  };
}

/** Return the style sheet for a tree whose outermost element is `root`. */
function adapt(css: string, root: string): string {
  return css
    .split("\n")
    .map((line) => (line.startsWith("@media") ? line : line.replaceAll(/(-?[\d.]+)rem\b/g, "calc($1 * var(--rem))")))
    .join("\n")
    .replaceAll(":root", root);
}
