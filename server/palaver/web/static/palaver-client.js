/**
 * A client of Palaver's websocket protocol, without a user interface. See docs/protocol.md.
 *
 *     const client = new Client({ url: "ws://127.0.0.1:7252/ws", thread: "my-thread" });
 *     client.addEventListener("change", () => console.log(client.conversation.turns));
 *     client.connect();
 *     client.send("Hello");
 *
 * It reconnects by itself, delivers every character exactly once, and sends a message again until
 * the server has stored it. Positions count code points.
 */

const FIRST_DELAY = 500; // ms before the first reconnect; doubles
const MAX_DELAY = 20_000; // ms
const RESTART_JITTER = 100; // ms over which clients reconnect when a server restarts
const STABLE_AFTER = 2_000; // ms after which an open connection resets the delay
const PING_AFTER = 25_000; // ms without a frame after which the client sends a ping
const FRAME_TIMEOUT = 10_000; // ms that the server has to answer

/** Close codes after which the client does not reconnect. */
const REFUSALS = new Set([4400, 4401, 4403]);
/** Errors after which the message is sent again. */
const RETRYABLE = new Set(["overloaded", "ledger_unavailable", "engine_unavailable"]);
const RETRY_DELAY = 2_000; // ms, unless the server gives one
const TOO_LARGE = { code: "too_large", message: "This message is too long to send." };

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return the number of code points. */
function codePoints(text) {
  return Array.from(text).length;
}

/** One message, or several that are answered together, and the reply. */
export class Turn {
  constructor(id) {
    this.id = id;
    this.messages = []; // {id, person, text}; the id is empty when only a snapshot's history has it
    this.taken = null; // ids of the messages that the finished turn has answered; null: all
    this.state = "waiting"; // waiting, running, done, asked, stopped, failed
    this.text = "";
    this.length = 0; // code points of text
    this.queuePosition = null; // while it waits for the model: about how many come first
    this.skill = "";
    this.reason = "";
    this.score = null;
    this.citations = [];
    this.attachments = [];
    this.tools = [];
    this.question = null;
    this.problem = null;
    this.version = 0; // grows with every change
  }

  /** All messages as one text. */
  get message() {
    return this.messages.map((message) => message.text).join("\n\n");
  }

  get isOpen() {
    return this.state === "waiting" || this.state === "running";
  }

  /** Append the part of the text that is new; return false when text before it is missing. */
  append(position, text) {
    if (position > this.length) return false;
    const fresh = Array.from(text).slice(this.length - position);
    this.text += fresh.join("");
    this.length += fresh.length;
    return true;
  }

  /** Remove the text from a position on. */
  truncate(position) {
    if (position >= this.length) return;
    this.text = Array.from(this.text).slice(0, position).join("");
    this.length = position;
  }
}

/** The state of a conversation: apply frames to it, read its turns. */
export class ConversationState {
  constructor() {
    this.byId = new Map();
    this.epoch = "";
    this.offset = 0;
  }

  /** Oldest first. */
  get turns() {
    return [...this.byId.values()];
  }

  get cursor() {
    return this.epoch ? `${this.epoch}:${this.offset}` : null;
  }

  /** The first turn without an end, or null. */
  get running() {
    return this.turns.find((turn) => turn.isOpen) ?? null;
  }

  /** Return the number of open turns before this one. */
  turnsAhead(turn) {
    const turns = this.turns;
    return turns.slice(0, turns.indexOf(turn)).filter((other) => other.isOpen).length;
  }

  /** Apply a frame. Returns false when frames are missing: then a new snapshot is needed. */
  apply(frame) {
    if (!this.#advance(frame)) return true;
    const handle = EVENT_HANDLERS[frame.type];
    if (!handle) return true; // from a newer server
    const turn = this.#turn(frame.turn);
    if (frame.type === "message" && frame.moved) this.#move(turn, frame.id);
    const isComplete = handle(turn, frame);
    turn.version += 1;
    return isComplete !== false;
  }

  /** Advance to the frame's cursor; return false when the frame was applied before. */
  #advance(frame) {
    if (!frame.cursor) return true;
    const [epoch, offset] = splitCursor(frame.cursor);
    if (epoch === this.epoch && offset <= this.offset) return false;
    this.epoch = epoch;
    this.offset = offset;
    return true;
  }

