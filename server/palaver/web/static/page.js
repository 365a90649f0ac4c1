/** The page: draws a conversation and lets a person take part in it. */

import { Client, newId } from "./palaver-client.js";
import { render } from "./markdown.js";

const $ = (id) => document.getElementById(id);
const NEAR_END = 80; // px from the end within which the view follows the reply
const BRIEF = 1_000; // ms for which a lost connection is not worth a word

/** Storage that also works where the browser refuses it. */
function keep(storage) {
  const held = new Map();
  return {
    getItem(key) {
      try {
        return storage().getItem(key);
      } catch {
        return held.get(key) ?? null;
      }
    },
    setItem(key, value) {
      held.set(key, value);
      try {
        storage().setItem(key, value);
      } catch {
        // full or forbidden: then only this page remembers
      }
    },
    removeItem(key) {
      held.delete(key);
      try {
        storage().removeItem(key);
      } catch {
        // as above
      }
    },
  };
}

const lasting = keep(() => window.localStorage);
const fleeting = keep(() => window.sessionStorage);

function remembered(key) {
  const known = lasting.getItem(key);
  if (known) return known;
  const fresh = newId();
  lasting.setItem(key, fresh);
  return fresh;
}

function make(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

let client = null;
let skills = [];
let following = true;
let scheduled = false;
let mention = null;
const drawn = new Map(); // turn id to {article, version}
const awaited = new Set(); // ids of messages written here whose reply is not complete

// The connection

function token() {
  return fleeting.getItem("palaver.token");
}

function open(thread) {
  client?.close();
  drawn.clear();
  $("log").replaceChildren();
  following = true;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  client = new Client({
    url: `${scheme}://${location.host}/ws`,
    thread,
    // A key says who speaks; without one the browser is somebody of its own.
    person: token() ? null : remembered("palaver.person"),
    token: token(),
    storage: lasting,
  });
  const here = client;
  client.addEventListener("change", () => here === client && schedule());
  client.addEventListener("status", () => here === client && showStatus());
  client.connect();
  schedule();
}

function showStatus() {
  if (client.status === "waiting") {
    mention ??= setTimeout(() => tell("The connection is lost. Trying again…"), BRIEF);
  } else if (client.status !== "connecting") {
    clearTimeout(mention);
    mention = null;
    tell("");
  }
  if (client.status === "refused") refused();
  if (client.status === "open") schedule();
}

/** Words about the connection, or none. */
function tell(words) {
  $("connection").textContent = words;
  $("connection").hidden = !words;
}

function refused() {
  if (client.refusal.code === 4401) {
    askForKey();
  } else if (client.refusal.code === 4403 && !token()) {
    tell("This conversation belongs to someone else.");
  } else {
    tell(client.refusal.reason || "This conversation cannot be opened.");
  }
}

function askForKey() {
  const wrong = Boolean(token());
  $("key-title").textContent = wrong ? "That key is not known here" : "This server asks for a key";
  $("key").value = "";
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

$("key-form").addEventListener("submit", () => {
  fleeting.setItem("palaver.token", $("key").value.trim());
  load();
  open(remembered("palaver.thread"));
});

window.addEventListener("online", () => client.wake());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) client.wake();
});

