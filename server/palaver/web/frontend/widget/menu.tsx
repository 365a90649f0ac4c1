/** What a visitor can do beside writing: begin again, choose the sound, see or erase their data. */

import { useState } from "preact/hooks";

import { announce } from "../page/announcement";
import { palaver } from "../page/client";
import { save } from "../page/downloads";
import { useSignal } from "../page/signal";
import { t } from "../page/strings";
import type { Session } from "./session";

interface Properties {
  session: Session;
  onClose: () => void;
  onCreate: () => void;
}

export function Menu({ session, onClose, onCreate }: Properties) {
  const [isErasing, setErasing] = useState(false);
  const [note, setNote] = useState("");
  const [hasSound, setSound] = useState(session.hasSound);
  const isConnected = useSignal(session.conversation) !== null;

  const create = () => {
    session.newConversation();
    onCreate();
  };
  const toggleSound = () => {
    session.memory.hasSound = !hasSound;
    setSound(!hasSound);
  };
  const attempt = async (action: () => Promise<void>) => {
    setNote("");
    try {
      await action();
    } catch {
      setNote(t.widget.failed);
    }
  };
  const download = async () => {
    save(await palaver.value.exportData(), "palaver.json");
    onClose();
  };
  const erase = async () => {
    await palaver.value.eraseData();
    session.newConversation();
    onCreate();
    announce(t.widget.erased);
  };
  if (isErasing) {
    return (
      <div class="menu" role="group" aria-label={t.widget.erase}>
        <p>{t.widget.eraseText}</p>
        {note && <p role="alert">{note}</p>}
        <button type="button" class="danger" onClick={() => void attempt(erase)}>{t.widget.erase}</button>
        <button type="button" onClick={onClose}>{t.cancel}</button>
      </div>
    );
  }
  return (
    <div class="menu" role="group" aria-label={t.widget.options}>
      <button type="button" onClick={create}>{t.newConversation}</button>
      <button type="button" aria-pressed={hasSound} onClick={toggleSound}>{t.widget.sound}</button>
      {isConnected && <button type="button" onClick={() => void attempt(download)}>{t.widget.download}</button>}
      {isConnected && <button type="button" onClick={() => setErasing(true)}>{t.widget.erase}</button>}
      {note && <p role="alert">{note}</p>}
    </div>
  );
}
