/** Tokens for the visitor of a site: the exchange of the site's public key. */

import { type Token, TokenRefused } from "palaver-client";

import type { Memory } from "./memory";

interface Answer {
  token: string;
  expires_in: number;
  person: string;
  visitor: string;
}

export interface VisitorToken extends Token {
  person: string;
}

/** Answers after which asking again may help, although the server has refused. */
const TEMPORARY = new Set([408, 429]);

/** Get a token for the visitor that the memory knows, or for the person of a signed identity. */
export async function fetchToken(host: string, site: string, memory: Memory, identity: string): Promise<VisitorToken> {
  const statement = memory.visitor?.statement ?? null;
  const answer = await exchange(host, { key: site, visitor: statement, identity: identity || null });
  const { token, expires_in: expiresIn, person } = answer;
  if (!identity) {
    // Another tab was faster: both must be the same visitor.
    if (!statement && memory.visitor) return fetchToken(host, site, memory, identity);
    memory.visitor = { statement: answer.visitor, person };
  }
  return { token, expiresIn, person };
}

async function exchange(host: string, body: object): Promise<Answer> {
  const response = await fetch(new URL("/v1/widget/token", host), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    credentials: "omit",
  });
  const answer = (await response.json()) as Answer & { error?: { message: string } };
  if (response.ok) return answer;
  const message = answer.error?.message ?? String(response.status);
  if (response.status >= 500 || TEMPORARY.has(response.status)) throw new Error(message);
  throw new TokenRefused(message);
}
