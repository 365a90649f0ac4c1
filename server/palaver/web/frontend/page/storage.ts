/** The browser's storages, which also work where the browser forbids them. */

import type { Storage } from "palaver-client";

interface KeyedStorage extends Storage {
  keys(): string[];
}

/** Return a storage that falls back to memory when the real one is full or forbidden. */
function withFallback(storage: () => Storage): KeyedStorage {
  const memory = new Map<string, string>();
  const attempt = <Result,>(use: (storage: Storage) => Result): Result | undefined => {
    try {
      return use(storage());
    } catch {
      return undefined;
    }
  };
  return {
    getItem: (key) => memory.get(key) ?? attempt((real) => real.getItem(key)) ?? null,
    setItem(key, value) {
      const isStored = attempt((real) => (real.setItem(key, value), true));
      if (isStored) memory.delete(key); // other tabs change the real one
      else memory.set(key, value);
    },
    removeItem(key) {
      memory.delete(key);
      attempt((real) => real.removeItem(key));
    },
    keys: () => [...new Set([...memory.keys(), ...(attempt((real) => Object.keys(real)) ?? [])])],
  };
}

export const local = withFallback(() => window.localStorage);
export const session = withFallback(() => window.sessionStorage);

/** Forget what the local storage has under the keys that are `wanted`. */
export function forgetKeys(wanted: (key: string) => boolean): void {
  for (const key of local.keys().filter(wanted)) local.removeItem(key);
}

/** Return the JSON value under a key of the local storage, or `otherwise`. */
export function readJson<Value>(key: string, otherwise: Value): Value {
  try {
    return (JSON.parse(local.getItem(key) ?? "null") as Value | null) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function writeJson(key: string, value: unknown): void {
  local.setItem(key, JSON.stringify(value));
}
