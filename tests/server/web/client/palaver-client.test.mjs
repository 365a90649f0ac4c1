/** The client's healing and its reconnecting, without a browser: node --test tests/server/web/client */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, Transcript } from "../../../../server/palaver/web/static/palaver-client.js";

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
      const transcript = new Transcript();
      assert.equal(transcript.apply(piece(0, live)), true);
      assert.equal(transcript.apply(piece(from, POINTS.length, { cursor: "e:1" })), true);
      assert.equal(transcript.apply(finished({ cursor: "e:2" })), true);
      assert.equal(transcript.turns[0].text, TEXT);
    }
  }
});

test("a gap is noticed", () => {
  const transcript = new Transcript();
  transcript.apply(piece(0, 2));
  assert.equal(transcript.apply(piece(3, 5)), false);
  assert.equal(transcript.apply(finished()), false);
});

test("an event that was seen is passed over by its cursor", () => {
  const transcript = new Transcript();
  transcript.apply(piece(0, 4, { cursor: "e:1" }));
  transcript.apply({ type: "text_reset", turn: "t", position: 2, cursor: "e:2" });
  transcript.apply(piece(2, 6, { cursor: "e:3" }));
  transcript.apply({ type: "text_reset", turn: "t", position: 2, cursor: "e:2" });
  assert.equal(transcript.turns[0].text, POINTS.slice(0, 6).join(""));
  assert.equal(transcript.cursor, "e:3");
});

test("a later attempt withdraws what was never stored, the first does not", () => {
  const transcript = new Transcript();
  transcript.apply(piece(0, 8));
  transcript.apply({ type: "started", turn: "t", attempt: 1, position: 0 });
  assert.equal(transcript.turns[0].length, 8);
  transcript.apply({ type: "started", turn: "t", attempt: 2, position: 7 });
  assert.equal(transcript.turns[0].text, POINTS.slice(0, 7).join(""));
});

test("a turn is in line until its text comes, or another worker takes it, or it ends", () => {
  const ends = [
    piece(0, 2),
    { type: "started", turn: "t", attempt: 2, position: 0 },
    finished({ outcome: "stopped", length: 0 }),
  ];
  for (const end of ends) {
    const transcript = new Transcript();
    transcript.apply({ type: "started", turn: "t", attempt: 1, position: 0 });
    assert.equal(transcript.turns[0].line, null);
    transcript.apply({ type: "queued", turn: "t", ahead: 3, cursor: "e:2" });
    assert.equal(transcript.turns[0].line, 3);
    transcript.apply(end);
    assert.equal(transcript.turns[0].line, null);
  }
});

test("a snapshot replaces the text and keeps what it does not tell", () => {
  const transcript = new Transcript();
  const citation = { number: 1, document: "d", title: "", passage: "p", section: "" };
  transcript.apply({ type: "message", turn: "t", id: "m", person: "ada", text: "q", cursor: "e:1" });
  transcript.apply({ type: "citation", turn: "t", citation, cursor: "e:2" });
  transcript.restart(
    {
      history: [
        { role: "user", turn: "t", text: "q", person: "ada" },
        { role: "assistant", turn: "t", text: TEXT, skill: "qa", outcome: "done" },
      ],
      pending: [pendingTurn("u", "r", { running: true, reply: "😀" })],
    },
    "f:9",
  );
  const [done, running] = transcript.turns;
  assert.deepEqual([done.text, done.state, done.citations.length], [TEXT, "done", 1]);
  assert.deepEqual([running.length, running.state, transcript.ahead(running)], [1, "running", 0]);
  assert.equal(transcript.cursor, "f:9");
});

function pendingTurn(turn, text, extra = {}) {
  const messages = [{ id: `${turn}-id`, person: "ada", text }];
  return { turn, id: `${turn}-id`, person: "ada", text, messages, running: false, reply: "", ...extra };
}

function message(turn, id, text, extra = {}) {
  return { type: "message", turn, id, person: "ada", text, ahead: 0, ...extra };
}

