/** `‹ 2/3 ›`: the versions of a message, or of the reply to it. */

import { Icon } from "./icon";
import { t } from "./strings";

interface Properties {
  /** Ids of the versions, by age. */
  ids: string[];
  current: string;
  onSelect: (id: string) => void;
}

export function Versions({ ids, current, onSelect }: Properties) {
  const index = ids.indexOf(current);
  if (ids.length < 2 || index < 0) return null;
  const button = (label: string, icon: "back" | "forward", id: string | undefined) => (
    <button
      type="button"
      class="action branch"
      aria-label={label}
      title={label}
      disabled={id === undefined}
      onClick={() => id !== undefined && onSelect(id)}
    >
      <Icon name={icon} />
    </button>
  );
  return (
    <span class="versions" role="group" aria-label={t.versions}>
      {button(t.olderVersion, "back", ids[index - 1])}
      <span>{`${index + 1}/${ids.length}`}</span>
      {button(t.newerVersion, "forward", ids[index + 1])}
    </span>
  );
}