  #turn(id) {
    if (!this.byId.has(id)) this.byId.set(id, new Turn(id));
    return this.byId.get(id);
  }

  /** Move a message from its turn to this one, which comes before all waiting turns. */
  #move(turn, messageId) {
    for (const other of this.byId.values()) {
      if (other === turn || !other.messages.some((message) => message.id === messageId)) continue;
      other.messages = other.messages.filter((message) => message.id !== messageId);
      other.version += 1;
    }
    const rest = this.turns.filter((other) => other !== turn);
    const isWaiting = (other) => other.state === "waiting";
    const begun = rest.filter((other) => !isWaiting(other));
    const order = [...begun, turn, ...rest.filter(isWaiting)];
    this.byId = new Map(order.map((other) => [other.id, other]));
  }

  /** Replace the state by a snapshot. Fields of a turn that the snapshot lacks are kept. */
  applySnapshot(snapshot, cursor) {
    const before = this.byId;
    const ids = new Map();
    for (const turn of before.values()) {
      for (const message of turn.messages) ids.set(`${turn.id} ${message.text}`, message.id);
    }
    this.byId = new Map();
    [this.epoch, this.offset] = splitCursor(cursor);
    for (const entry of snapshot.history) {
      const isFirst = !this.byId.has(entry.turn);
      const turn = this.#restore(before, entry.turn);
      if (entry.role === "user") {
        if (isFirst) turn.messages = [];
        const id = ids.get(`${entry.turn} ${entry.text}`) ?? "";
        turn.messages.push({ id, person: entry.person, text: entry.text });
      } else {
        setText(turn, entry.text);
        turn.state = entry.outcome ?? "done";
        turn.skill = entry.skill || turn.skill;
      }
    }
    for (const pending of snapshot.pending) {
      const turn = this.#restore(before, pending.turn);
      turn.messages = pending.messages;
      turn.state = pending.running ? "running" : "waiting";
      turn.skill = pending.skill || turn.skill;
      setText(turn, pending.reply);
    }
  }

  #restore(before, id) {
    if (!this.byId.has(id) && before.has(id)) this.byId.set(id, before.get(id));
    const turn = this.#turn(id);
    turn.version += 1;
    return turn;
  }
}

function setText(turn, text) {
  turn.text = text;
  turn.length = codePoints(text);
}

function splitCursor(cursor) {
  const colon = cursor.lastIndexOf(":");
  return [cursor.slice(0, colon), Number(cursor.slice(colon + 1))];
}

/** The effect of each event on its turn. */
const EVENT_HANDLERS = {
  message(turn, event) {
    const { id, person, text } = event;
    if (turn.messages.some((message) => message.id === id)) return;
    turn.messages = [...turn.messages, { id, person, text }];
  },
  started(turn, event) {
    turn.state = "running";
    if (event.attempt > 1) {
      turn.truncate(event.position);
      turn.queuePosition = null;
    }
  },
  queued(turn, event) {
    turn.queuePosition = event.ahead;
  },
  routed(turn, event) {
    turn.skill = event.skill;
    turn.reason = event.reason;
    turn.score = event.score;
  },
  text(turn, event) {
    if (turn.state === "waiting") turn.state = "running";
    turn.queuePosition = null;
    return turn.append(event.position, event.text);
  },
  text_reset(turn, event) {
    turn.truncate(event.position);
  },
  tool(turn, event) {
    const isStart = (tool) => tool.name === event.name && tool.state === "started";
    const index = turn.tools.findIndex(isStart);
    if (index < 0) turn.tools.push(event);
    else turn.tools[index] = event;
  },
  citation(turn, event) {
    if (!turn.citations.some((known) => known.number === event.citation.number)) {
      turn.citations.push(event.citation);
    }
  },
  attachment(turn, event) {
    if (!turn.attachments.some((known) => known.url === event.attachment.url)) {
      turn.attachments.push(event.attachment);
    }
  },
  question(turn, event) {
    turn.question = { text: event.question, options: event.options };
  },
  finished(turn, event) {
    turn.state = event.outcome;
    turn.taken = event.messages;
    turn.queuePosition = null;
    turn.problem = event.problem;
    turn.usage = event.usage;
    return turn.length === event.length;
  },
};

