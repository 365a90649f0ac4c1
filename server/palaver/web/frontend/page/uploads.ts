/** Files that a person adds to a message: uploaded at once, sent with the message. */

import type { FileLimits, Palaver, StoredFile } from "palaver-client";
import { useEffect, useReducer, useRef } from "preact/hooks";

import { problemText } from "./problem_text";
import { t } from "./strings";

const SHOWN_IMAGE = /^image\/(png|jpeg|gif|webp)$/;

/** A file on its way to the server, or there. */
export interface Upload {
  readonly key: number;
  readonly content: File;
  /** The address of an image within the page; empty for other files. */
  readonly preview: string;
  /** Share of the bytes that are sent, 0 to 1. */
  progress: number;
  file: StoredFile | null;
  problem: string;
}

export interface Uploads {
  items: readonly Upload[];
  /** Nothing is on its way or has failed. */
  areComplete: boolean;
  add: (files: Iterable<File>) => void;
  remove: (upload: Upload) => void;
  retry: (upload: Upload) => void;
  /** Return the uploaded files and begin anew. */
  take: () => StoredFile[];
}

/** Return the files of a message that is being written; null where nobody may upload. */
export function useUploads(palaver: Palaver, limits: FileLimits | null | undefined): Uploads | null {
  const [, render] = useReducer((version: number) => version + 1, 0);
  const queue = useRef<UploadQueue | null>(null);
  queue.current ??= new UploadQueue(() => render(0));
  useEffect(() => () => queue.current?.clear(), []);
  if (!limits) return null;
  queue.current.palaver = palaver;
  queue.current.limits = limits;
  return queue.current;
}

class UploadQueue implements Uploads {
  palaver!: Palaver;
  limits!: FileLimits;
  items: Upload[] = [];
  #lastKey = 0;
  #last = Promise.resolve();
  readonly #aborts = new Map<Upload, AbortController>();
  readonly #changed: () => void;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  get areComplete(): boolean {
    return this.items.every(({ file }) => file !== null);
  }

  add = (files: Iterable<File>): void => {
    for (const content of files) {
      const preview = SHOWN_IMAGE.test(content.type) ? URL.createObjectURL(content) : "";
      const upload: Upload = { key: ++this.#lastKey, content, preview, progress: 0, file: null, problem: "" };
      this.items = [...this.items, upload];
      this.#enqueue(upload);
    }
    this.#changed();
  };

  remove = (upload: Upload): void => {
    this.#forget(upload);
    if (upload.file) void this.palaver.deleteFile(upload.file.id).catch(() => {}); // it expires as well
    this.items = this.items.filter((other) => other !== upload);
    this.#changed();
  };

  retry = (upload: Upload): void => {
    upload.problem = "";
    this.#enqueue(upload);
    this.#changed();
  };

  take = (): StoredFile[] => {
    const files = this.items.flatMap(({ file }) => file ?? []);
    this.clear();
    this.#changed();
    return files;
  };

  /** Forget all files; what is on its way is aborted. */
  clear(): void {
    for (const upload of this.items) this.#forget(upload);
    this.items = [];
  }

  #forget(upload: Upload): void {
    this.#aborts.get(upload)?.abort();
    if (upload.preview) URL.revokeObjectURL(upload.preview);
  }

  /** Upload a file after those before it: a server takes few from one person at once. */
  #enqueue(upload: Upload): void {
    upload.problem = this.#refusal(upload);
    this.#last = this.#last.then(() => this.#send(upload));
  }

  async #send(upload: Upload): Promise<void> {
    if (upload.problem || !this.items.includes(upload)) return;
    const abort = new AbortController();
    this.#aborts.set(upload, abort);
    const onProgress = (sent: number, total: number) => {
      upload.progress = total ? sent / total : 0;
      this.#changed();
    };
    try {
      upload.file = await this.palaver.upload(upload.content, { signal: abort.signal, onProgress });
    } catch (error) {
      if (abort.signal.aborted) return;
      upload.problem = problemText(error);
    } finally {
      this.#aborts.delete(upload);
    }
    this.#changed();
  }

  /** Return why the server would refuse a file; empty when it may take it. */
  #refusal({ content }: Upload): string {
    const { max_file_bytes: size, per_message: count } = this.limits;
    if (content.size > size) return t.files.tooLarge(formatSize(size));
    return this.items.length > count ? t.files.tooMany(count) : "";
  }
}

/** Return a size in bytes as people read it. */
export function formatSize(bytes: number): string {
  const { lang } = document.documentElement;
  for (const [unit, size] of [["megabyte", 1e6], ["kilobyte", 1e3]] as const) {
    if (bytes < size) continue;
    const options = { style: "unit", unit, maximumFractionDigits: bytes < 10 * size ? 1 : 0 } as const;
    return new Intl.NumberFormat(lang, options).format(bytes / size);
  }
  return new Intl.NumberFormat(lang, { style: "unit", unit: "byte" }).format(bytes);
}
