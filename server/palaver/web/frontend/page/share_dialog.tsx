/** Makes, lists and revokes links to a conversation. */

import type { Share } from "palaver-client";
import { useEffect, useRef, useState } from "preact/hooks";

import { palaver } from "./client";
import type { ListedConversation } from "./conversations";
import { CopyButton } from "./copy_button";
import { formatTime } from "./dates";
import { Dialog } from "./dialog";
import { problemText } from "./problem_text";
import { t } from "./strings";

export function ShareDialog({ item, onClose }: { item: ListedConversation; onClose: () => void }) {
  const { shares, note, problem, create, revoke } = useShares(item.thread);
  return (
    <Dialog title={t.sharing.title(item.title || t.untitled)} onClose={onClose}>
      <p>{t.sharing.text}</p>
      <button type="button" class="primary-button" onClick={create}>{t.sharing.create}</button>
      <p class="dialog-note" role="status">{note}</p>
      {problem && <p class="problem" role="alert" dir="auto">{problem}</p>}
      {shares?.length === 0 && <p>{t.sharing.none}</p>}
      {shares && shares.length > 0 && (
        <ul class="shares" aria-label={t.sharing.links}>
          {shares.map((share) => (
            <ShareItem key={share.id} share={share} onRevoke={() => revoke(share.id)} />
          ))}
        </ul>
      )}
    </Dialog>
  );
}

function ShareItem({ share, onRevoke }: { share: Share; onRevoke: () => void }) {
  const field = useRef<HTMLAnchorElement>(null);
  const url = new URL(share.path, location.origin).href;
  const time = formatTime(share.at);
  return (
    <li>
      <a ref={field} href={url} target="_blank" rel="noopener" dir="ltr">{url}</a>
      <div class="share-foot">
        <span>{t.sharing.upTo(time)}</span>
        <CopyButton text={url} label={t.sharing.copy} icon="copy" selects={field} />
        <button type="button" class="chip" aria-label={t.sharing.revokeLabel(time)} onClick={onRevoke}>
          {t.sharing.revoke}
        </button>
      </div>
    </li>
  );
}

/** Return the shares of a conversation, newest first, and what changes them. */
function useShares(thread: string) {
  const [shares, setShares] = useState<Share[] | null>(null);
  const [note, setNote] = useState("");
  const [problem, setProblem] = useState("");
  const attempt = async (work: () => Promise<string>) => {
    setNote("");
    setProblem("");
    try {
      const done = await work();
      setShares((await palaver.value.shares(thread)).toReversed());
      setNote(done);
    } catch (error) {
      setProblem(problemText(error));
    }
  };
  useEffect(() => void attempt(async () => ""), [thread]);
  const create = () =>
    void attempt(async () => {
      await palaver.value.share(thread);
      return t.sharing.created;
    });
  const revoke = (id: string) =>
    void attempt(async () => {
      await palaver.value.revokeShare(thread, id);
      return t.sharing.revoked;
    });
  return { shares, note, problem, create, revoke };
}
