import type { Attachment } from "./frames.ts";
import { RequestError, problemOf } from "./request_error.ts";

const FILE_PATH = "/v1/files/";

/** A file that the person has uploaded. */
export interface StoredFile {
  id: string;
  /** The name as the server has cleaned it. */
  name: string;
  /** By the content, whatever the name says. */
  media_type: string;
  size: number;
  sha256: string;
  /** s since 1970. */
  created_at: number;
  /** When it is deleted unless it is sent; null: it was sent. */
  expires_at: number | null;
}

/** A file that is sent with a message. */
export type AttachedFile = Pick<StoredFile, "id" | "name" | "media_type" | "size">;

/** Return whether an attachment is a file that the server stores. */
export function isStoredFile({ url }: Attachment): boolean {
  return url.startsWith(FILE_PATH);
}

/** Return those attachments that can be sent again: one's own files that the server stores. */
export function attachedFiles(attachments: readonly Attachment[]): AttachedFile[] {
  return attachments
    .filter(isStoredFile)
    .map(({ name, media_type, url, size = 0 }) => ({ id: url.slice(FILE_PATH.length), name, media_type, size }));
}

export interface FileLimits {
  max_file_bytes: number;
  per_message: number;
}

export interface UploadOptions {
  /** The name of a file; that of a `File` is the default. */
  name?: string;
  /** Called with the bytes that are sent, and all of them; in browsers, while the file is sent. */
  onProgress?: (sent: number, total: number) => void;
  /** Aborts the upload. */
  signal?: AbortSignal;
}

/** Send a file to the address. Only XMLHttpRequest tells the progress of an upload. */
export async function postFile(
  url: URL,
  content: Blob,
  token: string | null,
  options: UploadOptions,
): Promise<StoredFile> {
  options.signal?.throwIfAborted();
  const { status, body } = await (typeof XMLHttpRequest === "undefined" ? postByFetch : postByRequest)(
    url, content, token, options,
  );
  if (status !== 201) throw new RequestError(url.pathname, status, problemOf(body));
  options.onProgress?.(content.size, content.size);
  return JSON.parse(body) as StoredFile;
}

type Answer = Promise<{ status: number; body: string }>;

async function postByFetch(url: URL, content: Blob, token: string | null, { signal }: UploadOptions): Answer {
  const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
  const init = { method: "POST", headers, body: content };
  const response = await fetch(url, signal ? { ...init, signal } : init);
  return { status: response.status, body: await response.text() };
}

function postByRequest(url: URL, content: Blob, token: string | null, options: UploadOptions): Answer {
  const { signal, onProgress } = options;
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    signal?.addEventListener("abort", abort);
    request.upload.onprogress = (event) => onProgress?.(event.loaded, content.size);
    request.onload = () => resolve({ status: request.status, body: request.responseText });
    request.onerror = () => reject(new TypeError("the upload was interrupted"));
    request.onabort = () => reject(signal?.reason);
    request.onloadend = () => signal?.removeEventListener("abort", abort);
    request.open("POST", url);
    if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
    request.send(content);
  });
}
