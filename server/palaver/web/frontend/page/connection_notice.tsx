/** Tells that the connection is lost, or why the conversation cannot be opened. */

import type { Conversation } from "palaver-client";
import { useEffect, useState } from "preact/hooks";

import { hasKey } from "./client";
import { isOnline } from "./online";
import { useSignal } from "./signal";
import { t } from "./strings";

const DELAY = 1_000; // ms before a lost connection is shown

export function ConnectionNotice({ conversation }: { conversation: Conversation }) {
  const { status } = conversation;
  const isLost = status === "reconnecting" || status === "connecting";
  const [isShown, setShown] = useState(false);
  const [wasOpen, setWasOpen] = useState(false);
  useEffect(() => {
    if (status === "reconnecting") setWasOpen(true);
    if (!isLost) {
      setShown(false);
      setWasOpen(false);
    }
  }, [status]);
  useEffect(() => {
    if (!isLost || !wasOpen) return;
    const timer = setTimeout(() => setShown(true), DELAY);
    return () => clearTimeout(timer);
  }, [isLost, wasOpen]);
  const isOffline = !useSignal(isOnline);
  const reason = conversation.problem?.message ?? t.connectionLost;
  const lost = isOffline ? t.offline : isShown ? reason : "";
  const text = (isLost && lost) || refusalText(conversation);
  return (
    <p id="connection" role="status" hidden={!text}>
      {text}
    </p>
  );
}

function refusalText({ refusal }: Conversation): string {
  if (!refusal || refusal.code === 4401) return "";
  if (refusal.code === 4403 && !hasKey()) return t.someoneElses;
  return refusal.reason || t.cannotOpen;
}