async function fetchJson(path) {
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  const response = await fetch(path, { headers });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

/** Skills and model; the conversation does not wait for them. */
async function load() {
  try {
    const [about, listed] = await Promise.all([fetchJson("/v1/about"), fetchJson("/v1/skills")]);
    skills = listed.skills;
    showModel(about);
    showSkills();
    schedule();
  } catch {
    // The conversation itself tells what is wrong.
  }
}

function showModel(about) {
  $("model").hidden = !about.model;
  $("model").textContent = about.model ?? "";
  $("model").title = `Model: ${about.model}`;
  $("note").hidden = !about.demonstration;
  $("note").textContent = about.demonstration
    ? `${about.model} is a small demonstration model: expect short and often wrong answers.`
    : "";
}

function showSkills() {
  $("skills").replaceChildren(
    ...skills.map((skill) => {
      const button = make(
        "button",
        { type: "button" },
        make("strong", {}, title(skill.name)),
        make("span", {}, skill.description),
      );
      button.addEventListener("click", () => begin(`/${skill.name} `));
      return make("li", {}, button);
    }),
  );
}

function title(name) {
  if (name.length <= 3) return name.toUpperCase();
  const words = name.replaceAll(/[-_]/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// Drawing

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

function draw() {
  const transcript = client.transcript;
  const turns = transcript.turns;
  const unsent = [...client.unsent.values()];
  drawTurns(turns, transcript);
  drawUnsent(unsent);
  const blank = !turns.length && !unsent.length;
  // Before the first welcome nobody knows whether the conversation is empty.
  $("empty").hidden = !(blank && client.status === "open");
  const running = transcript.running;
  $("stop").hidden = !running;
  $("send").hidden = Boolean(running) && !$("text").value.trim();
  $("send").setAttribute("aria-disabled", String(!$("text").value.trim()));
  if (following) toEnd();
  showLatest();
}

function drawTurns(turns, transcript) {
  const log = $("log");
  const known = new Set(turns.map((turn) => turn.id));
  for (const [id, held] of drawn) {
    if (!known.has(id)) {
      held.article.remove();
      drawn.delete(id);
    }
  }
  turns.forEach((turn, index) => {
    const ahead = turn.open ? transcript.ahead(turn) : 0;
    const version = `${turn.version} ${turn.state} ${ahead} ${index === turns.length - 1}`;
    let held = drawn.get(turn.id);
    if (!held) {
      held = { article: makeTurn(), version: "" };
      drawn.set(turn.id, held);
    }
    const before = log.children[index];
    if (before !== held.article) log.insertBefore(held.article, before ?? null);
    if (held.version === version) return;
    held.version = version;
    drawTurn(held.article, turn, ahead, index === turns.length - 1);
  });
}

function makeTurn() {
  return make(
    "article",
    { className: "turn" },
    make("p", { className: "hidden" }, "You wrote:"),
    make("div", { className: "messages" }),
    make("p", { className: "caption" }),
    make("div", { className: "reply" }),
    make("div", { className: "rest" }),
  );
}

function drawTurn(article, turn, ahead, last) {
  const [, asked, caption, reply, rest] = article.children;
  // A screen reader reads the reply once, when it is complete.
  article.setAttribute("aria-busy", String(turn.open));
  drawMessages(asked, turn.messages);
  caption.replaceChildren(...captionOf(turn, ahead));
  caption.hidden = !caption.childNodes.length;
  const cited = turn.citations.length;
  render(reply, turn.text, (number) => mark(turn, article, number), cited);
  reply.classList.toggle("writing", turn.state === "running");
  drawRest(rest, turn, last);
  if (turn.open) return;
  const mine = turn.messages.filter((message) => awaited.delete(message.id));
  if (mine.length) announce(OUTCOMES[turn.state] ?? "");
}

function drawMessages(node, messages) {
  const key = JSON.stringify(messages);
  if (node.drawnKey === key) return;
  node.drawnKey = key;
  node.replaceChildren(
    ...messages.map((message) => make("div", { className: "asked" }, message.text)),
  );
}

const OUTCOMES = {
  done: "The reply is complete.",
  asked: "A question for you.",
  stopped: "The reply was stopped.",
  failed: "The reply failed.",
};

function captionOf(turn, ahead) {
  const parts = [];
  if (turn.skill) parts.push(make("strong", {}, title(turn.skill)));
  if (turn.reason) parts.push(make("span", {}, turn.reason));
  if (turn.score !== null && turn.score !== undefined) {
    parts.push(make("span", {}, `${Math.round(turn.score * 100)} % sure`));
  }
  const state = stateOf(turn, ahead);
  if (state) parts.push(make("span", { className: "state" }, state));
  return parts;
}

function stateOf(turn, ahead) {
  if (turn.state === "waiting" && ahead) {
    return ahead === 1 ? "Waiting: one message comes first" : `Waiting: ${ahead} messages come first`;
  }
  if (turn.open && turn.line !== null) return inLine(turn.line);
  if (turn.open && !turn.text) return "Thinking…";
  return turn.state === "stopped" ? "Stopped" : "";
}

function inLine(ahead) {
  if (!ahead) return "Next in line";
  return ahead === 1 ? "In line: one more comes first" : `In line: ${ahead} more come first`;
}

function mark(turn, article, number) {
  const citation = turn.citations.find((known) => known.number === number);
  if (!citation) return null;
  const button = make("button", { type: "button", className: "mark" }, String(number));
  button.setAttribute("aria-label", `Source ${number}: ${citation.title || citation.document}`);
  button.addEventListener("click", () => {
    const source = article.querySelector(`[data-source="${number}"]`);
    source.open = true;
    source.querySelector("summary").focus();
    source.scrollIntoView({ block: "nearest" });
  });
  return button;
}

function drawRest(rest, turn, last) {
  const key = JSON.stringify([
    turn.citations, turn.attachments, turn.question, turn.problem, turn.state, last,
  ]);
  if (rest.drawnKey === key) return;
  rest.drawnKey = key;
  const opened = new Set(
    [...rest.querySelectorAll("details[open]")].map((details) => details.dataset.source),
  );
  rest.replaceChildren(
    ...sources(turn.citations, opened),
    ...attachments(turn.attachments),
    ...options(turn, last),
    ...problems(turn),
  );
}

function sources(citations, opened) {
  if (!citations.length) return [];
  const list = make("ul", { className: "sources", ariaLabel: "Sources" });
  for (const citation of citations) {
    const name = [citation.title || citation.document, citation.section].filter(Boolean);
    const details = make(
      "details",
      {},
      make("summary", {}, make("b", {}, `${citation.number}  `), name.join(" › ")),
      make("div", {}, citation.passage, make("cite", {}, citation.document)),
    );
    details.dataset.source = citation.number;
    details.open = opened.has(details.dataset.source);
    list.append(make("li", {}, details));
  }
  return [list];
}

function attachments(files) {
  if (!files.length) return [];
  const list = make("ul", { className: "extras", ariaLabel: "Attachments" });
  for (const file of files) list.append(make("li", {}, attachment(file)));
  return [list];
}

function attachment(file) {
  if (/^data:image\/(png|jpeg|gif|webp|avif);/i.test(file.url)) {
    return make("img", { src: file.url, alt: file.name });
  }
  const inline = /^data:/i.test(file.url);
  if (!inline && !/^https?:/i.test(file.url)) return make("span", { className: "chip" }, file.name);
  const link = make("a", { className: "chip", href: file.url, rel: "noopener noreferrer" }, file.name);
  // A data URL of text/html opened in place could show anything; saved it is a file.
  if (inline) link.download = file.name;
  else link.target = "_blank";
  return link;
}

function options(turn, last) {
  if (!turn.question?.options.length || turn.state !== "asked" || !last) return [];
  const group = make("div", { className: "options", ariaLabel: "Suggested answers" });
  group.setAttribute("role", "group");
  for (const option of turn.question.options) {
    const button = make("button", { type: "button", className: "chip" }, option);
    button.addEventListener("click", () => say(option));
    group.append(button);
  }
  return [group];
}

function problems(turn) {
  if (turn.state !== "failed") return [];
  const words = turn.problem?.message ?? "The reply could not be finished.";
  const node = make("p", { className: "problem" }, words);
  const again = make("button", { type: "button" }, "Try again");
  again.addEventListener("click", () => say(turn.message));
  node.append(again);
  return [node];
}

function drawUnsent(messages) {
  const nodes = messages.map((message) => {
    const asked = make("div", { className: "asked unsent" }, message.text);
    const article = make("article", { className: "turn" }, asked);
    if (message.problem) article.append(unsentProblem(message));
    else article.append(make("p", { className: "caption" }, "Sending…"));
    return article;
  });
  let group = $("unsent");
  if (!nodes.length) return group?.remove();
  group ??= make("div", { id: "unsent" });
  const key = JSON.stringify(messages);
  if (group.drawnKey !== key) group.replaceChildren(...nodes);
  group.drawnKey = key;
  if ($("log").nextElementSibling !== group) $("log").after(group);
}

function unsentProblem(message) {
  const node = make("p", { className: "problem unsent-problem" }, message.problem.message);
  const again = make("button", { type: "button" }, "Try again");
  again.addEventListener("click", () => client.retry(message.id));
  const edit = make("button", { type: "button" }, "Edit");
  edit.addEventListener("click", () => {
    client.discard(message.id);
    begin(message.text);
  });
  node.append(again, edit);
  return node;
}

function announce(words) {
  $("announcement").textContent = words;
}

// Scrolling

function toEnd() {
  const main = $("main");
  main.scrollTop = main.scrollHeight;
}

function isNearEnd() {
  const main = $("main");
  return main.scrollHeight - main.scrollTop - main.clientHeight < NEAR_END;
}

function showLatest() {
  $("latest").hidden = isNearEnd();
  document.querySelector("header").classList.toggle("over", $("main").scrollTop > 4);
}

$("main").addEventListener("scroll", () => {
  following = isNearEnd();
  showLatest();
});
$("latest").addEventListener("click", () => {
  following = true;
  toEnd();
  showLatest();
});

// Writing

function say(text) {
  const words = text.trim();
  if (!words) return;
  following = true;
  announce("");
  awaited.add(client.send(words));
  $("text").focus();
}

/** Put text into the field and let the person go on. */
function begin(text) {
  const field = $("text");
  field.value = text;
  field.focus();
  field.setSelectionRange(text.length, text.length);
  fit();
  suggest();
  schedule();
}

function fit() {
  const field = $("text");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  say($("text").value);
  if ($("text").value.trim()) begin("");
});

$("text").addEventListener("input", () => {
  fit();
  suggest();
  schedule();
});

$("text").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (!$("suggestions").hidden && choosing(event)) return event.preventDefault();
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented && !$("key-dialog").open) stop();
});

