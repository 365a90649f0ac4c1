/** The sources of a reply: marks in its text, and a list below it. */

import type { Citation } from "palaver-client";

import { t } from "./strings";

type OnShow = (number: number) => void;

/** Return the name of a source as people read it. */
export function nameOf(citation: Citation): string {
  return [citation.title || citation.document, citation.section].filter(Boolean).join(" › ");
}

export function SourceMark({ citation, onShow }: { citation: Citation; onShow: OnShow }) {
  const label = t.source(citation.number, citation.title || citation.document);
  return (
    <button type="button" class="citation" aria-label={label} onClick={() => onShow(citation.number)}>
      {String(citation.number)}
    </button>
  );
}

export function Sources({ citations, onShow }: { citations: Citation[]; onShow: OnShow }) {
  if (!citations.length) return null;
  return (
    <ul class="sources" aria-label={t.sources}>
      {citations.map((citation) => (
        <li key={citation.number}>
          <button type="button" class="chip" dir="auto" onClick={() => onShow(citation.number)}>
            <b>{citation.number}</b> {nameOf(citation)}
          </button>
        </li>
      ))}
    </ul>
  );
}
