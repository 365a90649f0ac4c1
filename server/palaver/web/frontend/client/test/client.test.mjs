/** The client against a server that the test plays. Run: node --test client/test/client.test.mjs */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ConversationState, Palaver, TokenRefused, canRetry } from "../../../static/palaver-client.js";

const TEXT = "naïve 雨 😀 👩‍👩‍👧 end";
const POINTS = Array.from(TEXT);

function piece(position, end, extra = {}) {
  const text = POINTS.slice(position, end).join("");
  return { type: "text", turn: "t", position, text, ...extra };
}

function finished(extra = {}) {
  return { type: "finished", turn: "t", outcome: "done", length: POINTS.length, problem: null, ...extra };
}

test("text that comes twice, whole or in part, is shown once, whatever the cut", () => {
  for (let live = 0; live <= POINTS.length; live += 1) {
    for (let from = 0; from <= live; from += 1) {
      const conversation = new ConversationState();
      assert.equal(conversation.apply(piece(0, live)), true);
      assert.equal(conversation.apply(piece(from, POINTS.length, { cursor: "e:1" })), true);
      assert.equal(conversation.apply(finished({ cursor: "e:2" })), true);
      assert.equal(conversation.turns[0].text, TEXT);
    }
  }
});

test("a gap in the text is detected", () => {
  const conversation = new ConversationState();
  conversation.apply(piece(0, 2));
  assert.equal(conversation.apply(piece(3, 5)), false);
  assert.equal(conversation.apply(finished()), false);
});

test("an event that was applied before is ignored by its cursor", () => {
  const conversation = new ConversationState();
  conversation.apply(piece(0, 4, { cursor: "e:1" }));
  conversation.apply({ type: "text_reset", turn: "t", position: 2, cursor: "e:2" });
  conversation.apply(piece(2, 6, { cursor: "e:3" }));
  conversation.apply({ type: "text_reset", turn: "t", position: 2, cursor: "e:2" });
  assert.equal(conversation.turns[0].text, POINTS.slice(0, 6).join(""));
  assert.equal(conversation.cursor, "e:3");
});

test("a later attempt withdraws what was never stored, the first does not", () => {
  const conversation = new ConversationState();
  conversation.apply(piece(0, 8));
  conversation.apply({ type: "started", turn: "t", attempt: 1, position: 0 });
  assert.equal(conversation.turns[0].length, 8);
  conversation.apply({ type: "started", turn: "t", attempt: 2, position: 7 });
  assert.equal(conversation.turns[0].text, POINTS.slice(0, 7).join(""));
});

test("a turn has a queue position until its text, a takeover or its end", () => {
  const ends = [
    piece(0, 2),
    { type: "started", turn: "t", attempt: 2, position: 0 },
    finished({ outcome: "stopped", length: 0 }),
  ];
  for (const end of ends) {
    const conversation = new ConversationState();
    conversation.apply({ type: "started", turn: "t", attempt: 1, position: 0 });
    assert.equal(conversation.turns[0].queuePosition, null);
    conversation.apply({ type: "queued", turn: "t", ahead: 3, cursor: "e:2" });
    assert.equal(conversation.turns[0].queuePosition, 3);
    conversation.apply(end);
    assert.equal(conversation.turns[0].queuePosition, null);
  }
});

test("a snapshot replaces the text and keeps the fields that it lacks", () => {
  const conversation = new ConversationState();
  const citation = { number: 1, document: "d", title: "", passage: "p", section: "" };
  conversation.apply({ type: "message", turn: "t", id: "m", person: "ada", text: "q", cursor: "e:1" });
  conversation.apply({ type: "citation", turn: "t", citation, cursor: "e:2" });
  conversation.applySnapshot(
    {
      history: [
        { role: "user", turn: "t", text: "q", person: "ada" },
        { role: "assistant", turn: "t", text: TEXT, skill: "qa", outcome: "done" },
      ],
      pending: [pendingTurn("u", "r", { running: true, reply: "😀" })],
    },
    "f:9",
  );
  const [done, running] = conversation.turns;
  assert.deepEqual([done.text, done.state, done.citations.length], [TEXT, "done", 1]);
  assert.deepEqual([running.length, running.state, conversation.turnsAhead(running)], [1, "running", 0]);
  assert.equal(conversation.cursor, "f:9");
});

