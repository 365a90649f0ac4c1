/** A token that is valid for a while. */
export interface Token {
  token: string;
  /** s from now. */
  expiresIn: number;
}

/**
 * Returns a new token. Throws `TokenRefused` when asking again is of no use; after any other error it is
 * called again later.
 */
export type TokenProvider = () => Promise<Token>;

/** Nobody gives a token: the reason is for people. */
export class TokenRefused extends Error {}

const RENEWED_AFTER = 0.8; // of a token's life

/** The token of all requests and connections: one that stays, or one that is renewed before it expires. */
export class Tokens {
  readonly #provide: TokenProvider | null;
  #token: string | null;
  #renewAt = 0; // ms since 1970: a sleeping computer's timers stand still
  #pending: Promise<string> | null = null;

  constructor(token: string | TokenProvider | null) {
    this.#provide = typeof token === "function" ? token : null;
    this.#token = typeof token === "function" ? null : token;
  }

  get areRenewed(): boolean {
    return this.#provide !== null;
  }

  /** ms until the token should be renewed. */
  get renewalDelay(): number {
    return Math.max(0, this.#renewAt - Date.now());
  }

  /** Whether `get` has to ask for a token first. */
  get isDue(): boolean {
    return this.#provide !== null && this.renewalDelay === 0;
  }

  /** The latest token. */
  get current(): string | null {
    return this.#token;
  }

  /** Return a valid token; null: there is none. */
  async get(): Promise<string | null> {
    if (!this.#provide || !this.isDue) return this.#token;
    this.#pending ??= this.#renew(this.#provide).finally(() => (this.#pending = null));
    return this.#pending;
  }

  /** Forget a token that the server has refused; a newer one stays. */
  forget(token: string | null): void {
    if (token === this.#token) this.#renewAt = 0;
  }

  async #renew(provide: TokenProvider): Promise<string> {
    const { token, expiresIn } = await provide();
    this.#renewAt = Date.now() + expiresIn * 1000 * RENEWED_AFTER;
    this.#token = token;
    return token;
  }
}
