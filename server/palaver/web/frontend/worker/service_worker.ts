/**
 * The service worker: opens the page without a network. It keeps the files of one build of the page and
 * nothing else; it never sees a request to the API.
 */

export {}; // a module: its names are its own

interface Build {
  /** Names these files, of this content. */
  version: string;
  /** The first script: the page at `/` is of this build when it names it. */
  entry: string;
  /** Paths of what the page needs to open. */
  shell: string[];
  /** Paths of what it may load later. */
  lazy: string[];
}

/** Filled in by vite.worker.config.ts. */
declare const BUILD: Build;
declare const self: ServiceWorkerGlobalScope;

const PREFIX = "palaver-page-";
const build: Build = BUILD;
const CACHE = PREFIX + build.version;
const PAGE = "/";
const KNOWN = new Set([...build.shell, ...build.lazy]);
const HASHED = /-[\w-]{8}\.(?:js|css)$/; // never gets another content
const UNREACHABLE = new Set([502, 503, 504]); // what a proxy says in place of the server

self.addEventListener("install", (event) => event.waitUntil(keepShell()));
self.addEventListener("activate", (event) => event.waitUntil(deleteOlder()));
self.addEventListener("fetch", (event) => {
  const { method, mode, url } = event.request;
  const { origin, pathname } = new URL(url);
  if (method !== "GET" || origin !== self.location.origin) return;
  if (mode === "navigate" && (pathname === PAGE || pathname.startsWith("/c/"))) {
    event.respondWith(newestFirst(event.request, PAGE));
  } else if (KNOWN.has(pathname)) {
    const answer = HASHED.test(pathname) ? keptFirst : newestFirst;
    event.respondWith(answer(event.request, pathname));
  }
});

/** Store the shell. Fails while the server has another build; the browser tries again later. */
async function keepShell(): Promise<void> {
  const page = await fetch(PAGE, { cache: "no-cache" });
  if (!page.ok || !(await page.clone().text()).includes(build.entry)) throw new Error("another build");
  const cache = await caches.open(CACHE);
  await cache.addAll(build.shell);
  await cache.put(PAGE, page);
}

async function deleteOlder(): Promise<void> {
  const names = await caches.keys();
  const older = names.filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(older.map((name) => caches.delete(name)));
}

/** Answer from the network; where that fails, with what is kept. */
async function newestFirst(request: Request, path: string): Promise<Response> {
  const attempt = await fetch(request).catch((error: unknown) => error);
  if (attempt instanceof Response && !UNREACHABLE.has(attempt.status)) return attempt;
  const kept = await find(path);
  if (kept) return kept;
  if (attempt instanceof Response) return attempt;
  throw attempt;
}

/** Answer with what is kept, or keep what the network has. */
async function keptFirst(request: Request, path: string): Promise<Response> {
  const kept = await find(path);
  if (kept) return kept;
  const response = await fetch(request);
  if (response.ok) await (await caches.open(CACHE)).put(path, response.clone());
  return response;
}

async function find(path: string): Promise<Response | undefined> {
  return (await caches.open(CACHE)).match(path, { ignoreVary: true });
}
