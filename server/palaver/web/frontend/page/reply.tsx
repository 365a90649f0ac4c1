/** The text of a reply, with folded thoughts; a very long one is collapsed later. */

import type { Turn } from "palaver-client";
import { useState } from "preact/hooks";

import { textBesideCard } from "./approval";
import { splitThoughts } from "./markdown";
import { type Cite, Markdown } from "./markdown_view";
import { t } from "./strings";

const MAX_CHARACTERS = 12_000; // of a reply that is not the last one

export function Reply({ turn, isLast, cite }: { turn: Turn; isLast: boolean; cite: Cite }) {
  const [isOpen, setOpen] = useState(false);
  const text = textBesideCard(turn);
  const isLong = !turn.isOpen && text.length > MAX_CHARACTERS;
  const isCollapsed = isLong && !isLast && !isOpen;
  const version = String(turn.citations.length);
  return (
    <>
      <div
        class={`reply${turn.state === "running" ? " streaming" : ""}${isCollapsed ? " collapsed" : ""}`}
        dir="auto"
      >
        {splitThoughts(text).map((part, index) =>
          part.kind === "thought" ? (
            <Thought key={index} text={part.text} isOpen={part.isOpen && turn.isOpen} />
          ) : (
            <Markdown key={index} text={part.text} isComplete={!turn.isOpen} cite={cite} version={version} />
          ),
        )}
      </div>
      {isLong && !isLast && (
        <button type="button" class="more" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
          {isOpen ? t.showLess : t.showMore}
        </button>
      )}
    </>
  );
}

/** What a model wrote before its reply. */
function Thought({ text, isOpen }: { text: string; isOpen: boolean }) {
  return (
    <details class="thought">
      <summary>{isOpen ? t.thoughtsOpen : t.thoughts}</summary>
      <div>
        <Markdown text={text} isComplete={!isOpen} cite={() => null} version="" />
      </div>
    </details>
  );
}
