/** One conversation: its turns, the unsent messages, the field to write in. */

import type { Conversation, SendOptions } from "palaver-client";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { announce } from "./announcement";
import { useBranches } from "./branches";
import { Composer } from "./composer";
import { ConnectionNotice } from "./connection_notice";
import { about, palaver } from "./client";
import { conversations } from "./conversations";
import { useDraft } from "./drafts";
import { useDrop } from "./drop_zone";
import { Icon } from "./icon";
import { ReplyWatch, useChanges } from "./live";
import { ModelNote } from "./model_note";
import { showNotice } from "./notice";
import { useFollowing } from "./scrolling";
import { useSignal } from "./signal";
import { skillFor } from "./skill_choice";
import { type ShownSources, SourcesPanel } from "./sources_panel";
import { t } from "./strings";
import { Turns } from "./turns";
import { UnsentMessages } from "./unsent_messages";
import { useUploads } from "./uploads";
import { Welcome } from "./welcome";

export function ConversationView({ conversation }: { conversation: Conversation }) {
  useChanges(conversation);
  const [draft, setDraft] = useDraft(conversation.thread);
  const [sources, setSources] = useState<ShownSources | null>(null);
  const [isUnread, setUnread] = useUnread();
  const main = useRef<HTMLElement>(null);
  const place = useRef<HTMLDivElement>(null);
  const uploads = useUploads(useSignal(palaver), useSignal(about)?.files);
  const isDropTarget = useDrop(place, uploads?.add);
  const watch = useRef(new ReplyWatch()).current;
  const following = useFollowing(main);
  const { state, unsent } = conversation;
  const turns = state.turns;

  useLayoutEffect(() => {
    if (!edited && (turns.length || unsent.length)) following.afterRender();
  });
  useEffect(() => {
    if (!watch.check(conversation)) return;
    void conversations.settle(conversation.thread);
    if (document.hidden) setUnread(true);
  });
  useEffect(() => document.getElementById("text")?.focus(), []);
  useTitle(conversation.thread, isUnread);

  const send = (text: string, options: SendOptions = {}) => {
    const trimmed = text.trim();
    if (!trimmed && !options.attachments?.length) return;
    following.begin();
    announce("");
    conversations.touch(conversation.thread, trimmed || (options.attachments?.[0]?.name ?? ""));
    const skill = options.answers ? undefined : skillFor(conversation, trimmed);
    watch.add(conversation.send(trimmed, skill ? { skill, ...options } : options));
    document.getElementById("text")?.focus();
  };
  const { edited, branches, editLast } = useBranches(conversation, {
    send,
    onEnd: () => document.getElementById("text")?.focus(),
    onHidden: (areHidden) => showNotice(areHidden ? t.laterHidden : ""),
  });
  const stop = () => {
    if (state.running) conversation.stop(state.running.id);
    document.getElementById("text")?.focus();
  };
  const write = (text: string) => {
    setDraft(text);
    document.getElementById("text")?.focus();
  };
  useEscape(() => {
    if (edited) branches.edit(null);
    else if (sources) setSources(null);
    else stop();
  });

  // Before the first welcome the conversation may or may not be empty.
  const isEmpty = !turns.length && !unsent.length && conversation.status === "open";
  return (
    <div class={sources ? "conversation with-panel" : "conversation"} ref={place}>
      <div class="chat">
        <ConnectionNotice conversation={conversation} />
        <main id="main" tabIndex={-1} ref={main} onScroll={following.onScroll}>
          {isEmpty && <Welcome onChoose={write} onSend={(text) => send(text)} />}
          <Turns
            conversation={conversation}
            edited={edited}
            branches={branches}
            onSend={send}
            onSource={setSources}
            onMore={following.afterRender}
          />
          {unsent.length > 0 && (
            <UnsentMessages messages={unsent} conversation={conversation} onEdit={write} />
          )}
        </main>
        <footer>
          {!following.isAtEnd && (
            <button
              id="scroll-to-end"
              type="button"
              aria-label={t.toEnd}
              title={t.toEnd}
              onClick={following.begin}
            >
              <Icon name="down" />
            </button>
          )}
          <Composer
            text={draft}
            placeholder={t.placeholder}
            uploads={uploads}
            onText={setDraft}
            onSend={send}
            onStop={state.running ? stop : null}
            onEditLast={editLast}
          />
          <ModelNote />
        </footer>
      </div>
      {isDropTarget && <p class="drop-target">{t.dropFiles}</p>}
      {sources && <SourcesPanel {...sources} onClose={() => setSources(null)} />}
    </div>
  );
}

/** Call `action` for an Escape that nothing else has used. */
function useEscape(action: () => void): void {
  useLayoutEffect(() => {
    const handle = (event: KeyboardEvent) => {
      if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("dialog[open]")) action();
    };
    document.addEventListener("keydown", handle);
    return () => document.removeEventListener("keydown", handle);
  });
}

/** Return whether a reply has ended that nobody has seen, and the function that notes one. */
function useUnread(): [boolean, (isUnread: boolean) => void] {
  const [isUnread, setUnread] = useState(false);
  useEffect(() => {
    const clear = () => {
      if (!document.hidden) setUnread(false);
    };
    document.addEventListener("visibilitychange", clear);
    return () => document.removeEventListener("visibilitychange", clear);
  }, []);
  return [isUnread, setUnread];
}

/** Name the tab after the conversation, with a mark for a reply that nobody has seen. */
function useTitle(thread: string, isUnread: boolean): void {
  useEffect(() => {
    const update = () => {
      const title = conversations.find(thread)?.title;
      document.title = `${isUnread ? "● " : ""}${title ? `${title} · ` : ""}Palaver`;
    };
    update();
    return conversations.subscribe(update);
  }, [thread, isUnread]);
}
