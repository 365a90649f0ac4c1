/** The top of the page: its name, the model, the buttons of a closed sidebar. */

import { about } from "./client";
import { Icon } from "./icon";
import { useSignal } from "./signal";
import { SkillPicker } from "./skill_picker";
import { t } from "./strings";

interface Properties {
  /** The conversation that is shown. */
  thread: string;
  hasSidebar: boolean;
  onSidebar: () => void;
  onCreate: () => void;
}

export function Header({ thread, hasSidebar, onSidebar, onCreate }: Properties) {
  const model = useSignal(about)?.model;
  return (
    <header>
      {!hasSidebar && (
        <button
          type="button"
          id="show-conversations"
          class="icon-button"
          aria-label={t.showConversations}
          title={t.showConversations}
          onClick={onSidebar}
        >
          <Icon name="panel" />
        </button>
      )}
      <h1>
        <img src="/static/icon.svg" alt="" width="26" height="26" />
        Palaver
      </h1>
      <SkillPicker thread={thread} />
      {model && (
        <p id="model" title={t.model(model)} dir="auto">
          {model}
        </p>
      )}
      {!hasSidebar && (
        <button
          type="button"
          class="icon-button new"
          aria-label={t.newConversation}
          title={t.newConversation}
          onClick={onCreate}
        >
          <Icon name="plus" />
        </button>
      )}
    </header>
  );
}
