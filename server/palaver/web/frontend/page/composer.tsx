/** The field in which a person writes, with suggestions of skills. */

import type { SendOptions } from "palaver-client";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { skills } from "./client";
import { Icon } from "./icon";
import { useSignal } from "./signal";
import { t } from "./strings";
import { Suggestions, findSuggestions } from "./suggestions";
import { UploadList } from "./upload_list";
import type { Uploads } from "./uploads";

const MAX_MEASURED = 5_000; // characters
const RIGHT_TO_LEFT = /[\p{sc=Hebrew}\p{sc=Arabic}\p{sc=Syriac}\p{sc=Thaana}\p{sc=Nko}]/u;

interface Properties {
  text: string;
  placeholder: string;
  /** The files that are sent with the message; null where nobody may upload. */
  uploads: Uploads | null;
  onText: (text: string) => void;
  onSend: (text: string, about?: SendOptions) => void;
  /** Stops the running reply; null when there is none. */
  onStop: (() => void) | null;
  /** Edits the last message. */
  onEditLast: () => void;
}

export function Composer({ text, placeholder, uploads, onText, onSend, onStop, onEditLast }: Properties) {
  const field = useRef<HTMLTextAreaElement>(null);
  const suggestions = useSuggestions(text, (accepted) => {
    onText(accepted);
    field.current?.focus();
  });
  useHeight(field, text);
  const hasFiles = Boolean(uploads?.items.length);
  const isEmpty = !text.trim() && !hasFiles;
  const canSend = !isEmpty && (uploads?.areComplete ?? true);
  const submit = (event: Event) => {
    event.preventDefault();
    if (!canSend) return;
    onSend(text, hasFiles && uploads ? { attachments: uploads.take() } : {});
    onText("");
  };
  const handleKey = (event: KeyboardEvent) => {
    if (event.isComposing) return;
    if (suggestions.handleKey(event.key)) return event.preventDefault();
    if (event.key === "Enter" && !event.shiftKey) return submit(event);
    if (event.key !== "ArrowUp" || text) return;
    event.preventDefault();
    onEditLast();
  };
  return (
    <>
      <Suggestions {...suggestions} />
      {uploads && <UploadList uploads={uploads} />}
      <form id="composer" onSubmit={submit}>
        {uploads && <FileButton onFiles={uploads.add} />}
        <label class="visually-hidden" for="text">{t.yourMessage}</label>
        <textarea
          id="text"
          ref={field}
          rows={1}
          dir={directionOf(text)}
          placeholder={placeholder}
          autocomplete="off"
          enterkeyhint="send"
          aria-autocomplete="list"
          aria-controls="suggestions"
          aria-activedescendant={suggestions.isShown ? `suggestion-${suggestions.selected}` : undefined}
          value={text}
          onInput={(event) => onText(event.currentTarget.value)}
          onKeyDown={handleKey}
          onPaste={(event) => {
            const files = event.clipboardData?.files;
            if (!uploads || !files?.length) return;
            event.preventDefault();
            uploads.add(files);
          }}
        />
        {(!onStop || !isEmpty) && (
          <button id="send" type="submit" aria-label={t.send} title={t.send} aria-disabled={!canSend}>
            <Icon name="send" />
          </button>
        )}
        {onStop && (
          <button id="stop" type="button" aria-label={t.stop} title={t.stop} onClick={onStop}>
            <Icon name="stop" />
          </button>
        )}
      </form>
    </>
  );
}

/** A button that lets a person choose files. */
function FileButton({ onFiles }: { onFiles: (files: File[]) => void }) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <button
        id="attach"
        type="button"
        class="icon-button"
        aria-label={t.files.add}
        title={t.files.add}
        onClick={() => input.current?.click()}
      >
        <Icon name="attach" />
      </button>
      <input
        ref={input}
        type="file"
        aria-label={t.files.add}
        multiple
        hidden
        onChange={(event) => {
          onFiles([...(event.currentTarget.files ?? [])]);
          event.currentTarget.value = ""; // the same file can be chosen again
        }}
      />
    </>
  );
}

/** Return the direction of a text by its first letter. `dir=auto` takes seconds for a long one. */
function directionOf(text: string): "rtl" | "ltr" | undefined {
  const letter = /\p{L}/u.exec(text.slice(0, MAX_MEASURED))?.[0];
  if (!letter) return undefined;
  return RIGHT_TO_LEFT.test(letter) ? "rtl" : "ltr";
}

/** Grow the field with its text. A very long one is not measured: that takes too long. */
function useHeight(field: { current: HTMLTextAreaElement | null }, text: string): void {
  useLayoutEffect(() => {
    const style = field.current?.style;
    if (!style) return;
    style.height = text.length > MAX_MEASURED ? "100dvh" : "auto"; // the style sheet has a limit
    if (text.length <= MAX_MEASURED) style.height = `${field.current?.scrollHeight}px`;
  }, [text]);
}

function useSuggestions(text: string, onAccept: (text: string) => void) {
  const matching = findSuggestions(useSignal(skills), text);
  const [selected, setSelected] = useState(0);
  const [dismissed, setDismissed] = useState<string | null>(null);
  const isShown = matching.length > 0 && dismissed !== text;
  const index = Math.min(selected, matching.length - 1);
  const accept = (name: string) => {
    onAccept(`/${name} `);
    setSelected(0);
  };
  /** Handle a key while skills are suggested; return true when it was for them. */
  const handleKey = (key: string): boolean => {
    if (!isShown) return false;
    const step = { ArrowDown: 1, ArrowUp: -1 }[key];
    if (step) setSelected((index + step + matching.length) % matching.length);
    else if (key === "Tab" || key === "Enter") accept(matching[index]?.name ?? "");
    else if (key === "Escape") setDismissed(text);
    else return false;
    return true;
  };
  return { matching, selected: index, isShown, accept, handleKey };
}
