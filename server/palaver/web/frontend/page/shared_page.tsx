/** A shared conversation: title, date, messages and replies; nothing can be written here. */

import { RequestError, type SharedConversation } from "palaver-client";
import { useEffect, useState } from "preact/hooks";

import { palaver } from "./client";
import { formatTime } from "./dates";
import { SharedTurn, turnsOf } from "./shared_turn";
import { t } from "./strings";

type State = SharedConversation | "loading" | "missing" | "failed";

/** Statuses of a share that does not exist, was revoked, or that the server does not show. */
const MISSING = new Set([400, 403, 404]);

export function SharedPage() {
  const [state, load] = useShared(location.pathname.split("/")[2] ?? "");
  const title = titleOf(state);
  useEffect(() => void (document.title = `${title} · Palaver`), [title]);
  return (
    <div class="column shared">
      <header>
        <p class="brand">
          <img src="/static/icon.svg" alt="" width="26" height="26" />
          Palaver
        </p>
        <p class="shared-mark">{t.shared.mark}</p>
      </header>
      <main id="main" aria-busy={state === "loading"}>
        <div class="shared-column">
          {state !== "loading" && <h1 dir="auto">{title}</h1>}
          <Body state={state} onRetry={load} />
        </div>
      </main>
    </div>
  );
}

function titleOf(state: State): string {
  if (state === "loading") return t.conversation;
  if (state === "missing") return t.shared.missing;
  return state === "failed" ? t.shared.failed : state.title || t.untitled;
}

function Body({ state, onRetry }: { state: State; onRetry: () => void }) {
  if (state === "loading") return null;
  if (state === "missing") return <p>{t.shared.missingText}</p>;
  if (state === "failed") {
    return (
      <p>
        <button type="button" class="chip" onClick={onRetry}>{t.tryAgain}</button>
      </p>
    );
  }
  return (
    <>
      <p class="shared-date">{t.shared.at(formatTime(state.at))}</p>
      {state.is_cut && <p class="shared-date">{t.shared.cut}</p>}
      {turnsOf(state.history).map((turn) => (
        <SharedTurn key={turn.id} turn={turn} />
      ))}
    </>
  );
}

/** Return what is shared under an id, and what loads it again. */
function useShared(id: string): [State, () => void] {
  const [state, setState] = useState<State>("loading");
  const load = async () => {
    setState("loading");
    try {
      setState(await palaver.value.shared(decodeURIComponent(id)));
    } catch (error) {
      const isMissing = error instanceof URIError || (error instanceof RequestError && MISSING.has(error.status));
      setState(isMissing ? "missing" : "failed");
    }
  };
  useEffect(() => void load(), [id]);
  return [state, () => void load()];
}
