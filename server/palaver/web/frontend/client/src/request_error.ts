import type { Problem } from "./frames.ts";

/** An HTTP request that the server has refused. */
export class RequestError extends Error {
  readonly status: number;
  /** What the server says about it, for people; null when it says nothing. */
  readonly problem: Problem | null;

  constructor(path: string, status: number, problem: Problem | null = null) {
    super(`${path}: ${status} ${problem?.message ?? ""}`.trim());
    this.status = status;
    this.problem = problem;
  }
}

/** Return the problem that the body of a refusal tells, or null. */
export function problemOf(body: string): Problem | null {
  try {
    return (JSON.parse(body) as { error: Problem }).error;
  } catch {
    return null; // not from the server, but from something before it
  }
}
