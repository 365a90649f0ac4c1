/** The signed identity of a visitor: a JWT that the site's own backend makes. */

/** A JWT, or a function that gets one whenever the server asks for it. */
export type Identity = string | (() => string | Promise<string>);

/** Return the JWT; empty without an identity. */
export async function resolveIdentity(identity: Identity | null): Promise<string> {
  return (typeof identity === "function" ? await identity() : identity) ?? "";
}

/**
 * Return whom a JWT is about, to keep the conversations of the persons of one browser apart. The server
 * alone verifies it.
 */
export function subjectOf(jwt: string): string {
  if (!jwt) return "";
  try {
    const payload = (jwt.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
    return String((JSON.parse(new TextDecoder().decode(bytes)) as { sub?: unknown }).sub ?? "");
  } catch {
    throw new TypeError("palaver: an identity is a JWT that your backend has signed");
  }
}
