/** A vite plugin: puts the hash of each first file into the pages (subresource integrity). */

import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import type { Plugin } from "vite";

import { digest } from "./digest.ts";

export function integrity(): Plugin {
  let folder = "";
  return {
    name: "palaver-integrity",
    configResolved(config) {
      folder = config.build.outDir;
    },
    closeBundle() {
      addIntegrity(folder);
    },
  };
}

/** Add the hash of each script and style of the pages to its element. */
function addIntegrity(folder: string): void {
  for (const name of readdirSync(folder)) if (name.endsWith(".html")) addIntegrityTo(folder, name);
}

function addIntegrityTo(folder: string, name: string): void {
  const page = join(folder, name);
  const html = readFileSync(page, "utf8");
  const element = /<(?:script|link rel="(?:stylesheet|modulepreload)")[^>]*?(?:src|href)="\/static\/([^"]+)"/g;
  const secured = html.replace(
    element,
    (tag, name: string) => `${tag} integrity="sha384-${digest(join(folder, name), "sha384", "base64")}"`,
  );
  writeFileSync(page, secured);
}
