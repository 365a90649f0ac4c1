/** Invites whoever runs the server to connect a real model, while a demonstration model answers. */

import { about } from "./client";
import { Icon } from "./icon";
import { isConnecting } from "./model_setup";
import { preferences, setPreference } from "./preferences";
import { useSignal } from "./signal";
import { t } from "./strings";

export function ConnectCard() {
  const info = useSignal(about);
  const { isConnectHidden } = useSignal(preferences);
  if (!info?.demonstration || !info.setup || isConnectHidden) return null;
  return (
    <aside class="connect-card" aria-labelledby="connect-title">
      <h3 id="connect-title">{t.connect.title}</h3>
      <p>{t.connect.cardText}</p>
      <button type="button" class="primary-button" onClick={() => (isConnecting.value = true)}>
        {t.connect.open}
      </button>
      <button
        type="button"
        class="icon-button"
        aria-label={t.connect.hide}
        title={t.connect.hide}
        onClick={() => {
          setPreference("isConnectHidden", true);
          document.getElementById("text")?.focus();
        }}
      >
        <Icon name="close" />
      </button>
    </aside>
  );
}
