/** A vite plugin: replaces parts of libraries that a program never calls by a function that does nothing. */

import type { Plugin } from "vite";

const NOTHING = "\0palaver-nothing";
/** Plugins of markdown-it add their rules to the renderer. */
const CODE = "export default function () { if (new.target) this.rules = {}; }";

/** `parts`: how the files of the parts end. */
export function leftOut(parts: string[]): Plugin {
  return {
    name: "palaver-left-out",
    enforce: "pre",
    async resolveId(name, importer) {
      if (name === NOTHING) return NOTHING;
      const resolved = importer ? await this.resolve(name, importer, { skipSelf: true }) : null;
      return resolved && parts.some((part) => resolved.id.endsWith(part)) ? NOTHING : null;
    },
    load(id) {
      return id === NOTHING ? CODE : null;
    },
  };
}