test("the history of a reply has what its events have told", () => {
  const live = new ConversationState();
  for (const event of [
    { type: "routed", skill: "qa", reason: "It asks.", score: 0.5 },
    { type: "tool", name: "add", arguments: { a: 1 }, state: "started", result: "" },
    { type: "tool", name: "add", arguments: { a: 1 }, state: "done", result: "3" },
    { type: "tool", name: "wait", arguments: {}, state: "started", result: "" },
    { type: "question", question: "Which?", options: ["x", "y"] },
    { ...finished({ length: 0, outcome: "asked", finish_reason: "length", problem: { code: "c", message: "m" } }) },
  ]) {
    assert.equal(live.apply({ ...event, turn: "t" }), true);
  }
  const restored = new ConversationState();
  const entry = {
    role: "assistant", turn: "t", text: "", skill: "qa", outcome: "asked", reason: "It asks.", score: 0.5,
    tools: [{ name: "add", state: "done", arguments: { a: 1 }, result: "3" }, { name: "wait", state: "unknown" }],
    question: { text: "Which?", options: ["x", "y"] },
    problem: { code: "c", message: "m" },
    finish_reason: "length",
  };
  restored.applySnapshot({ history: [entry], pending: [] }, "e:1");
  const told = ({ reason, score, question, problem, finishReason, tools }) => ({
    reason, score, question, problem, finishReason,
    tools: tools.map(({ name, state, result }) => [name, state, result || ""]),
  });
  assert.deepEqual(told(restored.turns[0]), told(live.turns[0]));
  assert.deepEqual(told(live.turns[0]).tools, [["add", "done", "3"], ["wait", "unknown", ""]]);
  const old = new ConversationState();
  old.applySnapshot({ history: [{ role: "assistant", turn: "t", text: "", skill: "qa" }], pending: [] }, "e:1");
  const { reason, score, tools, question } = old.turns[0];
  assert.deepEqual([reason, score, tools, question], ["", null, [], null]);
});

test("a running turn of a snapshot has what its events have told", () => {
  const conversation = new ConversationState();
  const events = [
    { type: "routed", turn: "t", skill: "qa", reason: "It asks.", score: null },
    { type: "tool", turn: "t", name: "add", arguments: {}, state: "started", result: "" },
    { type: "queued", turn: "t", ahead: 2 },
    { type: "something newer", turn: "t" },
  ];
  const running = pendingTurn("t", "q", { running: true, reply: "so ", events });
  for (let time = 0; time < 2; time += 1) {
    conversation.applySnapshot({ history: [], pending: [running] }, "e:9");
    const [turn] = conversation.turns;
    assert.deepEqual([turn.text, turn.reason, turn.queuePosition, turn.tools.length], ["so ", "It asks.", 2, 1]);
  }
  conversation.apply({ type: "tool", turn: "t", name: "add", arguments: {}, state: "done", result: "3", cursor: "e:10" });
  assert.deepEqual(conversation.turns[0].tools.map(({ state }) => state), ["done"]);
});

function pendingTurn(turn, text, extra = {}) {
  const messages = [{ id: `${turn}-id`, person: "ada", text }];
  return { turn, messages, running: false, reply: "", ...extra };
}

function message(turn, id, text, extra = {}) {
  return { type: "message", turn, id, person: "ada", text, ahead: 0, ...extra };
}

test("a turn has all the messages that joined it, each once", () => {
  const conversation = new ConversationState();
  for (const id of ["a", "b", "b"]) conversation.apply(message("t", id, `text of ${id}`));
  assert.equal(conversation.turns[0].message, "text of a\n\ntext of b");
  conversation.applySnapshot(
    {
      history: [
        { role: "user", turn: "t", text: "text of a", person: "ada" },
        { role: "user", turn: "t", text: "text of b", person: "ada" },
        { role: "assistant", turn: "t", text: "ok", skill: "qa", outcome: "done" },
      ],
      pending: [],
    },
    "e:9",
  );
  assert.deepEqual(conversation.turns[0].messages.map(({ id }) => id), ["a", "b"]);
});

