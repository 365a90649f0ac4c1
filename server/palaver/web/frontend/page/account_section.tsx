/** Who the person is for the server, and what they can do about it: a part of the settings. */

import { newId } from "palaver-client";

import { hasKey, me } from "./client";
import { forgetUnsent } from "./drafts";
import { show } from "./location";
import { signOut } from "./server";
import { useSignal } from "./signal";
import { t } from "./strings";
import { removeWorker } from "./worker";

interface Properties {
  onData: () => void;
  onClose: () => void;
}

export function AccountSection({ onData, onClose }: Properties) {
  const identity = useSignal(me);
  const leave = () => {
    onClose();
    forgetUnsent();
    void removeWorker();
    show(newId());
    signOut();
  };
  return (
    <fieldset class="setting account">
      <legend>{t.account.title}</legend>
      {identity && <p dir="auto">{identity.key ? t.account.signedIn(identity.key) : t.account.anonymous}</p>}
      <div class="choice">
        <button type="button" class="chip" onClick={onData}>{t.data.title}</button>
        {hasKey() && <button type="button" class="chip" onClick={leave}>{t.account.signOut}</button>}
      </div>
    </fieldset>
  );
}
