/** The chat page: renders a conversation and sends what a person writes. */

import { Client, newId } from "./palaver-client.js";
import { renderMarkdown } from "./markdown.js";

const $ = (id) => document.getElementById(id);
const NEAR_END = 80; // px from the end within which the page scrolls along with the reply
const NOTICE_DELAY = 1_000; // ms before a lost connection is shown

/** Return a storage that also works where the browser forbids it. */
function withFallback(storage) {
  const memory = new Map();
  const attempt = (use, otherwise) => {
    try {
      return use(storage());
    } catch {
      return otherwise?.(); // the storage is full or forbidden
    }
  };
  return {
    getItem: (key) => attempt((s) => s.getItem(key), () => memory.get(key) ?? null),
    setItem(key, value) {
      memory.set(key, value);
      attempt((s) => s.setItem(key, value));
    },
    removeItem(key) {
      memory.delete(key);
      attempt((s) => s.removeItem(key));
    },
  };
}

const local = withFallback(() => window.localStorage);
const session = withFallback(() => window.sessionStorage);

/** Return the id that is stored under a key; make one if there is none. */
function storedId(key) {
  const id = local.getItem(key) ?? newId();
  local.setItem(key, id);
  return id;
}

function make(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function button(properties, ...children) {
  return make("button", { type: "button", ...properties }, ...children);
}

/** Replace a node's children when the data that they show has changed. */
function update(node, data, makeChildren) {
  const key = JSON.stringify(data);
  if (node.renderedKey !== key) node.replaceChildren(...makeChildren());
  node.renderedKey = key;
}

let client = null;
let skills = [];
let isFollowing = true;
let scheduled = false;
let noticeTimer = null;
const rendered = new Map(); // turn id to {article, version}
const unanswered = new Set(); // ids of messages from this page that have no complete reply

// The connection

function token() {
  return session.getItem("palaver.token");
}

function open(thread) {
  client?.close();
  rendered.clear();
  $("log").replaceChildren();
  isFollowing = true;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  client = new Client({
    url: `${scheme}://${location.host}/ws`,
    thread,
    token: token(),
    storage: local,
  });
  const opened = client;
  client.addEventListener("change", () => opened === client && schedule());
  client.addEventListener("status", () => opened === client && showStatus());
  client.connect();
  schedule();
}

function showStatus() {
  if (client.status === "reconnecting") {
    noticeTimer ??= setTimeout(() => notify("The connection is lost. Trying again…"), NOTICE_DELAY);
  } else if (client.status !== "connecting") {
    clearTimeout(noticeTimer);
    noticeTimer = null;
    notify("");
  }
  if (client.status === "refused") showRefusal();
  if (client.status === "open") schedule();
}

/** Show a notice about the connection; an empty one hides it. */
function notify(text) {
  $("connection").textContent = text;
  $("connection").hidden = !text;
}

function showRefusal() {
  if (client.refusal.code === 4401) {
    askForKey();
  } else if (client.refusal.code === 4403 && !token()) {
    notify("This conversation belongs to someone else.");
  } else {
    notify(client.refusal.reason || "This conversation cannot be opened.");
  }
}

function askForKey() {
  $("key-title").textContent = token() ? "That key is not known here" : "This server asks for a key";
  $("key").value = "";
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

$("key-form").addEventListener("submit", () => {
  session.setItem("palaver.token", $("key").value.trim());
  loadServerInfo();
  open(storedId("palaver.thread"));
});

window.addEventListener("online", () => client.checkConnection());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) client.checkConnection();
});

async function fetchJson(path) {
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  const response = await fetch(path, { headers });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

/** Load skills and model; the conversation does not wait for them. */
async function loadServerInfo() {
  try {
    const [about, listed] = await Promise.all([fetchJson("/v1/about"), fetchJson("/v1/skills")]);
    skills = listed.skills;
    showModel(about);
    showSkills();
    schedule();
  } catch {
    // The websocket shows the problem.
  }
}

function showModel(about) {
  $("model").hidden = !about.model;
  $("model").textContent = about.model ?? "";
  $("model").title = `Model: ${about.model}`;
  $("model-note").hidden = !about.demonstration;
  $("model-note").textContent = about.demonstration
    ? `${about.model} is a small demonstration model: expect short and often wrong answers.`
    : "";
}

function showSkills() {
  $("skills").replaceChildren(
    ...skills.map((skill) => {
      const name = make("strong", {}, title(skill.name));
      const description = make("span", {}, skill.description);
      const choose = () => fillComposer(`/${skill.name} `);
      return make("li", {}, button({ onclick: choose }, name, description));
    }),
  );
}

function title(name) {
  if (name.length <= 3) return name.toUpperCase();
  const words = name.replaceAll(/[-_]/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// Rendering

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    render();
  });
}

