import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

/** Return the hash of a file. */
export function digest(path: string, algorithm = "sha256", encoding: "hex" | "base64" = "hex"): string {
  return createHash(algorithm).update(readFileSync(path)).digest(encoding);
}
