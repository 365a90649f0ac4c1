/**
 * A vite plugin: leaves out the strings of the languages that no module of a program names. They are
 * properties of objects, which no minifier dares to remove.
 */

import { readFileSync, existsSync } from "node:fs";
import { dirname, resolve } from "node:path";

import type { Plugin } from "vite";

const STRINGS = /\/strings\/\w+\.ts$/;
const IMPORT = /\bfrom "(\.[^"]+)"/g;
const USE = /\bt\.(\w+)/g;

/** `entry`: the first module of the program. */
export function usedStrings(entry: string): Plugin {
  const used = new Set<string>();
  return {
    name: "palaver-used-strings",
    enforce: "post",
    buildStart() {
      for (const source of readModules(entry)) for (const match of source.matchAll(USE)) used.add(match[1] ?? "");
    },
    transform(code, id) {
      if (!STRINGS.test(id)) return null;
      const unused = findProperties(this.parse(code)).filter(({ key }) => !used.has(key.name));
      let kept = code;
      for (const { start, end } of unused.toReversed()) {
        kept = kept.slice(0, start) + kept.slice(end).replace(/^\s*,/, "");
      }
      return { code: kept, map: null };
    },
  };
}

interface Property {
  type: string;
  key: { name: string };
  start: number;
  end: number;
}

/** Return the properties of the objects that a module of strings declares. */
function findProperties(program: { body: unknown[] }): Property[] {
  type Declaration = { init?: { type: string; properties: Property[] } };
  type Statement = { declarations?: Declaration[]; declaration?: { declarations?: Declaration[] } };
  return (program.body as Statement[])
    .flatMap(({ declarations, declaration }) => declarations ?? declaration?.declarations ?? [])
    .flatMap(({ init }) => (init?.type === "ObjectExpression" ? init.properties : []));
}

/** Return the sources of a module and of all that it imports here, the strings excepted. */
function readModules(path: string, known = new Set<string>()): string[] {
  if (known.has(path) || STRINGS.test(path)) return [];
  known.add(path);
  const source = readFileSync(path, "utf8");
  const imported = [...source.matchAll(IMPORT)].map(([, name = ""]) => resolve(dirname(path), name));
  const paths = imported.flatMap((name) => [name, `${name}.ts`, `${name}.tsx`].filter(isModule));
  return [source, ...paths.flatMap((other) => readModules(other, known))];
}

function isModule(path: string): boolean {
  return /\.tsx?$/.test(path) && existsSync(path);
}
