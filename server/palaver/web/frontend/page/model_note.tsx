/** Tells that the model is a demonstration. */

import { about } from "./client";
import { useSignal } from "./signal";
import { t } from "./strings";

export function ModelNote() {
  const info = useSignal(about);
  if (!info?.demonstration) return null;
  return <p id="model-note">{t.demonstration(info.model ?? "")}</p>;
}
