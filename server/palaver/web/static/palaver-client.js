/**
 * A client of Palaver's websocket protocol, without any page: docs/protocol.md describes it.
 *
 *     const client = new Client({ url: "ws://127.0.0.1:7252/ws", thread: "my-thread" });
 *     client.addEventListener("change", () => console.log(client.transcript.turns));
 *     client.connect();
 *     client.send("Hello");
 *
 * It reconnects by itself, misses no character and shows none twice, and sends a message again
 * until the server has it. Positions count code points.
 */

const FIRST_DELAY = 500; // ms before the first reconnect; doubles
const LONGEST_DELAY = 20_000; // ms
const RESTART_SPREAD = 100; // ms over which clients come back when a server restarts
const STEADY = 2_000; // ms after which an open connection counts as a good one
const SILENCE = 25_000; // ms without a frame after which the server is asked for a sign of life
const PATIENCE = 10_000; // ms that it has to give one

/** Close codes after which coming back would not help. */
const REFUSALS = new Set([4400, 4401, 4403]);
/** Errors that pass by themselves; the message is sent again. */
const PASSING = new Set(["overloaded", "ledger_unavailable", "engine_unavailable"]);
const RETRY = 2_000; // ms, where the server does not say

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** How many code points a string has. */
export function codePoints(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** One message, or several that are answered together, and the reply. */
export class Turn {
  constructor(id) {
    this.id = id;
    this.messages = []; // {id, person, text}; the id is empty in what a snapshot tells of the past
    this.state = "waiting"; // waiting, running, done, asked, stopped, failed
    this.text = "";
    this.length = 0; // code points of text
    this.line = null; // while it waits for the model: about how many come first
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

  /** What was written, as one text. */
  get message() {
    return this.messages.map((message) => message.text).join("\n\n");
  }

  get open() {
    return this.state === "waiting" || this.state === "running";
  }

  /** Take text in at its position; false when something before it is missing. */
  heal(position, text) {
    if (position > this.length) return false;
    const known = this.length - position;
    if (known === 0) {
      this.text += text;
      this.length += codePoints(text);
      return true;
    }
    const fresh = Array.from(text).slice(known);
    this.text += fresh.join("");
    this.length += fresh.length;
    return true;
  }

  /** Withdraw the text from a position on. */
  cut(position) {
    if (position >= this.length) return;
    this.text = Array.from(this.text).slice(0, position).join("");
    this.length = position;
  }
}

/** A conversation as the server tells it: feed it frames, read its turns. */
export class Transcript {
  constructor() {
    this.byId = new Map();
    this.epoch = "";
    this.offset = 0;
    this.version = 0;
  }

  /** Oldest first. */
  get turns() {
    return [...this.byId.values()];
  }

  get cursor() {
    return this.epoch ? `${this.epoch}:${this.offset}` : null;
  }

  /** The turn that is being answered, or null. */
  get running() {
    return this.turns.find((turn) => turn.open) ?? null;
  }

  /** How many turns come before this one. */
  ahead(turn) {
    let count = 0;
    for (const other of this.byId.values()) {
      if (other === turn) break;
      if (other.open) count += 1;
    }
    return count;
  }

  /** Take a frame in. Returns false when frames were missed: then start over with a snapshot. */
  apply(frame) {
    const known = this.#advance(frame);
    if (known) return true;
    const take = TAKE[frame.type];
    if (!take) return true; // of a newer server
    const turn = this.#turn(frame.turn);
    if (frame.type === "message" && frame.moved) this.#move(turn, frame.id);
    const whole = take(turn, frame);
    turn.version += 1;
    this.version += 1;
    return whole !== false;
  }

  /** Move on to the frame's cursor; true when it was seen before. */
  #advance(frame) {
    if (!frame.cursor) return false;
    const [epoch, offset] = splitCursor(frame.cursor);
    if (epoch === this.epoch && offset <= this.offset) return true;
    this.epoch = epoch;
    this.offset = offset;
    return false;
  }

  #turn(id) {
    let turn = this.byId.get(id);
    if (!turn) {
      turn = new Turn(id);
      this.byId.set(id, turn);
    }
    return turn;
  }

  /** A message has left its turn for this one, which comes next. */
  #move(turn, messageId) {
    for (const other of this.byId.values()) {
      if (other === turn || !other.messages.some((message) => message.id === messageId)) continue;
      other.messages = other.messages.filter((message) => message.id !== messageId);
      other.version += 1;
    }
    const rest = this.turns.filter((other) => other !== turn);
    const waits = (other) => other.state === "waiting";
    const order = [...rest.filter((other) => !waits(other)), turn, ...rest.filter(waits)];
    this.byId = new Map(order.map((each) => [each.id, each]));
  }

  /** Begin from a snapshot. What it does not tell about a turn is kept. */
  restart(snapshot, cursor) {
    const before = this.byId;
    const ids = new Map();
    for (const turn of before.values()) {
      for (const message of turn.messages) ids.set(`${turn.id} ${message.text}`, message.id);
    }
    this.byId = new Map();
    [this.epoch, this.offset] = splitCursor(cursor);
    for (const line of snapshot.history) {
      const fresh = !this.byId.has(line.turn);
      const turn = this.#revive(before, line.turn);
      if (line.role === "user") {
        if (fresh) turn.messages = [];
        const id = ids.get(`${line.turn} ${line.text}`) ?? "";
        turn.messages.push({ id, person: line.person, text: line.text });
      } else {
        setText(turn, line.text);
        turn.state = line.outcome ?? "done";
        turn.skill = line.skill || turn.skill;
      }
    }
    for (const pending of snapshot.pending) {
      const turn = this.#revive(before, pending.turn);
      turn.messages = pending.messages;
      turn.state = pending.running ? "running" : "waiting";
      turn.skill = pending.skill || turn.skill;
      setText(turn, pending.reply);
    }
    this.version += 1;
  }

  #revive(before, id) {
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

