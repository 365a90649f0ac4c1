import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";

import { defineConfig } from "vite";

import { digest } from "./build/digest.ts";
import { shared } from "./vite.config.ts";

const root = import.meta.dirname;
const { outDir } = shared.build;

const HASHED = /-[\w-]{8}\.(?:js|css)$/;
const OTHERS = /^share-/; // only the page of a share loads them
const LAZY = /^(?:highlighter|katex)-/;
const UNHASHED = ["icon.svg", "manifest.webmanifest"];

/** What the service worker knows of the build of the page, which comes before it. */
function describeBuild() {
  const html = readFileSync(join(outDir, "index.html"), "utf8");
  const names = readdirSync(outDir).filter((name) => HASHED.test(name) && !OTHERS.test(name));
  const isLazy = (name: string) => LAZY.test(name);
  const paths = (of: string[]) => of.sort().map((name) => `/static/${name}`);
  const hash = createHash("sha256").update(html).update(names.sort().join());
  for (const name of UNHASHED) hash.update(digest(join(outDir, name)));
  return {
    version: hash.digest("hex").slice(0, 16),
    entry: /<script type="module"[^>]* src="([^"]+)"/.exec(html)?.[1],
    shell: paths([...names.filter((name) => !isLazy(name)), ...UNHASHED]),
    lazy: paths(names.filter(isLazy)),
  };
}

/** The service worker of the page: one classic script. */
export default defineConfig({
  root: resolve(root, "worker"),
  define: { BUILD: JSON.stringify(describeBuild()) },
  build: {
    ...shared.build,
    emptyOutDir: false,
    lib: {
      entry: resolve(root, "worker/service_worker.ts"),
      formats: ["iife"],
      name: "palaverServiceWorker",
      fileName: () => "service-worker.js",
    },
  },
});
