/** A conversation in the list: its link, and a menu of what can be done with it. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { about, palaver } from "./client";
import { type ListedConversation, conversations } from "./conversations";
import { Dialog } from "./dialog";
import { fileName, save } from "./downloads";
import { Icon } from "./icon";
import { pathOf, show } from "./location";
import { attempt, showNotice } from "./notice";
import { ShareDialog } from "./share_dialog";
import { useSignal } from "./signal";
import { t } from "./strings";

type Mode = "link" | "menu" | "rename" | "share" | "delete";

interface Properties {
  item: ListedConversation;
  isCurrent: boolean;
  /** It says so when it is archived: the list has others too. */
  isMarked: boolean;
  onShow: () => void;
  onRemoved: (thread: string) => void;
}

export function ConversationItem({ item, isCurrent, isMarked, onShow, onRemoved }: Properties) {
  const [mode, setMode] = useState<Mode>("link");
  const options = useRef<HTMLButtonElement>(null);
  const title = item.title || t.untitled;
  const leave = () => {
    setMode("link");
    requestAnimationFrame(() => options.current?.focus()); // a form takes its place until then
  };
  if (mode === "rename") return <RenameForm item={item} onDone={leave} />;
  const open = (event: MouseEvent) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // the browser opens a tab
    event.preventDefault();
    show(item.thread);
    onShow();
  };
  const remove = async () => {
    setMode("link");
    await attempt(async () => {
      const { messages, events } = await conversations.remove(item.thread);
      showNotice(t.deleted(title, messages, events));
      onRemoved(item.thread);
    });
  };
  return (
    <li class={isCurrent ? "current" : undefined}>
      <a href={pathOf(item.thread)} dir="auto" aria-current={isCurrent ? "page" : undefined} onClick={open}>
        {item.pinned && <Icon name="pin" />}
        <span>{title}</span>
        {item.archived && isMarked && <small>{t.archived}</small>}
        {item.excerpt && <small>{item.excerpt}</small>}
      </a>
      <button
        type="button"
        class="icon-button"
        ref={options}
        aria-label={t.options(title)}
        aria-expanded={mode === "menu"}
        onClick={() => setMode(mode === "menu" ? "link" : "menu")}
      >
        <Icon name="more" />
      </button>
      {mode === "menu" && <Menu item={item} onMode={(next) => (next === "link" ? leave() : setMode(next))} />}
      {mode === "share" && <ShareDialog item={item} onClose={leave} />}
      {mode === "delete" && (
        <Dialog title={t.deleteTitle(title)} onClose={leave}>
          <p>{t.deleteText}</p>
          <button type="button" class="danger" onClick={() => void remove()}>{t.deleteConversation}</button>
        </Dialog>
      )}
    </li>
  );
}

interface MenuProperties {
  item: ListedConversation;
  onMode: (mode: Mode) => void;
}

function Menu({ item, onMode }: MenuProperties) {
  const { thread, pinned, archived } = item;
  const canShare = useSignal(about)?.sharing;
  const choose = (action: () => Promise<void>) => () => {
    onMode("link");
    void attempt(action);
  };
  return (
    <div
      class="item-menu"
      onKeyDown={(event) => {
        if (event.key !== "Escape") return;
        event.preventDefault();
        onMode("link");
      }}
    >
      <button type="button" onClick={() => onMode("rename")}>{t.rename}</button>
      <button type="button" onClick={choose(() => conversations.pin(thread, !pinned))}>
        {pinned ? t.unpin : t.pin}
      </button>
      <button type="button" onClick={choose(() => conversations.archive(thread, !archived))}>
        {archived ? t.unarchive : t.archive}
      </button>
      {canShare && <button type="button" onClick={() => onMode("share")}>{t.sharing.menu}</button>}
      <button type="button" onClick={choose(() => download(item, "markdown"))}>{t.downloadMarkdown}</button>
      <button type="button" onClick={choose(() => download(item, "json"))}>{t.downloadJson}</button>
      <button type="button" onClick={() => onMode("delete")}>{t.deleteConversation}</button>
    </div>
  );
}

async function download(item: ListedConversation, format: "markdown" | "json"): Promise<void> {
  const content = await palaver.value.export(item.thread, format);
  save(content, fileName(item.title, format === "json" ? "json" : "md"));
}

function RenameForm({ item, onDone }: { item: ListedConversation; onDone: () => void }) {
  const [title, setTitle] = useState(item.title); // what a person types outlasts a new list
  const field = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => {
    field.current?.focus();
    field.current?.select();
  }, []);
  const save = (event: Event) => {
    event.preventDefault();
    void attempt(() => conversations.rename(item.thread, title));
    onDone();
  };
  return (
    <li>
      <form class="rename" onSubmit={save}>
        <input
          ref={field}
          aria-label={t.newTitle}
          value={title}
          dir="auto"
          maxLength={80}
          onInput={(event) => setTitle(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Escape") return;
            event.preventDefault();
            onDone();
          }}
        />
        <button type="submit" class="icon-button" aria-label={t.save}>
          <Icon name="check" />
        </button>
      </form>
    </li>
  );
}
