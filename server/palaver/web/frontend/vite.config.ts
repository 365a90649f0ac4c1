import { resolve } from "node:path";

import { defineConfig } from "vite";

import { integrity } from "./build/integrity.ts";

const root = import.meta.dirname;

/** What the page and the widget have in common. */
export const shared = {
  resolve: { alias: { "palaver-client": resolve(root, "client/src/index.ts") } },
  build: {
    outDir: process.env["PALAVER_STATIC"] ?? resolve(root, "../static"),
    target: ["chrome123", "firefox121", "safari17.5"],
  },
};

export default defineConfig({
  ...shared,
  root: resolve(root, "page"),
  base: "/static/",
  build: {
    ...shared.build,
    emptyOutDir: true,
    assetsDir: "",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: "third-party-licenses.md" },
    rolldownOptions: {
      input: {
        page: resolve(root, "page/index.html"),
        share: resolve(root, "page/share.html"),
        "palaver-client": resolve(root, "client/src/index.ts"),
      },
      preserveEntrySignatures: "strict",
      output: {
        // Programs of others import the client by this name.
        entryFileNames: (chunk) => (chunk.name === "palaver-client" ? "palaver-client.js" : "[name]-[hash].js"),
      },
    },
  },
  plugins: [integrity()],
});
