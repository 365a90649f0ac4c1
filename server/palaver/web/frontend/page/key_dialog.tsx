/** Asks for a key when the server refuses the connection without one. */

import type { Conversation } from "palaver-client";
import { useLayoutEffect, useRef } from "preact/hooks";

import { hasKey } from "./client";
import { useChanges } from "./live";
import { signIn, wasAccepted } from "./server";
import { t } from "./strings";

export function KeyDialog({ conversation }: { conversation: Conversation }) {
  useChanges(conversation);
  return conversation.refusal?.code === 4401 ? <KeyForm /> : null;
}

function KeyForm() {
  const dialog = useRef<HTMLDialogElement>(null);
  const field = useRef<HTMLInputElement>(null);
  const remembered = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => dialog.current?.showModal(), []);
  const submit = (event: Event) => {
    event.preventDefault();
    const key = field.current?.value.trim();
    if (key) signIn(key, remembered.current?.checked ?? false);
  };
  return (
    <dialog
      ref={dialog}
      id="key-dialog"
      aria-labelledby="key-title"
      aria-describedby="key-text"
      onCancel={(event) => event.preventDefault()}
    >
      <form class="dialog-body" onSubmit={submit}>
        <h2 id="key-title">{titleOfForm()}</h2>
        <p id="key-text">{t.keyText}</p>
        <label for="key">{t.key}</label>
        <input
          id="key"
          ref={field}
          type="password"
          autocomplete="current-password"
          spellcheck={false}
          required
          aria-invalid={hasKey()}
          aria-describedby="key-title"
        />
        <label class="check">
          <input type="checkbox" ref={remembered} aria-describedby="remember-text" />
          <span>{t.account.remember}</span>
        </label>
        <p id="remember-text">{t.account.rememberText}</p>
        <button type="submit" class="primary-button">{t.continueButton}</button>
      </form>
    </dialog>
  );
}

function titleOfForm(): string {
  if (!hasKey()) return t.keyTitle;
  return wasAccepted() ? t.account.expired : t.keyUnknown;
}
