/** The chat itself: what was written, and the field to write in. */

import type { SendOptions } from "palaver-client";
import type { RefObject } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { announce, announcement } from "../page/announcement";
import { useBranches } from "../page/branches";
import { Composer } from "../page/composer";
import { about, palaver } from "../page/client";
import { ConnectionNotice } from "../page/connection_notice";
import { Icon } from "../page/icon";
import { useChanges } from "../page/live";
import { useFollowing } from "../page/scrolling";
import { useSignal } from "../page/signal";
import { type ShownSources, SourcesPanel } from "../page/sources_panel";
import { t } from "../page/strings";
import { Turns } from "../page/turns";
import { UnsentMessages } from "../page/unsent_messages";
import { useUploads } from "../page/uploads";
import { Greeting } from "./greeting";
import { Head } from "./head";
import type { WidgetOptions } from "./options";
import type { Session } from "./session";

interface Properties {
  session: Session;
  options: WidgetOptions;
  place: RefObject<HTMLDivElement | null>;
  /** Null: it cannot be closed. */
  onClose: (() => void) | null;
}

export function Chat({ session, options, place, onClose }: Properties) {
  const conversation = useSignal(session.conversation);
  const isRefused = useSignal(session.refusal) !== "";
  const isOpen = useSignal(session.isOpen);
  useChanges(conversation);
  const [draft, setDraft] = useState("");
  const [sources, setSources] = useState<ShownSources | null>(null);
  const main = useRef<HTMLDivElement>(null);
  const following = useFollowing(main);
  const uploads = useUploads(useSignal(palaver), useSignal(about)?.files);
  const turns = conversation?.state.turns ?? [];
  const unsent = conversation?.unsent ?? [];
  const running = conversation?.state.running ?? null;

  useLayoutEffect(() => {
    if (turns.length || unsent.length) following.afterRender();
  });
  useLayoutEffect(() => {
    if (isOpen) following.begin(); // what is hidden does not scroll
  }, [isOpen]);
  useLayoutEffect(() => setSources(null), [conversation]);

  const focus = () => focusField(place.current);
  const send = (text: string, options?: SendOptions) => {
    following.begin();
    announce("");
    session.send(text, options);
    focus();
  };
  const { edited, branches, editLast } = useBranches(conversation, { send, onEnd: focus });
  const stop = () => {
    if (running) conversation?.stop(running.id);
    focus();
  };
  const handleKey = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    event.preventDefault();
    if (edited) branches.edit(null);
    else if (sources) setSources(null);
    else if (onClose) onClose();
    else stop();
  };
  const write = (text: string) => {
    setDraft(text);
    focus();
  };

  const isEmpty = !turns.length && !unsent.length && (session.isNew || conversation?.status === "open");
  return (
    // What a person types must not reach the shortcuts of the page: for them, it is no field that has the focus.
    <div
      class="chat"
      ref={place}
      onFocusIn={() => session.start()}
      onKeyDown={(event) => {
        handleKey(event);
        event.stopPropagation();
      }}
      onKeyPress={(event) => event.stopPropagation()}
      onKeyUp={(event) => event.stopPropagation()}
    >
      <Head session={session} options={options} onClose={onClose} onCreate={focus} />
      {isRefused && <p class="refused">{t.widget.refused}</p>}
      {!isRefused && conversation && <ConnectionNotice conversation={conversation} />}
      <div id="main" tabIndex={-1} ref={main} onScroll={following.onScroll}>
        {isEmpty && !isRefused && <Greeting options={options} onSend={(text) => send(text)} />}
        {conversation && (
          <Turns
            conversation={conversation}
            edited={edited}
            branches={branches}
            onSend={send}
            onSource={setSources}
            onMore={following.afterRender}
          />
        )}
        {conversation && unsent.length > 0 && (
          <UnsentMessages messages={unsent} conversation={conversation} onEdit={write} />
        )}
      </div>
      {!isRefused && (
        <div class="foot">
          {!following.isAtEnd && (
            <button id="scroll-to-end" type="button" aria-label={t.toEnd} title={t.toEnd} onClick={following.begin}>
              <Icon name="down" />
            </button>
          )}
          <Composer
            text={draft}
            placeholder={t.widget.placeholder}
            uploads={uploads}
            onText={setDraft}
            onSend={send}
            onStop={running ? stop : null}
            onEditLast={editLast}
          />
        </div>
      )}
      {sources && <SourcesPanel {...sources} onClose={() => setSources(null)} />}
      <Announcement />
    </div>
  );
}

/** Give the focus to the field that a message is written in. */
export function focusField(root: HTMLElement | null): void {
  root?.querySelector<HTMLElement>("#text")?.focus();
}

function Announcement() {
  return (
    <p id="announcement" class="visually-hidden" role="status">
      {useSignal(announcement)}
    </p>
  );
}