function render() {
  const conversation = client.conversation;
  const turns = conversation.turns;
  const unsent = [...client.unsent.values()];
  renderTurns(turns, conversation);
  renderUnsent(unsent);
  // Before the first welcome the conversation may or may not be empty.
  $("empty-state").hidden = Boolean(turns.length || unsent.length) || client.status !== "open";
  const running = conversation.running;
  $("stop").hidden = !running;
  $("send").hidden = Boolean(running) && !$("text").value.trim();
  $("send").setAttribute("aria-disabled", String(!$("text").value.trim()));
  if (isFollowing) scrollToEnd();
  showScrollState();
}

function renderTurns(turns, conversation) {
  const log = $("log");
  const known = new Set(turns.map((turn) => turn.id));
  for (const [id, { article }] of rendered) {
    if (!known.has(id)) {
      article.remove();
      rendered.delete(id);
    }
  }
  turns.forEach((turn, index) => {
    const ahead = turn.isOpen ? conversation.turnsAhead(turn) : 0;
    const isLast = index === turns.length - 1;
    const version = `${turn.version} ${turn.state} ${ahead} ${isLast}`;
    let shown = rendered.get(turn.id);
    if (!shown) {
      shown = { article: makeTurn(), version: "" };
      rendered.set(turn.id, shown);
    }
    const current = log.children[index];
    if (current !== shown.article) log.insertBefore(shown.article, current ?? null);
    if (shown.version === version) return;
    shown.version = version;
    renderTurn(shown.article, turn, ahead, isLast);
  });
}

function makeTurn() {
  return make(
    "article",
    { className: "turn" },
    make("p", { className: "visually-hidden" }, "You wrote:"),
    make("div", { className: "messages" }),
    make("p", { className: "caption" }),
    make("div", { className: "reply" }),
    make("div", { className: "extras" }),
  );
}

function renderTurn(article, turn, ahead, isLast) {
  const [, messages, caption, reply, extras] = article.children;
  // A screen reader reads the reply once, when it is complete.
  article.setAttribute("aria-busy", String(turn.isOpen));
  update(messages, turn.messages, () => turn.messages.map((message) => bubble(message.text)));
  caption.replaceChildren(...captionOf(turn, ahead));
  caption.hidden = !caption.childNodes.length;
  const cite = (number) => citationButton(turn, article, number);
  renderMarkdown(reply, turn.text, cite, turn.citations.length);
  reply.classList.toggle("streaming", turn.state === "running");
  renderExtras(extras, turn, isLast);
  if (turn.isOpen) return;
  // A message that the turn did not take moves to another turn, which answers it.
  const answered = turn.messages.filter((message) => turn.taken?.includes(message.id) ?? true);
  const own = answered.filter((message) => unanswered.delete(message.id));
  if (own.length) announce(OUTCOMES[turn.state] ?? "");
}

function bubble(text, state = "") {
  return make("div", { className: `message ${state}` }, text);
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
  if (turn.isOpen && turn.queuePosition !== null) return queueState(turn.queuePosition);
  if (turn.isOpen && !turn.text) return "Thinking…";
  return turn.state === "stopped" ? "Stopped" : "";
}

function queueState(ahead) {
  if (!ahead) return "Next in the queue";
  return ahead === 1
    ? "In the queue: one more comes first"
    : `In the queue: ${ahead} more come first`;
}

function citationButton(turn, article, number) {
  const citation = turn.citations.find((known) => known.number === number);
  if (!citation) return null;
  const ariaLabel = `Source ${number}: ${citation.title || citation.document}`;
  const showSource = () => {
    const source = article.querySelector(`[data-source="${number}"]`);
    source.open = true;
    source.querySelector("summary").focus();
    source.scrollIntoView({ block: "nearest" });
  };
  return button({ className: "citation", ariaLabel, onclick: showSource }, String(number));
}

function renderExtras(extras, turn, isLast) {
  const { citations, attachments: files, question, problem, state } = turn;
  update(extras, [citations, files, question, problem, state, isLast], () => {
    const details = [...extras.querySelectorAll("details[open]")];
    const opened = new Set(details.map((source) => source.dataset.source));
    const shown = [sources(citations, opened), attachments(files), options(turn, isLast)];
    return [...shown.flat(), ...problems(turn)];
  });
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
  const list = make("ul", { className: "attachments", ariaLabel: "Attachments" });
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
  // A data URL of text/html that opens in place could show anything; a download cannot.
  if (inline) link.download = file.name;
  else link.target = "_blank";
  return link;
}

function options(turn, isLast) {
  if (!turn.question?.options.length || turn.state !== "asked" || !isLast) return [];
  const chips = turn.question.options.map((option) =>
    button({ className: "chip", onclick: () => send(option) }, option),
  );
  const about = { className: "options", role: "group", ariaLabel: "Suggested answers" };
  return [make("div", about, ...chips)];
}

