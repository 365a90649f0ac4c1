/** The client against the real server at PALAVER_URL, which has the skills of the tests. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Palaver, newId } from "../../../static/palaver-client.js";

const palaver = new Palaver({ url: process.env.PALAVER_URL, person: "ada" });

/** Wait until a conversation is as `check` wants it. */
function until(conversation, check) {
  return new Promise((resolve) => {
    const look = () => {
      if (!check(conversation)) return;
      conversation.removeEventListener("change", look);
      resolve();
    };
    conversation.addEventListener("change", look);
    look();
  });
}

const isSettled = ({ state, unsent }) => state.turns.length > 0 && !unsent.length && !state.running;

test("a message gets its reply", async () => {
  const conversation = palaver.open(newId());
  conversation.send("naïve 雨 😀");
  await until(conversation, isSettled);
  const [turn] = conversation.state.turns;
  assert.deepEqual([turn.message, turn.text.trim(), turn.state], ["naïve 雨 😀", "naïve 雨 😀", "done"]);
  assert.equal(turn.skill, "parrot");
  conversation.close();
});

test("many conversations at once do not mix", async () => {
  const conversations = Array.from({ length: 8 }, () => palaver.open(newId()));
  conversations.forEach((conversation, number) => conversation.send(`number ${number}`));
  await Promise.all(conversations.map((conversation) => until(conversation, isSettled)));
  conversations.forEach((conversation, number) => {
    assert.deepEqual(conversation.state.turns.map(({ text }) => text.trim()), [`number ${number}`]);
    conversation.close();
  });
});

test("two clients of one conversation see the same, and a later one all of it", async () => {
  const thread = newId();
  const [first, second] = [palaver, new Palaver(palaver.options)].map((client) => client.open(thread));
  first.send("from the first");
  await until(second, isSettled);
  second.send("/waiter a drink");
  await until(first, ({ state }) => state.turns.at(-1)?.state === "asked");
  assert.deepEqual(first.state.turns.at(-1).question.options, ["tea", "coffee"]);
  const third = new Palaver(palaver.options).open(thread);
  await until(third, ({ state }) => state.turns.length === 2 && isSettled(third));
  assert.deepEqual(third.state.turns.map(({ message }) => message), ["from the first", "/waiter a drink"]);
  for (const conversation of [first, second, third]) conversation.close();
});

test("a refused message is kept with its problem", async () => {
  const conversation = palaver.open(newId());
  conversation.send("hello", { skill: "no-such-skill" });
  await until(conversation, ({ unsent }) => unsent[0]?.problem);
  assert.equal(conversation.unsent[0].problem.code, "not_found");
  conversation.close();
});

test("a file is uploaded, sent, read and deleted", async () => {
  const content = new Blob(["naïve 雨 😀"]);
  const progress = [];
  const onProgress = (sent, total) => progress.push([sent, total]);
  const file = await palaver.upload(content, { name: "a/b ?&#.txt", onProgress });
  assert.deepEqual([file.name, file.media_type, file.size], ["b _&#.txt", "text/plain", content.size]);
  assert.deepEqual(progress.at(-1), [content.size, content.size]);
  assert.equal((await palaver.files())[0].id, file.id);

  const thread = newId();
  const conversation = palaver.open(thread);
  conversation.send("", { attachments: [file] });
  assert.equal(conversation.unsent[0].attachments[0].name, file.name);
  await until(conversation, isSettled);
  const later = new Palaver(palaver.options).open(thread);
  await until(later, ({ state }) => state.turns.length === 1);
  for (const { state } of [conversation, later]) {
    const [attachment] = state.turns[0].messages[0].attachments;
    assert.deepEqual([attachment.name, attachment.size], [file.name, file.size]);
    assert.equal(await (await palaver.readFile(attachment, thread)).text(), "naïve 雨 😀");
  }
  assert.equal((await palaver.files())[0].expires_at, null);
  await palaver.deleteFile(file.id);
  await assert.rejects(palaver.readFile({ url: `/v1/files/${file.id}` }, thread), { status: 404 });
  conversation.close();
  later.close();
});

test("an upload is refused with a sentence, or aborted", async () => {
  await assert.rejects(palaver.upload(new Blob([])), ({ status, problem }) => {
    return status === 400 && problem.message.includes("empty");
  });
  const reason = new Error("enough");
  await assert.rejects(palaver.upload(new Blob(["x"]), { signal: AbortSignal.abort(reason) }), reason);
});

test("it knows the skills and the model", async () => {
  assert.ok((await palaver.skills()).some(({ name }) => name === "parrot"));
  assert.equal((await palaver.about()).model, "scripted");
});

