/**
 * Markdown to DOM nodes. Text becomes text nodes only, so HTML in a reply never becomes an element.
 * Blocks that did not change keep their nodes, so a growing reply is cheap.
 */

const SAFE_LINK = /^(https?:\/\/|mailto:)/i;

/**
 * Render `text` into `container`. `cite(number)` returns a node for a citation, or null;
 * `version` changes when `cite` would return something else than before.
 */
export function renderMarkdown(container, text, cite = () => null, version = "") {
  const blocks = split(text);
  blocks.forEach((block, index) => {
    const current = container.children[index];
    const key = `${block.kind}\n${block.lines.join("\n")}\n${block.open ?? ""}\n${version}`;
    if (current?.blockKey === key) return;
    const node = BUILD[block.kind](block, cite);
    node.blockKey = key;
    if (current) current.replaceWith(node);
    else container.append(node);
  });
  while (container.children.length > blocks.length) container.lastElementChild.remove();
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function split(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const block = fence(lines, at) ?? single(lines, at) ?? table(lines, at) ?? several(lines, at);
    blocks.push(block);
    at = block.end;
  }
  return blocks;
}

function fence(lines, start) {
  const opening = lines[start].match(FENCE);
  if (!opening) return null;
  const [, mark, language] = opening;
  let end = start + 1;
  const closes = (line) => line.trim().startsWith(mark) && !line.trim().replaceAll(mark[0], "");
  while (end < lines.length && !closes(lines[end])) end += 1;
  const body = lines.slice(start + 1, end);
  return { kind: "code", language, lines: body, open: language, end: end + 1 };
}

function single(lines, at) {
  if (RULE.test(lines[at])) return { kind: "rule", lines: [], end: at + 1 };
  if (HEADING.test(lines[at])) return { kind: "heading", lines: [lines[at]], end: at + 1 };
  return null;
}

function table(lines, start) {
  if (!lines[start].includes("|") || !TABLE_RULE.test(lines[start + 1] ?? "")) return null;
  if (!lines[start + 1].includes("-")) return null;
  let end = start + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  return { kind: "table", lines: lines.slice(start, end), end };
}

function several(lines, start) {
  const kind = ITEM.test(lines[start]) ? "list" : QUOTE.test(lines[start]) ? "quote" : "paragraph";
  let end = start + 1;
  while (end < lines.length && continues(kind, lines, end)) end += 1;
  return { kind, lines: lines.slice(start, end), end };
}

function continues(kind, lines, at) {
  const line = lines[at];
  if (kind === "list") {
    if (line.trim()) return ITEM.test(line) || /^\s{2,}/.test(line);
    const next = lines[at + 1] ?? "";
    return ITEM.test(next) || /^\s{2,}\S/.test(next);
  }
  if (kind === "quote") return QUOTE.test(line);
  return line.trim() && !FENCE.test(line) && !single(lines, at) && !ITEM.test(line) && !QUOTE.test(line);
}

function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

const BUILD = {
  rule: () => element("hr"),
  heading(block, cite) {
    const [, marks, text] = block.lines[0].match(HEADING);
    // The page itself uses the first two levels.
    return element(`h${Math.min(6, marks.length + 2)}`, ...inline(text, cite));
  },
  paragraph: (block, cite) => element("p", ...inline(block.lines.join("\n"), cite)),
  quote(block, cite) {
    const node = element("blockquote");
    renderMarkdown(node, block.lines.map((line) => line.match(QUOTE)[1]).join("\n"), cite);
    return node;
  },
  code(block) {
    const source = block.lines.join("\n");
    const copy = element("button", "Copy");
    copy.type = "button";
    copy.className = "copy";
    copy.dataset.copy = source;
    const head = element("figcaption", element("span", block.language || "text"), copy);
    const pre = element("pre", element("code", source));
    pre.tabIndex = 0; // so that wide code can be scrolled with the keyboard
    const figure = element("figure", head, pre);
    figure.className = "code";
    return figure;
  },
  list: (block, cite) => list(block.lines, cite),
  table(block, cite) {
    const [head, , ...rows] = block.lines.map((line) => cells(line));
    const row = (name, values) =>
      element("tr", ...values.map((value) => element(name, ...inline(value, cite))));
    const body = element("tbody", ...rows.map((values) => row("td", values)));
    const node = element("div", element("table", element("thead", row("th", head)), body));
    node.className = "table";
    node.tabIndex = 0;
    return node;
  },
};

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
}

function list(lines, cite) {
  const [, indent, mark] = lines[0].match(ITEM);
  const node = element(/\d/.test(mark) ? "ol" : "ul");
  if (/\d/.test(mark) && parseInt(mark, 10) !== 1) node.start = parseInt(mark, 10);
  let item = null;
  const finish = () => item && node.append(listItem(item, cite));
  for (const line of lines) {
    const match = line.match(ITEM);
    if (match && match[1].length <= indent.length + 1) {
      finish();
      item = [match[3]];
    } else {
      item.push(line.replace(/^\s{2,4}/, ""));
    }
  }
  finish();
  return node;
}

function listItem(lines, cite) {
  const node = element("li");
  renderMarkdown(node, lines.join("\n"), cite);
  // A short item needs no paragraph of its own.
  if (node.children.length && node.firstElementChild.tagName === "P") {
    node.firstElementChild.replaceWith(...node.firstElementChild.childNodes);
  }
  return node;
}

const INLINE = new RegExp(
  [
    "(?<escape>\\\\[\\\\`*_{}\\[\\]()#+.!>~|-])",
    "(?<ticks>`+)(?<code>[^]*?[^`])\\k<ticks>(?!`)",
    "\\*\\*(?<strong>(?=\\S)[^]*?\\S)\\*\\*(?!\\*)",
    "(?<![\\w_])__(?<strong2>(?=\\S)[^]*?\\S)__(?![\\w_])",
    "~~(?<strike>(?=\\S)[^]*?\\S)~~",
    "\\*(?<em>(?=[^\\s*])[^*]*?[^\\s*])\\*(?!\\*)",
    "(?<![\\w_])_(?<em2>(?=[^\\s_])[^_]*?[^\\s_])_(?![\\w_])",
    "\\[(?<label>[^\\]\\n]+)\\]\\((?<href>[^)\\s]+)(?:\\s+\"[^\"]*\")?\\)",
    "\\[(?<mark>\\d{1,3})\\]",
    "(?<url>https?://[^\\s<>\"'`]+[^\\s<>\"'`.,;:!?)\\]}*_])",
  ].join("|"),
  "g",
);

function inline(text, cite) {
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > at) nodes.push(text.slice(at, match.index));
    nodes.push(span(match, cite));
    at = match.index + match[0].length;
  }
  if (at < text.length) nodes.push(text.slice(at));
  return nodes;
}

function span(match, cite) {
  const part = match.groups;
  if (part.escape) return part.escape[1];
  if (part.code !== undefined) return element("code", part.code.replace(/^ (.*) $/s, "$1"));
  const strong = part.strong ?? part.strong2;
  if (strong) return element("strong", ...inline(strong, cite));
  if (part.strike) return element("s", ...inline(part.strike, cite));
  const em = part.em ?? part.em2;
  if (em) return element("em", ...inline(em, cite));
  if (part.mark) return cite(Number(part.mark)) ?? match[0];
  if (part.url) return link(part.url, [part.url]);
  return SAFE_LINK.test(part.href) ? link(part.href, inline(part.label, cite)) : match[0];
}

function link(href, children) {
  const node = element("a", ...children);
  node.href = href;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  return node;
}