test("a turn has all the messages that joined it, each once", () => {
  const transcript = new Transcript();
  for (const id of ["a", "b", "b"]) transcript.apply(message("t", id, `text of ${id}`));
  assert.equal(transcript.turns[0].message, "text of a\n\ntext of b");
  transcript.restart(
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
  assert.deepEqual(transcript.turns[0].messages.map(({ id }) => id), ["a", "b"]);
});

test("a message that is moved leaves its turn and comes before those that wait", () => {
  const transcript = new Transcript();
  transcript.apply(message("t", "a", "go"));
  transcript.apply({ type: "started", turn: "t", attempt: 1, position: 0 });
  transcript.apply(message("t", "b", "left"));
  transcript.apply(message("w", "c", "later", { ahead: 1 }));
  const waiting = transcript.turns.at(-1);
  assert.equal(transcript.ahead(waiting), 1);
  transcript.apply({ type: "finished", turn: "t", outcome: "done", length: 0, problem: null });
  assert.equal(transcript.ahead(waiting), 0);
  transcript.apply(message("n", "b", "left", { moved: true }));
  assert.deepEqual(transcript.turns.map(({ id }) => id), ["t", "n", "w"]);
  assert.equal(transcript.turns[0].message, "go");
  assert.equal(transcript.ahead(waiting), 1);
});

test("events of a newer server are passed over", () => {
  assert.equal(new Transcript().apply({ type: "telepathy", turn: "t" }), true);
});

/** A websocket that a test speaks for. */
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

test("it asks for everything first, and for the rest after a cut", (t) => {
  const { client, socket } = opened(t);
  socket.open();
  assert.equal(socket.sent[0].since, "start");
  socket.say(WELCOME);
  socket.say({ ...piece(0, 3), cursor: "e:4" });
  socket.end(1006);
  assert.equal(client.status, "waiting");
  t.mock.timers.tick(500);
  FakeSocket.made[1].open();
  assert.equal(FakeSocket.made[1].sent[0].since, "e:4");
  client.close();
});

test("a message is sent again with its id until the server has it, also after a reload", (t) => {
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

test("a refused message is kept with the reason and can be sent again or dropped", (t) => {
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

test("an overloaded server gets the message again later", (t) => {
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

test("a gap begins anew from a snapshot", (t) => {
  const { client, socket } = opened(t);
  socket.open();
  socket.say(WELCOME);
  socket.say(piece(5, 7));
  t.mock.timers.tick(500);
  FakeSocket.made[1].open();
  assert.equal(FakeSocket.made[1].sent[0].since, null);
  client.close();
});

test("a refusal is final, anything else is tried again, later each time", (t) => {
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
    assert.equal(client.status, "waiting");
    t.mock.timers.tick(20_000);
    assert.equal(FakeSocket.made.length, round + 2);
  }
  client.close();
});

/** The reconnects that come within each of some spans of ms, when chance says `random`. */
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
    if (made) FakeSocket.made.at(-1).end(1006); // nobody there
    return made;
  });
  client.close();
  t.mock.timers.reset();
  return counts;
}

test("it comes back at random within a tenth of a second when a server restarts", (t) => {
  assert.deepEqual(reconnects(t, 0, 1012, [1]), [1]);
  assert.deepEqual(reconnects(t, 0.999, 1012, [98, 2]), [0, 1]);
  // If there is nobody else, no sooner than after any other loss.
  assert.deepEqual(reconnects(t, 0.999, 1012, [100, 998, 2]), [1, 0, 1]);
});

test("it waits twice as long each time, half of it at random, and at most 20 seconds", (t) => {
  const waits = [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000];
  const early = waits.flatMap((wait) => [wait - 1, 1]);
  assert.deepEqual(reconnects(t, 0, 1006, early), waits.flatMap(() => [0, 1]));
  const late = waits.flatMap((wait) => [2 * wait - 1, 1]);
  assert.deepEqual(reconnects(t, 1, 1006, late), waits.flatMap(() => [0, 1]));
});

test("a server that lets it in and sends it away is not stormed", (t) => {
  t.mock.method(Math, "random", () => 0);
  const { client } = opened(t);
  const visit = () => {
    FakeSocket.made.at(-1).open();
    FakeSocket.made.at(-1).say(WELCOME);
    FakeSocket.made.at(-1).end(1012);
  };
  visit();
  t.mock.timers.tick(1);
  for (let round = 0; round < 5; round += 1) {
    const before = FakeSocket.made.length;
    visit();
    t.mock.timers.tick(499);
    assert.equal(FakeSocket.made.length, before);
    t.mock.timers.tick(1);
    assert.equal(FakeSocket.made.length, before + 1);
  }
  client.close();
});

test("messages that are answered together are one turn", () => {
  const transcript = new Transcript();
  const message = { type: "message", turn: "t", person: "ada" };
  transcript.apply({ ...message, id: "m", text: "one", cursor: "e:1" });
  transcript.apply({ ...message, id: "n", text: "two", cursor: "e:2" });
  transcript.apply({ ...message, id: "n", text: "two", cursor: "e:2" });
  assert.equal(transcript.turns.length, 1);
  assert.equal(transcript.turns[0].message, "one\n\ntwo");
});

test("a silent connection is asked for a sign of life and given up without one", (t) => {
  const { client, socket } = opened(t);
  socket.open();
  socket.say(WELCOME);
  t.mock.timers.tick(25_000);
  assert.deepEqual(socket.sent.at(-1), { type: "ping" });
  socket.say({ type: "pong" });
  t.mock.timers.tick(25_000);
  t.mock.timers.tick(10_000);
  assert.equal(client.status, "waiting");
  client.close();
});
