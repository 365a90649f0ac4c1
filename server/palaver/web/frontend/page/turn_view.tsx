/** One turn: what the person wrote, the reply, and all that belongs to it. */

import { type SendOptions, type StoredMessage, type Turn, canRetry } from "palaver-client";
import { Component } from "preact";

import { Action, Actions } from "./actions";
import { ApprovalCard } from "./approval";
import { Attachments } from "./attachments";
import type { BranchActions } from "./branches";
import { Bubble } from "./bubble";
import { formatClock, formatTime } from "./dates";
import { MessageEditor } from "./message_editor";
import { titleOf } from "./names";
import { Reply } from "./reply";
import { SourceMark, Sources } from "./sources";
import type { ShownSources } from "./sources_panel";
import { t } from "./strings";
import { Tools } from "./tools";

interface Properties {
  turn: Turn;
  /** The day that begins with this turn; empty when it has begun before. */
  day: string;
  /** Open turns before this one. */
  ahead: number;
  isLast: boolean;
  isEdited: boolean;
  versions: string[];
  branches: BranchActions;
  onSend: (text: string, options?: SendOptions) => void;
  onSource: (sources: ShownSources) => void;
}

export class TurnView extends Component<Properties> {
  render({ turn, day, ahead, isLast, isEdited, versions, branches, onSend, onSource }: Properties) {
    const showSource = (number: number) => onSource({ citations: turn.citations, number });
    const cite = (number: number) => {
      const citation = turn.citations.find((known) => known.number === number);
      return citation ? <SourceMark citation={citation} onShow={showSource} /> : null;
    };
    return (
      // A screen reader reads the reply once, when it is complete.
      <article class="turn" aria-busy={turn.isOpen}>
        {day && <p class="day">{day}</p>}
        <h2 class="visually-hidden">{t.youWrote}</h2>
        {isEdited ? (
          <MessageEditor turn={turn} isLast={isLast} branches={branches} />
        ) : (
          <div class="messages">
            {turn.messages.map((message, index) => (
              <Message key={message.id || index} message={message} />
            ))}
            {turn.at !== null && <Clock seconds={turn.at} />}
            {!turn.isOpen && (
              <Action icon="edit" label={t.editMessage} onClick={() => branches.edit(turn)} />
            )}
          </div>
        )}
        <Caption turn={turn} ahead={ahead} />
        <Tools tools={turn.tools} />
        <Reply turn={turn} isLast={isLast} cite={cite} />
        <Sources citations={turn.citations} onShow={showSource} />
        <Attachments files={turn.attachments} />
        <ApprovalCard turn={turn} isLast={isLast} onSend={onSend} />
        <Options turn={turn} isLast={isLast} onSend={onSend} />
        <Ending turn={turn} isLast={isLast} onSend={onSend} />
        {!turn.isOpen && <Actions turn={turn} versions={versions} branches={branches} />}
      </article>
    );
  }
}

function Message({ message: { text, attachments = [] } }: { message: StoredMessage }) {
  return (
    <>
      <Attachments files={attachments} />
      {text && <Bubble text={text} />}
    </>
  );
}

function Clock({ seconds }: { seconds: number }) {
  return (
    <time class="clock" dateTime={new Date(seconds * 1000).toISOString()} title={formatTime(seconds)}>
      {formatClock(seconds)}
    </time>
  );
}

function Caption({ turn, ahead }: { turn: Turn; ahead: number }) {
  const state = stateOf(turn, ahead);
  if (!turn.skill && !state) return null;
  return (
    <div class="caption">
      {turn.skill && <strong>{titleOf(turn.skill)}</strong>}
      {turn.reason && (
        <details class="why">
          <summary aria-label={t.whyLabel}>{t.why}</summary>
          <span dir="auto">{turn.reason}</span>
          {turn.score !== null && <span>{t.sure(Math.round(turn.score * 100))}</span>}
        </details>
      )}
      {state && <span class="state">{state}</span>}
    </div>
  );
}

function stateOf(turn: Turn, ahead: number): string {
  if (!turn.isOpen) return "";
  if (turn.state === "waiting" && ahead) return t.waiting(ahead);
  if (turn.queuePosition !== null) return t.queued(turn.queuePosition);
  return turn.text ? "" : t.thinking;
}

interface PartProperties {
  turn: Turn;
  isLast: boolean;
  onSend: (text: string, options?: SendOptions) => void;
}

function Options({ turn, isLast, onSend }: PartProperties) {
  if (!turn.question?.options.length || turn.question.approval || turn.state !== "asked" || !isLast) return null;
  return (
    <div class="options" role="group" aria-label={t.suggestedAnswers}>
      {turn.question.options.map((option) => (
        <button type="button" class="chip" key={option} dir="auto" onClick={() => onSend(option)}>
          {option}
        </button>
      ))}
    </div>
  );
}

/** How a reply has ended, when that was not well. */
function Ending({ turn, isLast, onSend }: PartProperties) {
  const isCut = turn.state === "done" && turn.finishReason === "length";
  if (turn.state === "stopped" || isCut) {
    return (
      <p class="stopped">
        <span>{isCut ? t.cutOff : t.stopped}</span>
        {isLast && turn.text && (
          <button type="button" class="chip" onClick={() => onSend(t.continueMessage)}>
            {t.continueReply}
          </button>
        )}
      </p>
    );
  }
  if (turn.state !== "failed") return null;
  return (
    <p class="problem">
      <span dir="auto">{turn.problem?.message ?? t.failed}</span>
      {canRetry(turn.problem?.code) && (
        <button type="button" onClick={() => onSend(turn.message)}>{t.tryAgain}</button>
      )}
    </p>
  );
}