function problems(turn) {
  if (turn.state !== "failed") return [];
  const text = turn.problem?.message ?? "The reply could not be finished.";
  const retry = button({ onclick: () => send(turn.message) }, "Try again");
  return [make("p", { className: "problem" }, text, retry)];
}

function renderUnsent(messages) {
  let group = $("unsent");
  if (!messages.length) return group?.remove();
  group ??= make("div", { id: "unsent" });
  update(group, messages, () => messages.map(unsentMessage));
  if ($("log").nextElementSibling !== group) $("log").after(group);
}

function unsentMessage(message) {
  const state = message.problem
    ? unsentProblem(message)
    : make("p", { className: "caption" }, "Sending…");
  return make("article", { className: "turn" }, bubble(message.text, "unsent"), state);
}

function unsentProblem(message) {
  const retry = button({ onclick: () => client.retry(message.id) }, "Try again");
  const edit = () => {
    client.discard(message.id);
    fillComposer(message.text);
  };
  const about = { className: "problem unsent-problem" };
  return make("p", about, message.problem.message, retry, button({ onclick: edit }, "Edit"));
}

/** Let screen readers read a text. */
function announce(text) {
  $("announcement").textContent = text;
}

// Scrolling

function scrollToEnd() {
  const main = $("main");
  main.scrollTop = main.scrollHeight;
}

function isNearEnd() {
  const main = $("main");
  return main.scrollHeight - main.scrollTop - main.clientHeight < NEAR_END;
}

function showScrollState() {
  $("scroll-to-end").hidden = isNearEnd();
  document.querySelector("header").classList.toggle("scrolled", $("main").scrollTop > 4);
}

$("main").addEventListener("scroll", () => {
  isFollowing = isNearEnd();
  showScrollState();
});
$("scroll-to-end").addEventListener("click", () => {
  isFollowing = true;
  scrollToEnd();
  showScrollState();
});

// The composer

function send(text) {
  const trimmed = text.trim();
  if (!trimmed) return;
  isFollowing = true;
  announce("");
  unanswered.add(client.send(trimmed));
  $("text").focus();
}

/** Put text into the field, with the cursor at its end. */
function fillComposer(text) {
  const field = $("text");
  field.value = text;
  field.focus();
  field.setSelectionRange(text.length, text.length);
  onInput();
}

function onInput() {
  fitHeight();
  suggest();
  schedule();
}

function fitHeight() {
  const field = $("text");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send($("text").value);
  if ($("text").value.trim()) fillComposer("");
});

$("text").addEventListener("input", onInput);

$("text").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (!$("suggestions").hidden && handleSuggestionKey(event)) return event.preventDefault();
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented && !$("key-dialog").open) stop();
});

function stop() {
  const running = client.conversation.running;
  if (running) client.stop(running.id);
  $("text").focus();
}

$("stop").addEventListener("click", stop);
$("new").addEventListener("click", () => {
  local.setItem("palaver.thread", newId());
  open(local.getItem("palaver.thread"));
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

let selected = 0;

function suggest() {
  const typed = $("text").value.match(/^\/([\w-]*)$/)?.[1].toLowerCase();
  const matching = typed === undefined ? [] : skills.filter((skill) => skill.name.startsWith(typed));
  selected = 0;
  $("suggestions").replaceChildren(
    ...matching.map((skill, index) => {
      const name = make("strong", {}, `/${skill.name}`);
      const about = { id: `suggestion-${index}`, role: "option" };
      const option = make("li", about, name, make("span", {}, skill.description));
      option.dataset.name = skill.name;
      // pointerdown comes before the field loses its focus.
      option.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        acceptSuggestion(skill.name);
      });
      return option;
    }),
  );
  showSuggestions(matching.length > 0);
}

function showSuggestions(isShown) {
  $("suggestions").hidden = !isShown;
  $("text").setAttribute("aria-expanded", String(isShown));
  [...$("suggestions").children].forEach((option, index) => {
    option.setAttribute("aria-selected", String(index === selected));
    if (index === selected) option.scrollIntoView({ block: "nearest" });
  });
  if (isShown) $("text").setAttribute("aria-activedescendant", `suggestion-${selected}`);
  else $("text").removeAttribute("aria-activedescendant");
}

/** Handle a key while skills are suggested; return true when it was for them. */
function handleSuggestionKey(event) {
  const all = $("suggestions").children;
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    selected = (selected + step + all.length) % all.length;
    showSuggestions(true);
    return true;
  }
  if (event.key === "Tab" || event.key === "Enter") {
    acceptSuggestion(all[selected].dataset.name);
    return true;
  }
  if (event.key === "Escape") {
    showSuggestions(false);
    return true;
  }
  return false;
}

function acceptSuggestion(name) {
  fillComposer(`/${name} `);
}

loadServerInfo();
open(storedId("palaver.thread"));
$("text").focus();
