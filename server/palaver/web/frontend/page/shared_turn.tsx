/** One turn of a shared conversation, which has no actions. */

import { type HistoryEntry, Turn } from "palaver-client";

import { Bubble } from "./bubble";
import { titleOf } from "./names";
import { Reply } from "./reply";
import { nameOf } from "./sources";
import { t } from "./strings";

/** Return the turns of a history without ids: messages, then the reply to them. */
export function turnsOf(history: HistoryEntry[]): Turn[] {
  const turns: Turn[] = [];
  let turn: Turn | null = null;
  for (const entry of history) {
    if (!turn || (entry.role === "user" && !turn.isOpen)) {
      turn = new Turn(String(turns.length));
      turns.push(turn);
    }
    if (entry.role === "user") {
      turn.messages = [...turn.messages, { id: "", person: "", text: entry.text }];
      continue;
    }
    turn.setText(entry.text);
    turn.state = entry.outcome ?? "done";
    turn.skill = entry.skill ?? "";
    turn.citations = entry.citations ?? [];
  }
  for (const each of turns) if (each.isOpen) each.state = "done";
  return turns;
}

export function SharedTurn({ turn }: { turn: Turn }) {
  const idOf = (number: number) => `source-${turn.id}-${number}`;
  const cite = (number: number) =>
    turn.citations.some((known) => known.number === number) ? (
      <a class="citation" href={`#${idOf(number)}`} aria-label={t.shared.source(number)}>
        {String(number)}
      </a>
    ) : null;
  return (
    <article class="turn">
      {turn.messages.length > 0 && <h2 class="visually-hidden">{t.shared.wrote}</h2>}
      {turn.messages.map((message, index) => (
        <Bubble key={index} text={message.text} />
      ))}
      {turn.skill && (
        <div class="caption">
          <strong>{titleOf(turn.skill)}</strong>
        </div>
      )}
      <Reply turn={turn} isLast cite={cite} />
      {turn.citations.length > 0 && (
        <ol class="shared-sources" aria-label={t.sources}>
          {turn.citations.map((citation) => (
            <li key={citation.number} id={idOf(citation.number)} value={citation.number} dir="auto">
              {nameOf(citation)}
            </li>
          ))}
        </ol>
      )}
      {turn.state === "stopped" && <p class="stopped"><span>{t.stopped}</span></p>}
      {turn.state === "failed" && <p class="problem">{t.failed}</p>}
    </article>
  );
}
