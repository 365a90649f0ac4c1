/** The call of a tool that waits for the person's approval, as a card. */

import type { Approval, SendOptions, Turn } from "palaver-client";

import { formatTime } from "./dates";
import { Icon } from "./icon";
import { t } from "./strings";

/** What the server takes for an answer, in every language of the page. */
const APPROVE = "Approve";
const DENY = "Deny";

interface Properties {
  turn: Turn;
  isLast: boolean;
  onSend: (text: string, options: SendOptions) => void;
}

export function ApprovalCard({ turn, isLast, onSend }: Properties) {
  const approval = turn.question?.approval;
  if (!approval || turn.state !== "asked") return null;
  const answer = (text: string) => onSend(text, { answers: approval.id });
  const title = isLast ? t.approvalNeeded : t.approvalAsked;
  return (
    <div class={isLast ? "approval" : "approval over"} role="group" aria-label={title}>
      <h3>
        <Icon name="tool" />
        {title}
      </h3>
      <Call approval={approval} />
      {isLast && (
        <div class="answers">
          <button type="button" class="chip primary" onClick={() => answer(APPROVE)}>
            {t.approve}
          </button>
          <button type="button" class="chip" onClick={() => answer(DENY)}>
            {t.deny}
          </button>
          <Expiry seconds={approval.expires_at} />
        </div>
      )}
    </div>
  );
}

function Call({ approval }: { approval: Approval }) {
  return (
    <>
      <p>
        <code>{approval.tool}</code> <span dir="auto">{approval.description}</span>
      </p>
      <p class="label">{t.toolArguments}</p>
      <pre tabIndex={0} role="group" aria-label={t.toolArguments} dir="ltr">
        {approval.shown_arguments}
      </pre>
    </>
  );
}

function Expiry({ seconds }: { seconds: number }) {
  const at = new Date(seconds * 1000);
  return <time dateTime={at.toISOString()}>{t.approvalUntil(formatTime(seconds))}</time>;
}

/** Return the text of a reply without the question that a card shows. */
export function textBesideCard({ text, question }: Turn): string {
  if (!question?.approval || !text.endsWith(question.text)) return text;
  return text.slice(0, -question.text.length).trimEnd();
}