test("a moved message goes to its new turn, before those that wait", () => {
  const conversation = new ConversationState();
  conversation.apply(message("t", "a", "go"));
  conversation.apply({ type: "started", turn: "t", attempt: 1, position: 0 });
  conversation.apply(message("t", "b", "left"));
  conversation.apply(message("w", "c", "later", { ahead: 1 }));
  const waiting = conversation.turns.at(-1);
  assert.equal(conversation.turnsAhead(waiting), 1);
  conversation.apply({ type: "finished", turn: "t", outcome: "done", length: 0, problem: null });
  assert.equal(conversation.turnsAhead(waiting), 0);
  conversation.apply(message("n", "b", "left", { moved: true }));
  assert.deepEqual(conversation.turns.map(({ id }) => id), ["t", "n", "w"]);
  assert.equal(conversation.turns[0].message, "go");
  assert.equal(conversation.turnsAhead(waiting), 1);
});

test("a finished turn names the messages that it answered; another one moves", () => {
  const conversation = new ConversationState();
  const end = { type: "finished", outcome: "done", length: 0, problem: null };
  conversation.apply(message("t", "a", "go"));
  conversation.apply(message("t", "b", "left"));
  conversation.apply({ ...end, turn: "t", messages: ["a"] });
  assert.deepEqual(conversation.turns[0].taken, ["a"]);
  conversation.apply(message("n", "b", "left", { moved: true }));
  assert.equal(conversation.turns[1].isOpen, true);
  conversation.apply({ ...end, turn: "n", messages: ["b"] });
  assert.deepEqual(conversation.turns.map(({ taken }) => taken), [["a"], ["b"]]);
});

test("events of a newer server are ignored", () => {
  assert.equal(new ConversationState().apply({ type: "telepathy", turn: "t" }), true);
});

/** A websocket with the test as its server. */
class FakeSocket {
  static made = [];
  constructor(url) {
    this.url = url;
    this.sent = [];
    this.readyState = 0;
    FakeSocket.made.push(this);
  }
  send(data) {
    this.sent.push(JSON.parse(data));
  }
  close() {
    this.readyState = 3;
  }
  open() {
    this.readyState = 1;
    this.onopen();
  }
  say(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }
  end(code, reason = "") {
    this.readyState = 3;
    this.onclose({ code, reason });
  }
}

class FakeStorage extends Map {
  getItem(key) {
    return this.get(key) ?? null;
  }
  setItem(key, value) {
    this.set(key, value);
  }
  removeItem(key) {
    this.delete(key);
  }
}

function opened(t, storage = new FakeStorage()) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  FakeSocket.made = [];
  const palaver = new Palaver({ url: "http://x", WebSocket: FakeSocket, storage });
  const client = palaver.open("t");
  return { palaver, client, storage, socket: FakeSocket.made[0] };
}

const WELCOME = {
  type: "welcome", recovered: true, cursor: "e:0", person: "ada", max_message_bytes: 1000,
};

test("it asks for every event first, and for the rest after a reconnect", (t) => {
  const { client, socket } = opened(t);
  socket.open();
  assert.equal(socket.sent[0].since, "start");
  socket.say(WELCOME);
  socket.say({ ...piece(0, 3), cursor: "e:4" });
  socket.end(1006);
  assert.equal(client.status, "reconnecting");
  t.mock.timers.tick(500);
  FakeSocket.made[1].open();
  assert.equal(FakeSocket.made[1].sent[0].since, "e:4");
  client.close();
});

test("a message is sent again with its id until the server has stored it, also after a reload", (t) => {
  const { client, socket, storage } = opened(t);
  const id = client.send("hello");
  assert.equal(socket.sent.length, 0);
  socket.open();
  socket.say(WELCOME);
  assert.deepEqual(socket.sent[1], { type: "send", id, text: "hello" });
  client.close();
  const later = new Palaver({ url: "http://x", WebSocket: FakeSocket, storage }).open("t");
  const next = FakeSocket.made.at(-1);
  next.open();
  next.say(WELCOME);
  assert.equal(next.sent[1].id, id);
  next.say({ type: "ack", id, turn: "t", ahead: 0, duplicate: true });
  assert.equal(later.unsent.length, 0);
  assert.equal(storage.size, 0);
  later.close();
});

test("a refused message is kept with the reason and can be sent again or discarded", (t) => {
  const { client, socket } = opened(t);
  socket.open();
  socket.say(WELCOME);
  const id = client.send("hello");
  socket.say({ type: "error", code: "not_found", message: "There is no skill.", id });
  assert.equal(client.unsent.find((message) => message.id === id).problem.message, "There is no skill.");
  client.retry(id);
  assert.equal(socket.sent.at(-1).id, id);
  client.discard(id);
  assert.equal(client.unsent.length, 0);
  client.close();
});

