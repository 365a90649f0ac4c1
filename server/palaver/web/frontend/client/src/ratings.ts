import type { Palaver } from "./palaver.ts";

export type Rating = "up" | "down";

export type FeedbackReason =
  | "incorrect"
  | "not_helpful"
  | "incomplete"
  | "style"
  | "refused"
  | "unsafe"
  | "wrong_skill"
  | "other";

/** What a person thinks of a reply. Only `down` has a reason. */
export interface Opinion {
  rating: Rating;
  reason?: FeedbackReason | null;
  /** Up to 4,000 code points. */
  comment?: string;
}

/** Feedback as the server has it. */
export interface Feedback extends Opinion {
  turn: string;
  skill?: string;
  /** s since 1970. */
  at?: number;
}

/**
 * The person's feedback in one conversation. Events: `change`, and `stored` after the server has stored one.
 *
 * A change is shown at once, and taken back when the server refuses it. Requests are sent one after the
 * other, so that the last change wins.
 */
export class Ratings extends EventTarget {
  readonly #palaver: Palaver;
  readonly #thread: string;
  #stored = new Map<string, Feedback>();
  /** What is being stored; null: being withdrawn. */
  readonly #wanted = new Map<string, Feedback | null>();
  #last: Promise<unknown> = Promise.resolve();

  constructor(palaver: Palaver, thread: string) {
    super();
    this.#palaver = palaver;
    this.#thread = thread;
  }

  /** Return the feedback on the reply of a turn. */
  of(turn: string): Feedback | null {
    const wanted = this.#wanted.get(turn);
    return wanted === undefined ? (this.#stored.get(turn) ?? null) : wanted;
  }

  /** Read what the server has. Throws `RequestError`. */
  async load(): Promise<void> {
    const given = await this.#queue(() => this.#palaver.feedback(this.#thread));
    this.#stored = new Map(given.map((feedback) => [feedback.turn, feedback]));
    this.#emit();
  }

  /** Rate the reply of a turn, or change the rating. Throws `RequestError`. */
  async give(turn: string, opinion: Opinion): Promise<void> {
    await this.#change(turn, { turn, ...opinion }, () => this.#palaver.giveFeedback(this.#thread, turn, opinion));
  }

  /** Withdraw the feedback on a turn. Throws `RequestError`. */
  async withdraw(turn: string): Promise<void> {
    await this.#change(turn, null, async () => {
      await this.#palaver.withdrawFeedback(this.#thread, turn);
      return null;
    });
  }

  async #change(turn: string, wanted: Feedback | null, request: () => Promise<Feedback | null>): Promise<void> {
    this.#wanted.set(turn, wanted);
    this.#emit();
    try {
      const stored = await this.#queue(request);
      if (stored) this.#stored.set(turn, stored);
      else this.#stored.delete(turn);
      this.dispatchEvent(new Event("stored"));
    } finally {
      if (this.#wanted.get(turn) === wanted) this.#wanted.delete(turn);
      this.#emit();
    }
  }

  /** Do something after all that was asked for before. */
  #queue<Result>(request: () => Promise<Result>): Promise<Result> {
    const work = this.#last.then(request);
    this.#last = work.catch(() => {});
    return work;
  }

  #emit(): void {
    this.dispatchEvent(new Event("change"));
  }
}
