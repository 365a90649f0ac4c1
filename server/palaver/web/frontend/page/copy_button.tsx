/** A button that copies a text. */

import type { RefObject } from "preact";
import { useState } from "preact/hooks";

import { Icon, type IconName } from "./icon";
import { t } from "./strings";

const SHOWN_FOR = 2_000; // ms

interface Properties {
  text: string;
  label: string;
  icon?: IconName;
  /** Selected when the browser gives no clipboard, as without https. */
  selects?: RefObject<HTMLElement | null>;
}

export function CopyButton({ text, label, icon, selects }: Properties) {
  const [note, setNote] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setNote(t.copied);
    } catch {
      if (selects?.current) getSelection()?.selectAllChildren(selects.current);
      setNote(t.pressCtrlC);
    }
    setTimeout(() => setNote(""), SHOWN_FOR);
  };
  if (!icon) {
    return (
      <button type="button" class="copy" onClick={copy}>
        {note || label}
      </button>
    );
  }
  return (
    <button type="button" class="action" aria-label={label} title={label} onClick={copy}>
      <Icon name={note ? "check" : icon} />
      {note === t.pressCtrlC && <span>{note}</span>}
    </button>
  );
}
