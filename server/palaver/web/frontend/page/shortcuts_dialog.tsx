/** The list of keyboard shortcuts. */

import { Dialog } from "./dialog";
import { SHORTCUTS } from "./shortcuts";
import { t } from "./strings";

export function ShortcutsDialog({ onClose }: { onClose: () => void }) {
  const names = Object.keys(SHORTCUTS) as (keyof typeof SHORTCUTS)[];
  return (
    <Dialog title={t.shortcuts} onClose={onClose}>
      <dl class="shortcuts">
        {names.map((name) => (
          <div key={name}>
            <dt>{t.shortcut[name]}</dt>
            <dd>
              {SHORTCUTS[name].split("+").map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
