/**
 * A vite plugin of the last build: records in `build.json` from which sources which files were made.
 * tests/server/web/test_frontend.py reads it.
 */

import { createHash } from "node:crypto";
import { readdirSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";

import type { Plugin } from "vite";

import { digest } from "./digest.ts";

const RECORD = "build.json";
/** What is no source: installed, made, or tests. */
const SKIPPED = new Set(["node_modules", "dist", "test"]);

export function record(root: string): Plugin {
  let folder = "";
  return {
    name: "palaver-record",
    configResolved(config) {
      folder = config.build.outDir;
    },
    closeBundle() {
      const files = readdirSync(folder).filter((name) => name !== RECORD).sort();
      const built = Object.fromEntries(files.map((name) => [name, digest(join(folder, name))]));
      const content = { sources: hashSources(root), files: built };
      writeFileSync(join(folder, RECORD), `${JSON.stringify(content, null, 2)}\n`);
    },
  };
}

/** Return one hash of all sources: their paths and contents, in order. */
function hashSources(root: string): string {
  const hash = createHash("sha256");
  for (const path of sources(root).sort()) {
    hash.update(`${path}\0`).update(digest(join(root, path))).update("\n");
  }
  return hash.digest("hex");
}

function sources(root: string, folder = root): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return SKIPPED.has(entry.name) ? [] : sources(root, path);
    return [relative(root, path)];
  });
}
