/** One line about what has happened to something that is not on the screen any more. */

import { Icon } from "./icon";
import { problemText } from "./problem_text";
import { Signal, useSignal } from "./signal";
import { t } from "./strings";

interface Notice {
  text: string;
  isProblem: boolean;
}

const notice = new Signal<Notice | null>(null);

/** Show a text; an empty one removes what is shown. */
export function showNotice(text: string): void {
  notice.value = text ? { text, isProblem: false } : null;
}

/** Do something; show its problem where it does not work. Returns true when it has worked. */
export async function attempt(work: () => Promise<void>): Promise<boolean> {
  notice.value = null;
  try {
    await work();
    return true;
  } catch (error) {
    notice.value = { text: problemText(error), isProblem: true };
    return false;
  }
}

export function NoticeLine() {
  const shown = useSignal(notice);
  return (
    <div class={shown?.isProblem ? "notice notice-problem" : "notice"} role="status">
      {shown && (
        <>
          <span dir="auto">{shown.text}</span>
          <button type="button" class="icon-button" aria-label={t.close} onClick={() => (notice.value = null)}>
            <Icon name="close" />
          </button>
        </>
      )}
    </div>
  );
}
