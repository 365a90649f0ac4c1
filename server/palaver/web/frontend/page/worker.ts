/** The service worker, with which the page opens without a network, and its way out. */

const PATH = "/service-worker.js";
const CACHES = "palaver-page-";

interface TrustedTypes {
  createPolicy(name: string, rules: { createScriptURL: () => string }): { createScriptURL(url: string): string };
}

/** The only Trusted Types policy of the page: whatever it is asked for, it answers with this one path. */
const policy = (window as { trustedTypes?: TrustedTypes }).trustedTypes?.createPolicy("palaver-worker", {
  createScriptURL: () => PATH,
});

/** Install the worker, where the browser has them: over TLS, and on this machine. */
export async function registerWorker(): Promise<void> {
  try {
    await navigator.serviceWorker?.register(policy?.createScriptURL(PATH) ?? PATH);
  } catch {
    // The page works without it; the next load tries again.
  }
}

/** Remove the worker and what it has kept, until the next load of the page. */
export async function removeWorker(): Promise<void> {
  try {
    const registrations = (await navigator.serviceWorker?.getRegistrations()) ?? [];
    await Promise.all(registrations.map((registration) => registration.unregister()));
    const names = (await window.caches?.keys()) ?? [];
    await Promise.all(names.filter((name) => name.startsWith(CACHES)).map((name) => caches.delete(name)));
  } catch {
    // There is none where the browser forbids it.
  }
}
