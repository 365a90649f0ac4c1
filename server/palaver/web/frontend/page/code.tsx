/** A block of code, coloured when its language is known, with a button that copies it. */

import type { Element, RootContent } from "hast";
import type { ComponentChild } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { CopyButton } from "./copy_button";
import { type Highlight, extras } from "./extras";
import { t } from "./strings";

let highlight: Highlight | null = null;
let loading: Promise<Highlight> | undefined;
const MAX_HIGHLIGHTED = 50_000; // characters; colouring more takes too long
const SEGMENT = 1_500; // characters that are coloured again with each piece of text
const MAX_WHOLE = 10_000; // characters that are coloured at once, with the end of the block

interface Properties {
  source: string;
  language: string;
  isComplete: boolean;
}

export function Code({ source, language, isComplete }: Properties) {
  const code = useRef<HTMLElement>(null);
  const colour = useHighlighter(language);
  const isColoured = colour !== null && source.length <= MAX_HIGHLIGHTED;
  const segments = isColoured ? segmentsOf(source, isComplete) : [source];
  return (
    <figure class="code" dir="ltr">
      <figcaption>
        <span>{language || t.text}</span>
        {extras.CodeTools && <extras.CodeTools source={source} language={language} place={code} />}
        <CopyButton text={source} label={t.copy} selects={code} />
      </figcaption>
      <pre tabIndex={0} role="region" aria-label={t.code(language)}>
        <code ref={code}>
          {segments.map((segment, index) => (
            <Segment key={index} source={segment} language={language} colour={isColoured ? colour : null} />
          ))}
        </code>
      </pre>
    </figure>
  );
}

/**
 * Return the parts of a source that are coloured by themselves: only the last one changes while more
 * is written. What reaches from one part into another, as a long comment, gets its colours with the end
 * of the block, unless that is a very long one.
 */
function segmentsOf(source: string, isComplete: boolean): string[] {
  if (isComplete && source.length <= MAX_WHOLE) return [source];
  const segments: string[] = [];
  let start = 0;
  while (source.length - start > SEGMENT) {
    const end = source.indexOf("\n", start + SEGMENT) + 1;
    if (!end) break;
    segments.push(source.slice(start, end));
    start = end;
  }
  return [...segments, source.slice(start)];
}

function Segment(props: { source: string; language: string; colour: Highlight | null }) {
  const { source, language, colour } = props;
  const nodes = useMemo(
    () => colour?.(language, source)?.children.map(toNode) ?? source,
    [source, language, colour],
  );
  return <span class="segment">{nodes}</span>;
}

/** Return the highlighter; null while it loads, and for a text without a language. */
function useHighlighter(language: string): Highlight | null {
  const [isLoaded, setLoaded] = useState(highlight !== null);
  useEffect(() => {
    if (!language || isLoaded) return;
    let isMounted = true;
    loading ??= extras.loadHighlighter?.();
    void loading?.then((loaded) => {
      highlight = loaded;
      if (isMounted) setLoaded(true);
    });
    return () => void (isMounted = false);
  }, [language, isLoaded]);
  return language ? highlight : null;
}

function toNode(node: RootContent): ComponentChild {
  if (node.type === "text") return node.value;
  return node.type === "element" ? <span class={classOf(node)}>{node.children.map(toNode)}</span> : null;
}

function classOf(node: Element): string {
  const names = node.properties["className"];
  return Array.isArray(names) ? names.join(" ") : "";
}
