/** Branches: another reply to a message, an edited message, and going back to an earlier version. */

import { type Conversation, type SendOptions, type Turn, attachedFiles } from "palaver-client";
import { useState } from "preact/hooks";

/** What a person can do to one turn; the other versions stay. */
export interface BranchActions {
  edit: (turn: Turn | null) => void;
  /** Send a text in place of the turn's message. */
  replace: (turn: Turn, text: string) => void;
  /** Replace the text of the turn's message, and keep the reply. Throws what the server says. */
  revise: (turn: Turn, text: string) => Promise<void>;
  select: (id: string) => void;
}

interface Options {
  send: (text: string, about?: SendOptions) => void;
  /** Called when an edit ends without a message. */
  onEnd: () => void;
  /** Called when later turns are hidden, as they are in another version, or a version is chosen. */
  onHidden?: (areHidden: boolean) => void;
}

/** Return the id of the turn whose message is edited, and what a person can do. */
export function useBranches(conversation: Conversation | null, { send, onEnd, onHidden }: Options) {
  const [edited, setEdited] = useState<string | null>(null);
  const branches: BranchActions = {
    edit(turn) {
      setEdited(turn?.id ?? null);
      if (!turn) onEnd();
    },
    replace(turn, text) {
      setEdited(null);
      const isLast = conversation?.state.turns.at(-1) === turn;
      const after = conversation ? turnBefore(conversation, turn) : undefined;
      const files = attachedFiles(turn.messages.flatMap(({ attachments = [] }) => attachments));
      send(text, { ...(after === undefined ? {} : { after }), ...(files.length ? { attachments: files } : {}) });
      if (!isLast) onHidden?.(true);
    },
    async revise(turn, text) {
      await conversation?.revise(turn.id, text);
      branches.edit(null);
    },
    select(id) {
      onHidden?.(false);
      conversation?.select(id);
    },
  };
  const editLast = () => {
    const last = conversation?.state.turns.at(-1);
    if (last && !conversation?.state.running) branches.edit(last);
  };
  return { edited, branches, editLast };
}

/** Return the turn before; null at the beginning, undefined when it is not loaded. */
function turnBefore(conversation: Conversation, turn: Turn): string | null | undefined {
  const { state } = conversation;
  const index = state.turns.findIndex(({ id }) => id === turn.id);
  if (index > 0) return state.turns[index - 1]?.id;
  return index === 0 && !state.earlier ? null : undefined;
}