function stop() {
  const running = client.transcript.running;
  if (running) client.stop(running.id);
  $("text").focus();
}

$("stop").addEventListener("click", stop);
$("new").addEventListener("click", () => {
  lasting.setItem("palaver.thread", newId());
  open(lasting.getItem("palaver.thread"));
  $("text").focus();
});

$("main").addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Press Ctrl+C"; // no clipboard without https
    getSelection().selectAllChildren(button.closest("figure").querySelector("code"));
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
});

// Suggestions

let chosen = 0;

function suggest() {
  const typed = $("text").value.match(/^\/([\w-]*)$/)?.[1].toLowerCase();
  const fitting = typed === undefined ? [] : skills.filter((skill) => skill.name.startsWith(typed));
  chosen = 0;
  $("suggestions").replaceChildren(
    ...fitting.map((skill, index) => {
      const option = make(
        "li",
        { id: `suggestion-${index}` },
        make("strong", {}, `/${skill.name}`),
        make("span", {}, skill.description),
      );
      option.setAttribute("role", "option");
      option.dataset.name = skill.name;
      // Before the field loses its focus.
      option.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        accept(skill.name);
      });
      return option;
    }),
  );
  showSuggestions(fitting.length > 0);
}

function showSuggestions(shown) {
  $("suggestions").hidden = !shown;
  $("text").setAttribute("aria-expanded", String(shown));
  [...$("suggestions").children].forEach((option, index) => {
    option.setAttribute("aria-selected", String(index === chosen));
    if (index === chosen) option.scrollIntoView({ block: "nearest" });
  });
  if (shown) $("text").setAttribute("aria-activedescendant", `suggestion-${chosen}`);
  else $("text").removeAttribute("aria-activedescendant");
}

/** A key while skills are suggested; true when it was for them. */
function choosing(event) {
  const all = $("suggestions").children;
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    chosen = (chosen + step + all.length) % all.length;
    showSuggestions(true);
    return true;
  }
  if (event.key === "Tab" || event.key === "Enter") {
    accept(all[chosen].dataset.name);
    return true;
  }
  if (event.key === "Escape") {
    showSuggestions(false);
    return true;
  }
  return false;
}

function accept(name) {
  begin(`/${name} `);
}

load();
open(remembered("palaver.thread"));
$("text").focus();
