/** The client without a browser. Run: node --test tests/server/web/client */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, ConversationState } from "../../../../server/palaver/web/static/palaver-client.js";

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
  const client = new Client({ url: "ws://x/ws", thread: "t", WebSocket: FakeSocket, storage });
  client.connect();
  return { client, storage, socket: FakeSocket.made[0] };
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
  const later = new Client({ url: "ws://x/ws", thread: "t", WebSocket: FakeSocket, storage });
  later.connect();
  const next = FakeSocket.made.at(-1);
  next.open();
  next.say(WELCOME);
  assert.equal(next.sent[1].id, id);
  next.say({ type: "ack", id, turn: "t", ahead: 0, duplicate: true });
  assert.equal(later.unsent.size, 0);
  assert.equal(storage.size, 0);
  later.close();
});

test("a refused message is kept with the reason and can be sent again or discarded", (t) => {
  const { client, socket } = opened(t);
  socket.open();
  socket.say(WELCOME);
  const id = client.send("hello");
  socket.say({ type: "error", code: "not_found", message: "There is no skill.", id });
  assert.equal(client.unsent.get(id).problem.message, "There is no skill.");
  client.retry(id);
  assert.equal(socket.sent.at(-1).id, id);
  client.discard(id);
  assert.equal(client.unsent.size, 0);
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
  assert.equal(client.unsent.get(id).problem.code, "too_large");
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
  assert.deepEqual(client.conversation.turns, []);
  assert.equal(client.conversation.cursor, "f:2");
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