/**
 * A connection that reconnects by itself. Events: `change` (the conversation or the unsent
 * messages), `status`.
 *
 * Options: `url`, `thread`, `person`, `token`; `storage` (like localStorage) keeps unsent messages
 * across reloads; `WebSocket` for runtimes that have none.
 */
export class Client extends EventTarget {
  #options;
  #socket = null;
  #reconnectTimer = null;
  #frameTimer = null;
  #stableTimer = null;
  #retries = 0;
  #isWelcomed = false;
  #needsSnapshot = false;

  constructor(options) {
    super();
    this.#options = { WebSocket: globalThis.WebSocket, storage: null, ...options };
    this.conversation = new ConversationState();
    this.unsent = new Map(); // id to {id, text, skill, arguments, problem}
    this.status = "closed"; // closed, connecting, open, reconnecting, refused
    this.refusal = null; // {code, reason} when the status is refused
    this.person = options.person ?? null;
    this.maxMessageBytes = Infinity;
    this.#load();
  }

  /** Open the connection and keep it open until `close`. */
  connect() {
    this.#clearTimers();
    this.#isWelcomed = false;
    this.#setStatus("connecting");
    const socket = new this.#options.WebSocket(this.#options.url);
    this.#socket = socket;
    socket.onopen = () => socket.send(JSON.stringify(this.#hello()));
    socket.onmessage = (event) => {
      if (socket === this.#socket) this.#handleFrame(JSON.parse(event.data));
    };
    socket.onclose = (event) => {
      if (socket === this.#socket) this.#handleClose(event.code, event.reason);
    };
    this.#expectFrame(FRAME_TIMEOUT);
  }

  close() {
    this.#disconnect();
    this.#setStatus("closed");
  }

  /** Reconnect or test the connection now: after the network or the page has come back. */
  checkConnection() {
    if (this.status === "reconnecting") this.connect();
    else if (this.status === "open") this.#ping();
  }

  /** Send a message and return its id. It is kept and sent again until the server has stored it. */
  send(text, { skill, arguments: args } = {}) {
    const message = { id: newId(), text, skill, arguments: args };
    this.unsent.set(message.id, message);
    this.#save();
    this.#sendMessage(message);
    this.#emit("change");
    return message.id;
  }

  /** Send a refused message again. */
  retry(id) {
    const message = this.unsent.get(id);
    if (!message) return;
    delete message.problem;
    this.#sendMessage(message);
    this.#emit("change");
  }

  /** Remove a message that was not stored. */
  discard(id) {
    this.unsent.delete(id);
    this.#save();
    this.#emit("change");
  }

  /** Stop a turn; without `turn` the running one. */
  stop(turn = null) {
    this.#sendFrame({ type: "stop", turn });
  }

  #hello() {
    const { thread, person, token } = this.#options;
    const since = this.#needsSnapshot ? null : (this.conversation.cursor ?? "start");
    return { type: "hello", thread, person, token, since };
  }

  #sendMessage(message) {
    if (!this.#isWelcomed || message.problem) return;
    const { problem, ...frame } = message;
    const data = JSON.stringify({ type: "send", ...frame });
    if (new TextEncoder().encode(data).length > this.maxMessageBytes) {
      message.problem = TOO_LARGE;
      this.#emit("change");
      return;
    }
    this.#socket.send(data);
  }

  #sendFrame(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  #handleFrame(frame) {
    this.#expectFrame(PING_AFTER, () => this.#ping());
    switch (frame.type) {
      case "welcome":
        this.#handleWelcome(frame);
        break;
      case "reset":
        this.conversation.applySnapshot(frame.snapshot, frame.cursor);
        break;
      case "ack":
        this.#markStored(frame.id);
        break;
      case "error":
        this.#handleError(frame);
        break;
      case "message":
        this.#markStored(frame.id);
      // falls through
      default:
        if (frame.turn !== undefined && !this.conversation.apply(frame)) this.#reload();
    }
    this.#emit("change");
  }

  #handleWelcome(frame) {
    this.person = frame.person;
    this.maxMessageBytes = frame.max_message_bytes;
    if (frame.snapshot) this.conversation.applySnapshot(frame.snapshot, frame.cursor);
    else if (!this.conversation.epoch) [this.conversation.epoch] = splitCursor(frame.cursor);
    // Keep the backoff when a server accepts clients and closes them again at once.
    this.#retries = Math.min(this.#retries, 1);
    this.#stableTimer = setTimeout(() => (this.#retries = 0), STABLE_AFTER);
    this.#needsSnapshot = false;
    this.#isWelcomed = true;
    this.#setStatus("open");
    for (const message of this.unsent.values()) this.#sendMessage(message);
  }

  /** Reconnect and ask for a snapshot, because frames are missing. */
  #reload() {
    this.#disconnect();
    this.#needsSnapshot = true;
    this.#reconnectAfter(FIRST_DELAY * Math.random());
  }