test("a person's feedback is given, changed, read by others of them and withdrawn", async () => {
  const conversation = palaver.open(newId());
  conversation.send("rate me");
  await until(conversation, isSettled);
  const [turn] = conversation.state.turns;
  const { ratings, thread } = conversation;
  const changes = [];
  ratings.addEventListener("change", () => changes.push(ratings.of(turn.id)?.rating ?? null));
  const giving = ratings.give(turn.id, { rating: "up" });
  assert.equal(ratings.of(turn.id).rating, "up"); // at once
  await giving;
  // The requests are sent one after the other: the last one wins.
  const opinion = { rating: "down", reason: "incomplete", comment: "雨 😀" };
  await Promise.all([ratings.withdraw(turn.id), ratings.give(turn.id, opinion)]);
  assert.equal(changes.at(-1), "down");
  const [stored] = await palaver.feedback(thread);
  assert.deepEqual(stored, { ...opinion, turn: turn.id, skill: "parrot", at: stored.at });
  const again = new Palaver(palaver.options).open(thread);
  assert.equal(again.ratings.of(turn.id), null);
  await again.ratings.load();
  assert.deepEqual(again.ratings.of(turn.id), stored);
  await again.ratings.withdraw(turn.id);
  assert.equal(again.ratings.of(turn.id), null);
  await ratings.load();
  assert.equal(ratings.of(turn.id), null);
  for (const each of [conversation, again]) each.close();
});

test("feedback that is refused is as it was before", async () => {
  const conversation = palaver.open(newId());
  conversation.send("rate me");
  await until(conversation, isSettled);
  const [turn] = conversation.state.turns;
  const { ratings } = conversation;
  await ratings.give(turn.id, { rating: "up" });
  const refused = ratings.give(turn.id, { rating: "down", comment: "x".repeat(4001) });
  assert.equal(ratings.of(turn.id).rating, "down");
  await assert.rejects(refused, (error) => error.status === 400 && error.problem.code === "invalid_input");
  assert.equal(ratings.of(turn.id).rating, "up");
  await assert.rejects(ratings.give("no-such-turn", { rating: "up" }), { status: 404 });
  assert.equal(ratings.of("no-such-turn"), null);
  await ratings.withdraw("no-such-turn");
  conversation.close();
});

test("a text is replaced without another reply", async () => {
  const conversation = palaver.open(newId());
  conversation.send("a mistkae");
  await until(conversation, isSettled);
  const [{ id }] = conversation.state.turns;
  await conversation.revise(id, "a mistake");
  await until(conversation, ({ state }) => state.turns[0]?.message === "a mistake");
  assert.deepEqual(conversation.state.turns.map(({ text }) => text.trim()), ["a mistkae"]);
  await assert.rejects(conversation.revise("nothing", "x"), { status: 404 });
  conversation.close();
});

test("a conversation is shared, listed, changed and deleted by the person of the options", async () => {
  const thread = newId();
  const conversation = palaver.open(thread);
  conversation.send("hello");
  await until(conversation, isSettled);
  const share = await palaver.share(thread);
  assert.deepEqual(await palaver.shares(thread), [share]);
  const anybody = new Palaver({ url: process.env.PALAVER_URL });
  assert.deepEqual((await anybody.shared(share.id)).history.map(({ text }) => text.trim()), ["hello", "hello"]);
  await palaver.revokeShare(thread, share.id);
  await assert.rejects(anybody.shared(share.id), { status: 404 });
  assert.equal((await palaver.change(thread, { title: "A greeting" })).title, "A greeting");
  assert.ok((await palaver.list()).conversations.some((each) => each.title === "A greeting"));
  assert.equal((await palaver.remove(thread)).messages, 1);
  conversation.close();
});

test("what is kept about a person is counted, exported and erased", async () => {
  const person = new Palaver({ url: process.env.PALAVER_URL, person: "grace" });
  const conversation = person.open(newId());
  conversation.send("remember me");
  await until(conversation, isSettled);
  const summary = await person.summarizeData();
  assert.deepEqual([summary.conversations, summary.messages, summary.replies], [1, 1, 1]);
  assert.ok((await (await person.exportData()).text()).includes("remember me"));
  assert.equal((await person.eraseData()).messages, 1);
  assert.equal((await person.summarizeData()).messages, 0);
  const error = await palaver.get("/v1/nothing").catch((reason) => reason);
  assert.deepEqual([error.status, error.problem.code], [404, "not_found"]);
  conversation.close();
});
