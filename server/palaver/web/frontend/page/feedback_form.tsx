/** What was wrong with a reply: loaded with the first thumb down. */

import type { Feedback, FeedbackReason } from "palaver-client";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import type { StoreFeedback } from "./feedback";
import { useReturnFocus } from "./focus";
import { t } from "./strings";

const MAX_COMMENT_LENGTH = 4_000;

interface Properties {
  given: Feedback;
  store: StoreFeedback;
  onClose: () => void;
}

/** Return the name of the button that opens the form. */
export function nameDetails({ reason }: Feedback): string {
  return reason ? t.feedbackForm.reasons[reason] : t.feedbackForm.details;
}

export function FeedbackForm({ given, store, onClose }: Properties) {
  const [reason, setReason] = useState<FeedbackReason | null>(given.reason ?? null);
  const comment = useRef<HTMLTextAreaElement>(null);
  const form = useRef<HTMLFormElement>(null);
  const first = useRef<HTMLButtonElement>(null);
  useReturnFocus();
  useLayoutEffect(() => {
    first.current?.focus(); // after `useReturnFocus` has seen what had the focus
    form.current?.scrollIntoView({ block: "nearest" });
  }, []);
  const send = async (event: Event) => {
    event.preventDefault();
    if (await store({ rating: "down", reason, comment: comment.current?.value.trim() ?? "" })) onClose();
  };
  const handleKey = (event: KeyboardEvent) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    onClose();
  };
  const reasons = Object.entries(t.feedbackForm.reasons) as [FeedbackReason, string][];
  return (
    <form ref={form} class="feedback" onSubmit={(event) => void send(event)} onKeyDown={handleKey}>
      <div class="reasons" role="group" aria-label={t.feedbackForm.question}>
        {reasons.map(([name, label], index) => (
          <button
            key={name}
            ref={index ? null : first}
            type="button"
            class="chip"
            aria-pressed={reason === name}
            onClick={() => setReason(reason === name ? null : name)}
          >
            {label}
          </button>
        ))}
      </div>
      <textarea
        ref={comment}
        aria-label={t.feedbackForm.comment}
        placeholder={t.feedbackForm.comment}
        rows={2}
        maxLength={MAX_COMMENT_LENGTH}
        dir="auto"
        defaultValue={given.comment ?? ""}
      />
      <div class="editor-buttons">
        <button type="button" class="chip" onClick={onClose}>{t.cancel}</button>
        <button type="submit" class="chip primary">{t.send}</button>
      </div>
    </form>
  );
}