/** What each event does to its turn. */
const TAKE = {
  message(turn, event) {
    const { id, person, text } = event;
    if (turn.messages.some((message) => message.id === id)) return;
    turn.messages = [...turn.messages, { id, person, text }];
  },
  started(turn, event) {
    turn.state = "running";
    if (event.attempt > 1) {
      turn.cut(event.position);
      turn.line = null;
    }
  },
  queued(turn, event) {
    turn.line = event.ahead;
  },
  routed(turn, event) {
    turn.skill = event.skill;
    turn.reason = event.reason;
    turn.score = event.score;
  },
  text(turn, event) {
    if (turn.state === "waiting") turn.state = "running";
    turn.line = null;
    return turn.heal(event.position, event.text);
  },
  text_reset(turn, event) {
    turn.cut(event.position);
  },
  tool(turn, event) {
    const same = (tool) => tool.name === event.name && tool.state === "started";
    const at = turn.tools.findIndex(same);
    if (at < 0) turn.tools.push(event);
    else turn.tools[at] = event;
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
    turn.line = null;
    turn.problem = event.problem;
    turn.usage = event.usage;
    return turn.length === event.length;
  },
};

/**
 * A connection that keeps itself up. Events: `change` (the transcript or the unsent messages),
 * `status`.
 *
 * Options: `url`, `thread`, `person`, `token`; `storage` (like localStorage) keeps unsent messages
 * over a reload; `WebSocket` for runtimes without one of their own.
 */
export class Client extends EventTarget {
  #options;
  #socket = null;
  #timer = null;
  #watch = null;
  #settling = null;
  #retries = 0;
  #welcome = false;
  #missed = false;

  constructor(options) {
    super();
    this.#options = { WebSocket: globalThis.WebSocket, storage: null, ...options };
    this.transcript = new Transcript();
    this.unsent = new Map(); // id to {id, text, skill, arguments, problem}
    this.status = "closed"; // closed, connecting, open, waiting, refused
    this.refusal = null; // {code, reason} when the status is refused
    this.person = options.person ?? null;
    this.maxMessageBytes = Infinity;
    this.#load();
  }

  get thread() {
    return this.#options.thread;
  }

