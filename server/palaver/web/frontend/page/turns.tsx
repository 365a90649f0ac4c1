/**
 * The turns of a conversation, oldest first. There may be thousands: one that has not changed costs
 * nothing, and many new ones appear over several frames, the last ones first.
 */

import type { Conversation, SendOptions, Turn } from "palaver-client";
import type { VNode } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import type { BranchActions } from "./branches";
import { extras } from "./extras";
import { ThreadContext } from "./attachments";
import { RatingsContext, useRatings } from "./ratings";
import type { ShownSources } from "./sources_panel";
import { t } from "./strings";
import { TurnView } from "./turn_view";

const MAX_FRESH = 20; // turns that are rendered for the first time in one frame

interface Properties {
  conversation: Conversation;
  /** The id of the turn whose message is edited. */
  edited: string | null;
  branches: BranchActions;
  onSend: (text: string, options?: SendOptions) => void;
  onSource: (sources: ShownSources) => void;
  /** Called when a later frame has more turns. */
  onMore: () => void;
}

/** A turn as it was rendered last. `state` has all that its rendering depends on. */
interface Rendered {
  turn: Turn;
  state: string;
  node: VNode;
}

export function Turns(props: Properties) {
  const { state } = props.conversation;
  const known = useRef(new Map<string, Rendered>());
  const { rendered, isComplete } = render(props, known.current);
  known.current = rendered;
  useNextFrame(isComplete, props.onMore);
  useRatings(props.conversation);
  return (
    <ThreadContext.Provider value={props.conversation.thread}>
      <RatingsContext.Provider value={props.conversation.ratings}>
        <div
          id="log"
          class={state.running ? "busy" : undefined}
          role="log"
          aria-label={t.conversation}
          aria-live="polite"
        >
          {state.earlier && <EarlierButton conversation={props.conversation} />}
          {Array.from(rendered.values(), ({ node }) => node).reverse()}
        </div>
      </RatingsContext.Provider>
    </ThreadContext.Provider>
  );
}

/** Return the turns, newest first, without those that come with a later frame. */
function render(props: Properties, known: Map<string, Rendered>) {
  const { conversation, edited, branches, onSend, onSource } = props;
  const { turns } = conversation.state;
  const rendered = new Map<string, Rendered>();
  let open = turns.filter((turn) => turn.isOpen).length;
  let fresh = 0;
  for (const [index, turn] of [...turns.entries()].reverse()) {
    const ahead = turn.isOpen ? --open : 0;
    const before = known.get(turn.id);
    if (!before && ++fresh > MAX_FRESH) continue;
    const isLast = index === turns.length - 1;
    const isEdited = turn.id === edited;
    const day = startedDay(turn, turns[index - 1]);
    const state = `${turn.version} ${ahead} ${isLast} ${isEdited} ${day}`;
    if (before?.turn === turn && before.state === state) {
      rendered.set(turn.id, before); // the same node is not compared again
      continue;
    }
    const versions = conversation.state.alternativesOf(turn);
    const more = { day, ahead, isLast, isEdited, versions, branches, onSend, onSource };
    rendered.set(turn.id, { turn, state, node: <TurnView key={turn.id} turn={turn} {...more} /> });
  }
  return { rendered, isComplete: fresh <= MAX_FRESH };
}

/** Return the day of a turn that is the first one of its day, else nothing. */
function startedDay(turn: Turn, before: Turn | undefined): string {
  const { formatDay } = extras;
  if (turn.at === null || !formatDay) return "";
  const day = formatDay(turn.at);
  return before?.at && formatDay(before.at) === day ? "" : day;
}

/** Render the component again in the next frame, and then call `onMore`, until it is complete. */
function useNextFrame(isComplete: boolean, onMore: () => void): void {
  const [frame, setFrame] = useState(0);
  useLayoutEffect(() => {
    if (frame) onMore();
  }, [frame]);
  useLayoutEffect(() => {
    if (isComplete) return;
    const request = requestAnimationFrame(() => setFrame(frame + 1));
    return () => cancelAnimationFrame(request);
  });
}

function EarlierButton({ conversation }: { conversation: Conversation }) {
  return (
    <button type="button" class="chip earlier" onClick={() => void conversation.loadEarlier()}>
      {t.loadEarlier}
    </button>
  );
}