test("a message that an overloaded server refused is sent again later", (t) => {
  const { client, socket } = opened(t);
  socket.open();
  socket.say(WELCOME);
  const id = client.send("hello");
  socket.say({ type: "error", code: "overloaded", message: "Busy.", id, retry_after: 3 });
  assert.equal(socket.sent.length, 2);
  t.mock.timers.tick(3000);
  assert.equal(socket.sent.at(-1).id, id);
  assert.equal(socket.sent.length, 3);
  client.close();
});

test("a message that is too long is not sent at all", (t) => {
  const { client, socket } = opened(t);
  socket.open();
  socket.say(WELCOME);
  const id = client.send("é".repeat(600));
  assert.equal(client.unsent.find((message) => message.id === id).problem.code, "too_large");
  assert.equal(socket.sent.length, 1);
  client.close();
});

test("after a gap the client reconnects for a snapshot", (t) => {
  const { client, socket } = opened(t);
  socket.open();
  socket.say(WELCOME);
  socket.say(piece(5, 7));
  t.mock.timers.tick(500);
  FakeSocket.made[1].open();
  assert.equal(FakeSocket.made[1].sent[0].since, null);
  client.close();
});

test("a reset replaces the conversation", (t) => {
  const { client, socket } = opened(t);
  socket.open();
  socket.say(WELCOME);
  socket.say({ ...piece(0, 3), cursor: "e:4" });
  socket.say({ type: "reset", recovered: false, cursor: "f:2", snapshot: { history: [], pending: [] } });
  assert.deepEqual(client.state.turns, []);
  assert.equal(client.state.cursor, "f:2");
  client.close();
});

test("a refusal is final, any other close is followed by a reconnect with backoff", (t) => {
  for (const code of [4400, 4401, 4403]) {
    const { client, socket } = opened(t);
    socket.open();
    socket.end(code, "no");
    assert.deepEqual([client.status, client.refusal.code], ["refused", code]);
    t.mock.timers.reset();
  }
  const { client } = opened(t);
  for (let round = 0; round < 8; round += 1) {
    FakeSocket.made.at(-1).end([1006, 1012, 1013, 4408, 4429][round % 5]);
    assert.equal(client.status, "reconnecting");
    t.mock.timers.tick(20_000);
    assert.equal(FakeSocket.made.length, round + 2);
  }
  client.close();
});

/** Return the number of reconnects within each of some spans of ms, with a fixed random number. */
function reconnects(t, random, code, spans) {
  t.mock.method(Math, "random", () => random);
  const { client, socket } = opened(t);
  socket.open();
  socket.say(WELCOME);
  t.mock.timers.tick(2_000);
  socket.end(code);
  const counts = spans.map((span) => {
    const before = FakeSocket.made.length;
    t.mock.timers.tick(span);
    const made = FakeSocket.made.length - before;
    if (made) FakeSocket.made.at(-1).end(1006); // no server
    return made;
  });
  client.close();
  t.mock.timers.reset();
  return counts;
}

test("it reconnects at random within 0.1 s when a server restarts", (t) => {
  assert.deepEqual(reconnects(t, 0, 1012, [1]), [1]);
  assert.deepEqual(reconnects(t, 0.999, 1012, [98, 2]), [0, 1]);
  // When that fails, no sooner than after any other close.
  assert.deepEqual(reconnects(t, 0.999, 1012, [100, 998, 2]), [1, 0, 1]);
});

test("the backoff doubles, half of it random, up to 20 seconds", (t) => {
  const waits = [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000];
  const early = waits.flatMap((wait) => [wait - 1, 1]);
  assert.deepEqual(reconnects(t, 0, 1006, early), waits.flatMap(() => [0, 1]));
  const late = waits.flatMap((wait) => [2 * wait - 1, 1]);
  assert.deepEqual(reconnects(t, 1, 1006, late), waits.flatMap(() => [0, 1]));
});