  #markStored(id) {
    if (this.unsent.delete(id)) this.#save();
  }

  #handleError(frame) {
    const message = this.unsent.get(frame.id);
    if (!message) return;
    if (RETRYABLE.has(frame.code)) {
      setTimeout(() => this.#sendMessage(message), (frame.retry_after ?? RETRY_DELAY / 1000) * 1000);
      return;
    }
    message.problem = { code: frame.code, message: frame.message };
    this.#save();
  }

  #handleClose(code, reason) {
    this.#disconnect();
    if (REFUSALS.has(code)) {
      this.refusal = { code, reason };
      this.#setStatus("refused");
      return;
    }
    if (code === 1009) this.#refuseLongest();
    this.#reconnectAfter(this.#reconnectDelay(code));
    this.#retries += 1;
  }

  /** Return the delay in ms: short when a server restarts, because another one takes over. */
  #reconnectDelay(code) {
    if (code === 1012 && this.#retries === 0) return Math.random() * RESTART_JITTER;
    const delay = Math.min(MAX_DELAY, FIRST_DELAY * 2 ** this.#retries);
    return ((1 + Math.random()) * delay) / 2;
  }

  /** Refuse the longest message, because the server closed the connection over its size. */
  #refuseLongest() {
    const waiting = [...this.unsent.values()].filter((message) => !message.problem);
    waiting.sort((a, b) => b.text.length - a.text.length);
    if (waiting.length) waiting[0].problem = TOO_LARGE;
  }

  #reconnectAfter(delay) {
    this.#setStatus("reconnecting");
    this.#reconnectTimer = setTimeout(() => this.connect(), delay);
  }

  /** Ask for a frame: a broken connection can stay silent for minutes. */
  #ping() {
    this.#sendFrame({ type: "ping" });
    this.#expectFrame(FRAME_TIMEOUT);
  }

  #expectFrame(timeout, otherwise = () => this.#handleClose(1006, "the server does not answer")) {
    clearTimeout(this.#frameTimer);
    this.#frameTimer = setTimeout(otherwise, timeout);
  }

  #disconnect() {
    this.#clearTimers();
    const socket = this.#socket;
    this.#socket = null;
    this.#isWelcomed = false;
    if (socket) socket.close();
  }

  #clearTimers() {
    clearTimeout(this.#reconnectTimer);
    clearTimeout(this.#frameTimer);
    clearTimeout(this.#stableTimer);
  }

  #setStatus(status) {
    this.status = status;
    this.#emit("status");
  }

  #emit(name) {
    this.dispatchEvent(new Event(name));
  }

  get #key() {
    return `palaver.unsent.${this.#options.thread}`;
  }

  #load() {
    const stored = this.#options.storage?.getItem(this.#key);
    for (const message of stored ? JSON.parse(stored) : []) this.unsent.set(message.id, message);
  }

  #save() {
    const storage = this.#options.storage;
    if (!storage) return;
    if (this.unsent.size) storage.setItem(this.#key, JSON.stringify([...this.unsent.values()]));
    else storage.removeItem(this.#key);
  }
}
