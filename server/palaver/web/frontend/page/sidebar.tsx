/** The list of conversations, with search above and the page's own menu below. */

import { useEffect, useRef } from "preact/hooks";

import type { DialogName } from "./app";
import { ConversationItem } from "./conversation_item";
import { type ListedConversation, conversations } from "./conversations";
import { formatPeriod } from "./dates";
import { Icon } from "./icon";
import { useSignal } from "./signal";
import { t } from "./strings";

interface Properties {
  current: string;
  onCreate: () => void;
  onClose: () => void;
  onShow: () => void;
  /** It covers the page: it takes the focus. */
  isModal: boolean;
  onDialog: (name: DialogName) => void;
}

export function Sidebar({ current, onCreate, onClose, onShow, isModal, onDialog }: Properties) {
  const items = useSignal(conversations);
  const { isArchive, isSearched } = conversations;
  const first = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (isModal) first.current?.focus();
  }, [isModal]);
  useEffect(() => () => conversations.reset(), []);
  const removed = (thread: string) => {
    if (thread === current) onCreate();
    else first.current?.focus();
  };
  return (
    <>
      <div class="backdrop" onClick={onClose} />
      <nav
        class="sidebar"
        aria-label={t.conversations}
        onKeyDown={(event) => {
          if (!isModal || event.key !== "Escape" || event.defaultPrevented) return;
          event.preventDefault();
          onClose();
        }}
      >
        <div class="sidebar-head">
          <button type="button" class="new-button" ref={first} onClick={onCreate}>
            <Icon name="plus" />
            {t.newConversation}
          </button>
          <button
            type="button"
            class="icon-button"
            aria-label={t.hideConversations}
            title={t.hideConversations}
            onClick={onClose}
          >
            <Icon name="panel" />
          </button>
        </div>
        <input
          type="search"
          id="search"
          class="search"
          aria-label={t.search}
          placeholder={t.search}
          dir="auto"
          maxLength={200}
          onInput={(event) => conversations.search(event.currentTarget.value)}
        />
        {items.length ? (
          <div class="conversations">
            {groupsOf(items, isSearched).map(({ name, items }) => (
              <section key={name} aria-label={name || t.conversations}>
                {name && <h2>{name}</h2>}
                <ul>
                  {items.map((item) => (
                    <ConversationItem
                      key={item.thread}
                      item={item}
                      isCurrent={item.thread === current}
                      isMarked={isSearched}
                      onShow={onShow}
                      onRemoved={removed}
                    />
                  ))}
                </ul>
              </section>
            ))}
          </div>
        ) : (
          <p class="no-conversations">{isSearched ? t.nothingFound : isArchive ? t.noArchived : t.noConversations}</p>
        )}
        <button
          type="button"
          class="quiet"
          aria-pressed={isArchive}
          onClick={() => conversations.showArchive(!isArchive)}
        >
          <Icon name="archive" />
          {t.archiveView}
        </button>
        <div class="sidebar-foot">
          <button type="button" class="quiet" onClick={() => onDialog("settings")}>
            <Icon name="settings" />
            {t.settings}
          </button>
          <button
            type="button"
            class="icon-button"
            aria-label={t.shortcuts}
            title={t.shortcuts}
            onClick={() => onDialog("shortcuts")}
          >
            <Icon name="help" />
          </button>
        </div>
      </nav>
    </>
  );
}

interface Group {
  name: string;
  items: ListedConversation[];
}

/** Return the conversations by the time of their last message, pinned ones first; what a search has
 * found is one group without a name. */
function groupsOf(items: ListedConversation[], isSearched: boolean): Group[] {
  const groups: Group[] = [];
  for (const item of items) {
    const time = item.pinned ? t.pinned : formatPeriod(item.active_at, t.lastWeek);
    const name = isSearched ? "" : time;
    const last = groups.at(-1);
    if (last?.name === name) last.items.push(item);
    else groups.push({ name, items: [item] });
  }
  return groups;
}
