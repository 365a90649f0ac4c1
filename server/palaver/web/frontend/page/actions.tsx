/** What a person can do with a complete turn. */

import type { Turn } from "palaver-client";

import type { BranchActions } from "./branches";
import { CopyButton } from "./copy_button";
import { FeedbackButtons, FeedbackPanel, useFeedback } from "./feedback";
import { Icon, type IconName } from "./icon";
import { useSignal } from "./signal";
import { canSpeak, speak, spoken, stopSpeaking } from "./speech";
import { t } from "./strings";
import { Versions } from "./versions";

interface Properties {
  turn: Turn;
  /** Ids of all versions of the turn, by age. */
  versions: string[];
  branches: BranchActions;
}

export function Actions({ turn, versions, branches }: Properties) {
  const feedback = useFeedback(turn);
  return (
    <>
      <div class="actions">
        <Versions ids={versions} current={turn.id} onSelect={branches.select} />
        {turn.text && <CopyButton text={turn.text} label={t.copyReply} icon="copy" />}
        {turn.text && canSpeak && <SpeakButton turn={turn} />}
        {feedback && <FeedbackButtons {...feedback} />}
        <Action icon="again" label={t.regenerate} onClick={() => branches.replace(turn, turn.message)} />
      </div>
      {feedback && <FeedbackPanel {...feedback} />}
    </>
  );
}

function SpeakButton({ turn }: { turn: Turn }) {
  const isSpoken = useSignal(spoken) === turn.id;
  const label = isSpoken ? t.stopReading : t.readAloud;
  const toggle = () => (isSpoken ? stopSpeaking() : speak(turn.id, turn.text));
  return (
    <button type="button" class="action" aria-label={label} title={label} onClick={toggle}>
      <Icon name={isSpoken ? "silence" : "speak"} />
    </button>
  );
}

/** A button that makes a branch: hidden while a reply is written. */
export function Action(props: { icon: IconName; label: string; onClick: () => void }) {
  return (
    <button
      type="button"
      class="action branch"
      aria-label={props.label}
      title={props.label}
      onClick={props.onClick}
    >
      <Icon name={props.icon} />
    </button>
  );
}
