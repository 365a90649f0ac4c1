import { resolve } from "node:path";

import { defineConfig } from "vite";

import { leftOut } from "./build/left_out.ts";
import { record } from "./build/record.ts";
import { shadowCss } from "./build/shadow_css.ts";
import { usedStrings } from "./build/used_strings.ts";
import { shared } from "./vite.config.ts";

const root = import.meta.dirname;
const entry = resolve(root, "widget/main.ts");

/** Parts of markdown-it for HTML, typography, and addresses without `://`. A rule that does nothing does not match. */
const UNUSED = [
  "lib/renderer.mjs",
  "rules_block/html_block.mjs",
  "rules_inline/html_inline.mjs",
  "rules_core/linkify.mjs",
  "rules_core/smartquotes.mjs",
  "rules_core/replacements.mjs",
];
/** Packages of markdown-it, and the small modules that stand for them. */
const REPLACED = {
  entities: resolve(root, "widget/libraries/entities.ts"),
  "linkify-it": resolve(root, "widget/libraries/linkify.ts"),
  mdurl: resolve(root, "widget/libraries/mdurl.ts"),
  "punycode.js": resolve(root, "widget/libraries/punycode.ts"),
  "uc.micro": resolve(root, "widget/libraries/unicode.ts"),
};

/** The widget: one classic script that any page can load. It comes after the page, into the same folder. */
export default defineConfig({
  root: resolve(root, "widget"),
  resolve: { alias: { ...shared.resolve.alias, ...REPLACED } },
  build: {
    ...shared.build,
    emptyOutDir: false,
    lib: { entry, formats: ["iife"], name: "palaverWidget", fileName: () => "widget.js" },
  },
  plugins: [leftOut(UNUSED), shadowCss(".widget"), usedStrings(entry), record(root)],
});
