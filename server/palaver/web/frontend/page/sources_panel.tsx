/** A panel beside the conversation with the passages that a reply is based on. */

import type { Citation } from "palaver-client";
import { useEffect, useRef } from "preact/hooks";

import { useReturnFocus } from "./focus";
import { Icon } from "./icon";
import { nameOf } from "./sources";
import { t } from "./strings";

export interface ShownSources {
  citations: Citation[];
  /** The source to show first. */
  number: number;
}

export function SourcesPanel({ citations, number, onClose }: ShownSources & { onClose: () => void }) {
  const chosen = useRef<HTMLElement>(null);
  useReturnFocus();
  useEffect(() => {
    chosen.current?.focus({ preventScroll: true });
    chosen.current?.scrollIntoView({ block: "nearest" });
  }, [citations, number]);
  return (
    <aside class="panel" aria-label={t.sources}>
      <div class="panel-head">
        <h2>{t.sources}</h2>
        <button type="button" class="icon-button" aria-label={t.close} title={t.close} onClick={onClose}>
          <Icon name="close" />
        </button>
      </div>
      <ul>
        {citations.map((citation) => {
          const isChosen = citation.number === number;
          return (
            <li key={citation.number}>
              <section
                ref={isChosen ? chosen : undefined}
                class={isChosen ? "passage chosen" : "passage"}
                data-source={citation.number}
                tabIndex={-1}
                aria-labelledby={`source-${citation.number}`}
              >
                <h3 id={`source-${citation.number}`} dir="auto">
                  <b>{citation.number}</b> {nameOf(citation)}
                </h3>
                <blockquote dir="auto">{citation.passage}</blockquote>
                <cite dir="auto">{citation.document}</cite>
              </section>
            </li>
          );
        })}
      </ul>
    </aside>
  );
}