test("the backoff is kept when a server accepts and closes at once", (t) => {
  t.mock.method(Math, "random", () => 0);
  const { client } = opened(t);
  const acceptAndClose = () => {
    FakeSocket.made.at(-1).open();
    FakeSocket.made.at(-1).say(WELCOME);
    FakeSocket.made.at(-1).end(1012);
  };
  acceptAndClose();
  t.mock.timers.tick(1);
  for (let round = 0; round < 5; round += 1) {
    const before = FakeSocket.made.length;
    acceptAndClose();
    t.mock.timers.tick(499);
    assert.equal(FakeSocket.made.length, before);
    t.mock.timers.tick(1);
    assert.equal(FakeSocket.made.length, before + 1);
  }
  client.close();
});

test("messages that are answered together are one turn", () => {
  const conversation = new ConversationState();
  const message = { type: "message", turn: "t", person: "ada" };
  conversation.apply({ ...message, id: "m", text: "one", cursor: "e:1" });
  conversation.apply({ ...message, id: "n", text: "two", cursor: "e:2" });
  conversation.apply({ ...message, id: "n", text: "two", cursor: "e:2" });
  assert.equal(conversation.turns.length, 1);
  assert.equal(conversation.turns[0].message, "one\n\ntwo");
});

test("a silent connection gets a ping and is replaced without an answer", (t) => {
  const { client, socket } = opened(t);
  socket.open();
  socket.say(WELCOME);
  t.mock.timers.tick(25_000);
  assert.deepEqual(socket.sent.at(-1), { type: "ping" });
  socket.say({ type: "pong" });
  t.mock.timers.tick(25_000);
  t.mock.timers.tick(10_000);
  assert.equal(client.status, "reconnecting");
  client.close();
});

test("a conversation that is opened twice has one connection, until it is closed twice", (t) => {
  const { palaver, client, socket } = opened(t);
  assert.equal(socket.url, "ws://x/ws");
  assert.equal(palaver.open("t"), client);
  assert.equal(FakeSocket.made.length, 1);
  client.close();
  assert.equal(socket.readyState, 0);
  client.close();
  assert.equal(socket.readyState, 3);
  client.close(); // once too often: nothing happens
  assert.notEqual(palaver.open("t"), client);
});

test("two conversations are two connections that do not mix", (t) => {
  const { palaver, client, socket } = opened(t);
  const other = palaver.open("u");
  assert.deepEqual(FakeSocket.made.map(({ sent }) => sent.length), [0, 0]);
  for (const made of FakeSocket.made) {
    made.open();
    made.say(WELCOME);
  }
  assert.deepEqual(FakeSocket.made.map(({ sent }) => sent[0].thread), ["t", "u"]);
  other.send("only for u");
  assert.equal(socket.sent.length, 1);
  FakeSocket.made[1].say(message("x", "m", "hello", { cursor: "e:1" }));
  assert.equal(client.state.turns.length, 0);
  assert.equal(other.state.turns.length, 1);
});

test("a settled turn of a snapshot is never open, also without a reply", () => {
  const conversation = new ConversationState();
  const question = { role: "user", turn: "t", text: "q", person: "ada" };
  conversation.applySnapshot({ history: [question], pending: [] }, "e:3");
  assert.equal(conversation.running, null);
  const stopped = { role: "assistant", turn: "t", text: "", skill: "", outcome: "stopped" };
  conversation.applySnapshot({ history: [question, stopped], pending: [] }, "e:3");
  assert.deepEqual(conversation.turns.map(({ state, text }) => [state, text]), [["stopped", ""]]);
});

test("an earlier page of history comes before the turns, and completes one that it cuts", () => {
  const conversation = new ConversationState();
  const entry = (role, turn, text) => ({ role, turn, text, ...(role === "user" ? {} : { outcome: "done" }) });
  conversation.applySnapshot(
    { history: [entry("assistant", "b", "yes"), entry("user", "c", "3"), entry("assistant", "c", "three")],
      pending: [], earlier: "e:2" },
    "e:9",
  );
  assert.equal(conversation.earlier, "e:2");
  conversation.prepend([entry("user", "a", "1"), entry("assistant", "a", "one"), entry("user", "b", "2")], "");
  assert.deepEqual(
    conversation.turns.map((turn) => [turn.message, turn.text]),
    [["1", "one"], ["2", "yes"], ["3", "three"]],
  );
  assert.equal(conversation.earlier, "");
});

