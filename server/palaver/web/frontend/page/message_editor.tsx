/** A person's message, being edited: the text is saved only, or a new reply is written too. */

import type { Turn } from "palaver-client";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import type { BranchActions } from "./branches";
import { problemText } from "./problem_text";
import { t } from "./strings";

interface Properties {
  turn: Turn;
  isLast: boolean;
  branches: BranchActions;
}

export function MessageEditor({ turn, isLast, branches }: Properties) {
  const field = useRef<HTMLTextAreaElement>(null);
  const [problem, setProblem] = useState("");
  useLayoutEffect(() => {
    field.current?.focus();
    field.current?.setSelectionRange(turn.message.length, turn.message.length);
    field.current?.form?.scrollIntoView({ block: "nearest" });
  }, []);
  const textOf = () => field.current?.value.trim() ?? "";
  const send = (event: Event) => {
    event.preventDefault();
    if (textOf()) branches.replace(turn, textOf());
  };
  const save = async () => {
    setProblem("");
    if (!textOf()) return;
    try {
      await branches.revise(turn, textOf());
    } catch (error) {
      setProblem(problemText(error));
    }
  };
  const handleKey = (event: KeyboardEvent) => {
    if (event.isComposing) return;
    if (event.key === "Escape") branches.edit(null);
    else if (event.key === "Enter" && !event.shiftKey) send(event);
    else return;
    event.preventDefault();
  };
  return (
    <form class="editor" onSubmit={send}>
      <textarea
        ref={field}
        aria-label={t.editMessage}
        aria-describedby="edit-note"
        rows={Math.min(12, turn.message.split("\n").length + 1)}
        dir="auto"
        defaultValue={turn.message}
        onKeyDown={handleKey}
      />
      <p id="edit-note">{isLast ? t.editNoteOfLast : t.editNote}</p>
      {problem && <p class="problem" role="alert" dir="auto">{problem}</p>}
      <div class="editor-buttons">
        <button type="button" class="chip" onClick={() => branches.edit(null)}>{t.cancel}</button>
        {turn.messages.length === 1 && (
          <button type="button" class="chip" onClick={() => void save()}>{t.saveOnly}</button>
        )}
        <button type="submit" class="chip primary">{t.saveAndReply}</button>
      </div>
    </form>
  );
}
