import type { ServerFrame } from "./frames.ts";
import { TokenRefused } from "./tokens.ts";

const FIRST_DELAY = 500; // ms before the first reconnect; doubles
const MAX_DELAY = 20_000; // ms
const RESTART_JITTER = 100; // ms over which clients reconnect when a server restarts
const STABLE_AFTER = 2_000; // ms after which an open connection resets the delay
const PING_AFTER = 25_000; // ms without a frame after which the client sends a ping
const FRAME_TIMEOUT = 10_000; // ms that the server has to answer

/** Close codes after which the client does not reconnect. */
const REFUSALS = new Set([4400, 4401, 4403]);

export type Status = "closed" | "connecting" | "open" | "reconnecting" | "refused";

/** What a connection tells its owner. */
export interface Listener {
  /** Do what comes before a new connection; null: nothing. */
  prepare(): Promise<unknown> | null;
  /** Return the first frame of a new connection. */
  hello(): object;
  handleFrame(frame: ServerFrame): void;
  handleClose(code: number): void;
  /** Return true when a new connection may help, although the server has refused this one. */
  handleRefusal(code: number): boolean;
  handleStatus(): void;
}

/** A websocket that reconnects by itself. */
export class Connection {
  status: Status = "closed";
  /** Set when the status is `refused`. */
  refusal: { code: number; reason: string } | null = null;
  readonly #url: string;
  readonly #WebSocket: typeof WebSocket;
  readonly #listener: Listener;
  #socket: WebSocket | null = null;
  #reconnectTimer: ReturnType<typeof setTimeout> | undefined;
  #frameTimer: ReturnType<typeof setTimeout> | undefined;
  #stableTimer: ReturnType<typeof setTimeout> | undefined;
  #retries = 0;
  /** Counts connections, also those that were not opened. */
  #attempt = 0;

  constructor(url: string, socketClass: typeof WebSocket, listener: Listener) {
    this.#url = url;
    this.#WebSocket = socketClass;
    this.#listener = listener;
  }

  connect(): void {
    this.#clearTimers();
    this.#setStatus("connecting");
    const attempt = (this.#attempt += 1);
    const isCurrent = () => attempt === this.#attempt;
    this.#listener.prepare()?.then(
      () => isCurrent() && this.#open(),
      (error: unknown) => isCurrent() && this.#handleFailure(error),
    ) ?? this.#open();
  }

  close(): void {
    this.#disconnect();
    this.#setStatus("closed");
  }

  #open(): void {
    const socket = new this.#WebSocket(this.#url);
    this.#socket = socket;
    socket.onopen = () => socket.send(JSON.stringify(this.#listener.hello()));
    socket.onmessage = (event) => {
      if (socket === this.#socket) this.#handleFrame(JSON.parse(event.data as string));
    };
    socket.onclose = (event) => {
      if (socket === this.#socket) this.#handleClose(event.code, event.reason);
    };
    this.#expectFrame(FRAME_TIMEOUT);
  }

  /** Reconnect or test the connection now: after the network or the page has come back. */
  check(): void {
    if (this.status === "reconnecting") this.connect();
    else if (this.status === "open") this.#ping();
  }

  /** Connect again, because frames are missing. */
  restart(): void {
    this.#disconnect();
    this.#reconnectAfter(FIRST_DELAY * Math.random());
  }

  /** Note that the server has answered the hello. */
  welcome(): void {
    // Keep the backoff when a server accepts clients and closes them again at once.
    this.#retries = Math.min(this.#retries, 1);
    this.#stableTimer = setTimeout(() => (this.#retries = 0), STABLE_AFTER);
    this.#setStatus("open");
  }

  /** Send a frame, unless the connection is broken. */
  send(frame: string): void {
    if (this.#socket?.readyState === 1) this.#socket.send(frame);
  }

  #handleFrame(frame: ServerFrame): void {
    this.#expectFrame(PING_AFTER, () => this.#ping());
    this.#listener.handleFrame(frame);
  }

  #handleClose(code: number, reason: string): void {
    this.#disconnect();
    if (REFUSALS.has(code) && !this.#listener.handleRefusal(code)) return this.#refuse(code, reason);
    this.#listener.handleClose(code);
    this.#reconnectAfter(this.#reconnectDelay(code));
    this.#retries += 1;
  }

  /** Handle that a connection could not be prepared. */
  #handleFailure(error: unknown): void {
    if (error instanceof TokenRefused) this.#refuse(4401, error.message);
    else this.#handleClose(1006, "not prepared");
  }

  #refuse(code: number, reason: string): void {
    this.refusal = { code, reason };
    this.#setStatus("refused");
  }

  /** Return the delay in ms: short when a server restarts, because another one takes over. */
  #reconnectDelay(code: number): number {
    if (code === 1012 && this.#retries === 0) return Math.random() * RESTART_JITTER;
    const delay = Math.min(MAX_DELAY, FIRST_DELAY * 2 ** this.#retries);
    return ((1 + Math.random()) * delay) / 2;
  }

  #reconnectAfter(delay: number): void {
    this.#setStatus("reconnecting");
    this.#reconnectTimer = setTimeout(() => this.connect(), delay);
  }

  /** Ask for a frame: a broken connection can stay silent for minutes. */
  #ping(): void {
    this.send('{"type":"ping"}');
    this.#expectFrame(FRAME_TIMEOUT);
  }

  #expectFrame(timeout: number, otherwise = () => this.#handleClose(1006, "no answer")): void {
    clearTimeout(this.#frameTimer);
    this.#frameTimer = setTimeout(otherwise, timeout);
  }

  #disconnect(): void {
    this.#clearTimers();
    this.#attempt += 1;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #clearTimers(): void {
    clearTimeout(this.#reconnectTimer);
    clearTimeout(this.#frameTimer);
    clearTimeout(this.#stableTimer);
  }

  #setStatus(status: Status): void {
    this.status = status;
    this.#listener.handleStatus();
  }
}
