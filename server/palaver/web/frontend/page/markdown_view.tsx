/** Tokens of Markdown to elements. Text becomes text nodes only: HTML in a reply stays text. */

import type { ComponentChild, ComponentChildren } from "preact";
import { h } from "preact";
import { useMemo, useRef } from "preact/hooks";

import { Code } from "./code";
import { type Block, MarkdownText, type Token } from "./markdown";
import { MathText } from "./math";
import { t } from "./strings";

/** Returns the mark of a source, or null when there is no source of this number. */
export type Cite = (number: number) => ComponentChild | null;

const CITATION = /\[(\d{1,3})\]/g;
/** Elements without attributes of their own, by the name of their token. */
const PLAIN = new Set(["h1", "h2", "h3", "h4", "h5", "h6", "p", "ul", "li", "blockquote", "hr", "strong", "em", "s", "thead", "tbody", "tr"]);

/** A text in Markdown, which may grow. `version` changes when `cite` would return something else. */
export function Markdown(props: { text: string; isComplete: boolean; cite: Cite; version: string }) {
  const text = useRef<MarkdownText | null>(null);
  text.current ??= new MarkdownText();
  const known = useRef(new Map<string, ComponentChild>());
  const blocks = text.current.blocks(props.text, props.isComplete);
  const fresh = new Map<string, ComponentChild>();
  const children = blocks.map((block, index) => {
    const isLast = !props.isComplete && index === blocks.length - 1;
    // Links may be defined after their use: the end of the text can change every block.
    const key = `${index} ${props.version} ${props.isComplete} ${isLast} ${block.source}`;
    const node = known.current.get(key) ?? (
      <MarkdownBlock key={index} block={block} cite={props.cite} isComplete={!isLast} />
    );
    fresh.set(key, node);
    return node;
  });
  known.current = fresh;
  return <>{children}</>;
}

/** Items of a list and rows of a table, by what they were made of. */
type Items = Map<string, ComponentChild>;

function MarkdownBlock({ block, cite, isComplete }: { block: Block; cite: Cite; isComplete: boolean }) {
  const items = useRef<Items>(new Map());
  return useMemo(() => {
    // A long list or table grows at its end: what stays the same is not built and compared again.
    const builder = new Builder(block.tokens, cite, { isComplete, known: isComplete ? null : items.current });
    const children = <>{builder.children()}</>;
    items.current = builder.items;
    return children;
  }, [block, cite, isComplete]);
}

interface Context {
  isComplete: boolean;
  known: Items | null;
}

/** Builds elements from a flat list of tokens. */
class Builder {
  readonly items: Items = new Map();
  #at = 0;
  #isInLink = false;

  constructor(
    private readonly tokens: Token[],
    private readonly cite: Cite,
    private readonly context: Context,
  ) {}

  /** Return the elements up to the token that closes this level. */
  children(): ComponentChild[] {
    const nodes: ComponentChild[] = [];
    for (let token = this.tokens[this.#at]; token; token = this.tokens[this.#at]) {
      this.#at += 1;
      if (token.nesting === -1) break;
      nodes.push(token.nesting === 1 ? this.#parent(token) : this.#leaf(token));
    }
    return nodes;
  }

  #parent(token: Token): ComponentChild {
    const isItem = token.type === "list_item_open" || token.type === "tr_open";
    return isItem && token.level <= 2 && this.context.known ? this.#item(token, this.context.known) : this.#build(token);
  }

  /** Return an item of a growing block: the same element as before where its tokens are the same. */
  #item(token: Token, known: Items): ComponentChild {
    const start = this.#at - 1;
    let end = this.#at;
    while (this.tokens[end] && (this.tokens[end]?.level ?? 0) > token.level) end += 1;
    const key = `${start} ${this.tokens.slice(start, end).map(signatureOf).join("\n")}`;
    const before = known.get(key);
    if (before !== undefined) this.#at = end + 1;
    const node = before ?? this.#build(token);
    this.items.set(key, node);
    return node;
  }

  #build(token: Token): ComponentChild {
    if (token.type === "link_open") this.#isInLink = true;
    const children = this.children();
    if (token.type === "link_open") this.#isInLink = false;
    return token.hidden ? <>{children}</> : this.#element(token, children); // hidden: in a tight list
  }

  #element(token: Token, children: ComponentChildren): ComponentChild {
    const { tag } = token;
    switch (tag) {
      case "a":
        return <Link href={token.attrGet("href") ?? ""}>{children}</Link>;
      case "ol":
        return <ol start={Number(token.attrGet("start") ?? 1)}>{children}</ol>;
      case "li":
        return <li class={token.attrGet("class") ?? undefined}>{children}</li>;
      case "table":
        return (
          <div class="table" tabIndex={0} role="group" aria-label={t.table}>
            <table>{children}</table>
          </div>
        );
      case "th":
      case "td":
        return h(tag, { class: alignment(token) }, children);
      default:
        return PLAIN.has(tag) ? h(tag, {}, children) : <>{children}</>;
    }
  }

  #leaf(token: Token): ComponentChild {
    switch (token.type) {
      case "inline":
        return <>{new Builder(token.children ?? [], this.cite, this.context).children()}</>;
      case "text":
        return <>{this.#cited(token.content)}</>;
      case "softbreak":
        return "\n";
      case "hardbreak":
        return <br />;
      case "code_inline":
        return <code>{token.content}</code>;
      case "fence":
      case "code_block":
        return this.#code(token);
      case "hr":
        return <hr />;
      case "image":
        return this.#image(token.attrGet("src") ?? "", token.content || t.image);
      case "checkbox_input":
        return <Checkbox isChecked={token.attrGet("checked") !== null} />;
      case "math_inline":
      case "math_block":
        return <MathText source={token.content} isBlock={token.type === "math_block"} />;
      default:
        return token.content;
    }
  }

  #code(token: Token): ComponentChild {
    const source = token.content.replace(/\n$/, "");
    return <Code source={source} language={languageOf(token)} isComplete={this.context.isComplete} />;
  }

  /** An image is a link to it: nothing is loaded from elsewhere. */
  #image(src: string, name: string): ComponentChild {
    return this.#isInLink ? name : <Link href={src}>{name}</Link>;
  }

  /** Replace the marks of known sources by buttons. */
  #cited(text: string): ComponentChild[] {
    const nodes: ComponentChild[] = [];
    let at = 0;
    for (const match of text.matchAll(CITATION)) {
      const mark = this.cite(Number(match[1]));
      if (mark === null) continue;
      nodes.push(text.slice(at, match.index), mark);
      at = match.index + match[0].length;
    }
    nodes.push(text.slice(at));
    return nodes;
  }
}

function Link({ href, children }: { href: string; children: ComponentChildren }) {
  return (
    <a href={href} target="_blank" rel="noopener noreferrer" dir="auto">
      {children}
    </a>
  );
}

function Checkbox({ isChecked }: { isChecked: boolean }) {
  return <input type="checkbox" disabled checked={isChecked} aria-label={isChecked ? t.done : t.notDone} />;
}

/** Return all that the rendering of a token depends on. */
function signatureOf({ type, hidden, info, attrs, content }: Token): string {
  return `${type} ${hidden} ${info} ${attrs} ${content}`;
}

function languageOf(token: Token): string {
  return token.info.trim().split(/\s+/)[0] ?? "";
}

function alignment(token: Token): string | undefined {
  const style = token.attrGet("style"); // "text-align:right"
  return style ? `align-${style.slice("text-align:".length)}` : undefined;
}