test("another attempt is offered only for problems that may pass", () => {
  for (const code of ["engine", "engine_unavailable", "engine_timeout", "overloaded", "too_many", "skill", undefined]) {
    assert.equal(canRetry(code), true, code);
  }
  for (const code of ["too_large", "invalid_input", "forbidden", "not_found", "conflict", "prompt_too_long"]) {
    assert.equal(canRetry(code), false, code);
  }
});

/** Open a conversation whose tokens are `a`, `b`, … and last 600 seconds, or that `provide` gives. */
function openedWithTokens(t, provide) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  FakeSocket.made = [];
  let asked = 0;
  const token = async () => {
    asked += 1;
    return provide ? provide(asked) : { token: "abcdef"[asked - 1], expiresIn: 600 };
  };
  const palaver = new Palaver({ url: "http://x", WebSocket: FakeSocket, token });
  const client = palaver.open("t");
  return { palaver, client, count: () => asked };
}

/** Let promises settle. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

test("a token is asked for before the connection, once for all conversations, and renewed over it", async (t) => {
  const { palaver, client, count } = openedWithTokens(t);
  const other = palaver.open("u");
  assert.deepEqual([client.status, FakeSocket.made.length], ["connecting", 0]);
  await settle();
  assert.equal(FakeSocket.made.length, 2);
  for (const socket of FakeSocket.made) {
    socket.open();
    assert.equal(socket.sent[0].token, "a");
    socket.say(WELCOME);
  }
  for (const next of ["b", "c"]) {
    for (let minute = 0; minute < 8; minute += 1) {
      t.mock.timers.tick(59_999);
      for (const socket of FakeSocket.made) socket.say({ type: "pong" });
    }
    t.mock.timers.tick(8);
    await settle();
    for (const socket of FakeSocket.made) {
      assert.deepEqual(socket.sent.at(-1), { type: "refresh", token: next });
      socket.say({ type: "refreshed" });
    }
  }
  assert.equal(count(), 3);
  client.close();
  other.close();
});

test("an expired token is renewed before a reconnect", async (t) => {
  const { client } = openedWithTokens(t);
  await settle();
  FakeSocket.made[0].open();
  FakeSocket.made[0].say(WELCOME);
  t.mock.timers.setTime(600_000);
  FakeSocket.made[0].end(1006);
  t.mock.timers.tick(500);
  await settle();
  FakeSocket.made[1].open();
  assert.equal(FakeSocket.made[1].sent[0].token, "b");
  client.close();
});

test("a token that the server refuses is replaced once", async (t) => {
  const { client } = openedWithTokens(t);
  for (const token of ["a", "b"]) {
    await settle();
    FakeSocket.made.at(-1).open();
    assert.equal(FakeSocket.made.at(-1).sent[0].token, token);
    FakeSocket.made.at(-1).end(4401, "unknown token");
    t.mock.timers.tick(1_000);
  }
  assert.deepEqual([client.status, client.refusal.reason], ["refused", "unknown token"]);
  client.close();
});

test("without a token there is no connection: a refusal is final, anything else is tried again", async (t) => {
  const { client, count } = openedWithTokens(t, (asked) => {
    if (asked === 1) throw new TypeError("Failed to fetch");
    throw new TokenRefused("no site has this key");
  });
  await settle();
  assert.equal(client.status, "reconnecting");
  t.mock.timers.tick(500);
  await settle();
  assert.deepEqual([client.status, client.refusal], ["refused", { code: 4401, reason: "no site has this key" }]);
  t.mock.timers.tick(60_000);
  assert.deepEqual([count(), FakeSocket.made.length], [2, 0]);
  client.close();
});

test("a conversation that is closed while its token is on the way does not connect", async (t) => {
  const { client } = openedWithTokens(t);
  client.close();
  await settle();
  assert.deepEqual([client.status, FakeSocket.made.length], ["closed", 0]);
});

test("requests carry a token that is renewed, and forget one that is refused", async (t) => {
  const { palaver, client } = openedWithTokens(t);
  const sent = [];
  t.mock.method(globalThis, "fetch", async (_url, { headers }) => {
    sent.push(headers.Authorization);
    return new Response(JSON.stringify({ skills: [] }), { status: sent.length === 1 ? 401 : 200 });
  });
  await assert.rejects(palaver.skills());
  await palaver.skills();
  await palaver.skills();
  assert.deepEqual(sent, ["Bearer a", "Bearer b", "Bearer b"]);
  client.close();
});
