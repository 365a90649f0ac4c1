/** Saving what the server sends as a file. */

/** Let the browser save a content under a name. */
export function save(content: Blob, name: string): void {
  const url = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}

/** Return a title as the name of a file, without what file systems do not take. */
export function fileName(title: string, extension: string): string {
  const name = Array.from(title.replaceAll(/[^\p{L}\p{M}\p{N} _-]/gu, "").trim()).slice(0, 80).join("");
  return `${name || "conversation"}.${extension}`;
}