  /** Open the connection and keep it open until `close`. */
  connect() {
    this.#clear();
    this.#welcome = false;
    this.#setStatus("connecting");
    const socket = new this.#options.WebSocket(this.#options.url);
    this.#socket = socket;
    socket.onopen = () => socket.send(JSON.stringify(this.#hello()));
    socket.onmessage = (event) => {
      if (socket === this.#socket) this.#take(JSON.parse(event.data));
    };
    socket.onclose = (event) => {
      if (socket === this.#socket) this.#lost(event.code, event.reason);
    };
    this.#expectSign(PATIENCE);
  }

  close() {
    this.#drop();
    this.#setStatus("closed");
  }

  /** The network is back, or the page is shown again: do not wait for the timer. */
  wake() {
    if (this.status === "waiting") this.connect();
    else if (this.status === "open") this.#ask();
  }

  /** Send a message; returns its id. It is kept and sent again until the server has it. */
  send(text, { skill = null, arguments: args = undefined } = {}) {
    const message = { id: newId(), text };
    if (skill) message.skill = skill;
    if (args) message.arguments = args;
    this.unsent.set(message.id, message);
    this.#save();
    this.#post(message);
    this.#emit("change");
    return message.id;
  }

  /** Send again a message that was refused. */
  retry(id) {
    const message = this.unsent.get(id);
    if (!message) return;
    delete message.problem;
    this.#post(message);
    this.#emit("change");
  }

  /** Forget a message that was not accepted. */
  discard(id) {
    this.unsent.delete(id);
    this.#save();
    this.#emit("change");
  }

  /** Stop a turn, or the one that runs. */
  stop(turn = null) {
    this.#write(turn ? { type: "stop", turn } : { type: "stop" });
  }

  #hello() {
    const { thread, person, token } = this.#options;
    const hello = { type: "hello", thread, since: this.#since() };
    if (person) hello.person = person;
    if (token) hello.token = token;
    return hello;
  }

  #since() {
    return this.#missed ? null : (this.transcript.cursor ?? "start");
  }

  #post(message) {
    if (!this.#welcome || message.problem) return;
    const { problem, ...frame } = message;
    const data = JSON.stringify({ type: "send", ...frame });
    if (new TextEncoder().encode(data).length > this.maxMessageBytes) {
      message.problem = { code: "too_large", message: "This message is too long to send." };
      this.#emit("change");
      return;
    }
    this.#socket.send(data);
  }

  #write(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  #take(frame) {
    this.#expectSign(SILENCE, () => this.#ask());
    switch (frame.type) {
      case "welcome":
        this.#welcomed(frame);
        break;
      case "restart":
        this.transcript.restart(frame.snapshot, frame.cursor);
        break;
      case "ack":
        this.#stored(frame.id);
        break;
      case "error":
        this.#failed(frame);
        break;
      case "message":
        this.#stored(frame.id);
      // falls through
      default:
        if (frame.turn !== undefined && !this.transcript.apply(frame)) this.#startOver();
    }
    this.#emit("change");
  }

  #welcomed(frame) {
    this.person = frame.person;
    this.maxMessageBytes = frame.max_message_bytes;
    if (frame.snapshot) this.transcript.restart(frame.snapshot, frame.cursor);
    else if (!this.transcript.epoch) [this.transcript.epoch] = splitCursor(frame.cursor);
    // A server that lets clients in and sends them away again must not be stormed.
    this.#retries = Math.min(this.#retries, 1);
    this.#settling = setTimeout(() => (this.#retries = 0), STEADY);
    this.#missed = false;
    this.#welcome = true;
    this.#setStatus("open");
    for (const message of this.unsent.values()) this.#post(message);
  }

  /** Something is missing: show the conversation from a snapshot. */
  #startOver() {
    this.#drop();
    this.#missed = true;
    this.#again(FIRST_DELAY * Math.random());
  }

  #stored(id) {
    if (this.unsent.delete(id)) this.#save();
  }

  #failed(frame) {
    const message = this.unsent.get(frame.id);
    if (!message) return;
    if (PASSING.has(frame.code)) {
      setTimeout(() => this.#post(message), (frame.retry_after ?? RETRY / 1000) * 1000);
      return;
    }
    message.problem = { code: frame.code, message: frame.message };
    this.#save();
  }

  #lost(code, reason) {
    this.#drop();
    if (REFUSALS.has(code)) {
      this.refusal = { code, reason };
      this.#setStatus("refused");
      return;
    }
    if (code === 1009) this.#blameLargest();
    this.#again(this.#delay(code));
    this.#retries += 1;
  }

  /** How long to wait: when a server restarts, others are there to take over. */
  #delay(code) {
    if (code === 1012 && this.#retries === 0) return Math.random() * RESTART_SPREAD;
    const delay = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#retries);
    return ((1 + Math.random()) * delay) / 2;
  }

  /** The server closed because of a message's size: do not send it for ever. */
  #blameLargest() {
    const waiting = [...this.unsent.values()].filter((message) => !message.problem);
    waiting.sort((a, b) => b.text.length - a.text.length);
    if (waiting.length) {
      waiting[0].problem = { code: "too_large", message: "This message is too long to send." };
    }
  }

  #again(delay) {
    this.#setStatus("waiting");
    this.#timer = setTimeout(() => this.connect(), delay);
  }

  /** Ask for a sign of life: a broken connection can stay silent for minutes. */
  #ask() {
    this.#write({ type: "ping" });
    this.#expectSign(PATIENCE);
  }

  #expectSign(patience, otherwise = () => this.#lost(1006, "no sign of life")) {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(otherwise, patience);
  }

  #drop() {
    this.#clear();
    const socket = this.#socket;
    this.#socket = null;
    this.#welcome = false;
    if (socket) socket.close();
  }

  #clear() {
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
    clearTimeout(this.#settling);
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
    const kept = this.#options.storage?.getItem(this.#key);
    for (const message of kept ? JSON.parse(kept) : []) this.unsent.set(message.id, message);
  }

  #save() {
    const storage = this.#options.storage;
    if (!storage) return;
    if (this.unsent.size) storage.setItem(this.#key, JSON.stringify([...this.unsent.values()]));
    else storage.removeItem(this.#key);
  }
}
