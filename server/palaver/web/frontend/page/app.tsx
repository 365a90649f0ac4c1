/** The whole page: the list of conversations, the conversation, the dialogs. */

import { type Conversation, newId } from "palaver-client";
import { useEffect, useLayoutEffect, useState } from "preact/hooks";

import { announce } from "./announcement";
import { palaver } from "./client";
import { ConversationView } from "./conversation_view";
import { DataDialog } from "./data_dialog";
import { Header } from "./header";
import { KeyDialog } from "./key_dialog";
import { useConversation } from "./live";
import { show, thread } from "./location";
import { isConnecting } from "./model_setup";
import { NoticeLine } from "./notice";
import { preferences, setPreference } from "./preferences";
import { watchRestarts } from "./server";
import { SettingsDialog } from "./settings_dialog";
import { handleShortcut } from "./shortcuts";
import { ShortcutsDialog } from "./shortcuts_dialog";
import { Sidebar } from "./sidebar";
import { useSignal } from "./signal";
import { t } from "./strings";

export type DialogName = "settings" | "shortcuts" | "data" | null;

const PHONE = matchMedia("(max-width: 48rem)");

export function App() {
  const client = useSignal(palaver);
  const id = useSignal(thread);
  const conversation = useConversation(client, id);
  const [dialog, setDialog] = useState<DialogName>(null);
  const connecting = useConnectDialog();
  const sidebar = useSidebar();
  useEffect(() => (conversation ? watchRestarts(conversation) : undefined), [conversation]);

  const create = () => {
    show(newId());
    sidebar.closeOnPhone();
    document.getElementById("text")?.focus();
  };
  const search = () => {
    if (!sidebar.isOpen) sidebar.toggle();
    requestAnimationFrame(() => document.getElementById("search")?.focus()); // it may just appear
  };
  useLayoutEffect(() => {
    const handle = (event: KeyboardEvent) =>
      handleShortcut(event, {
        create,
        toggleSidebar: sidebar.toggle,
        search,
        copyReply: () => conversation && void copyNewestReply(conversation),
        help: () => setDialog("shortcuts"),
      });
    document.addEventListener("keydown", handle);
    return () => document.removeEventListener("keydown", handle);
  });

  return (
    <>
      <a class="skip-link" href="#text">{t.skipLink}</a>
      <div class={sidebar.isOpen ? "page with-sidebar" : "page"}>
        {sidebar.isOpen && (
          <Sidebar
            current={id}
            onCreate={create}
            onClose={sidebar.toggle}
            onShow={sidebar.closeOnPhone}
            isModal={sidebar.isPhone}
            onDialog={setDialog}
          />
        )}
        <div class="column" inert={sidebar.isOpen && sidebar.isPhone}>
          <Header thread={id} hasSidebar={sidebar.isOpen} onSidebar={sidebar.toggle} onCreate={create} />
          {conversation && <ConversationView key={id} conversation={conversation} />}
        </div>
      </div>
      <NoticeLine />
      {conversation && <KeyDialog conversation={conversation} />}
      {dialog === "settings" && <SettingsDialog onClose={() => setDialog(null)} onData={() => setDialog("data")} />}
      {dialog === "data" && <DataDialog onClose={() => setDialog(null)} />}
      {connecting && <connecting.ConnectDialog onClose={() => (isConnecting.value = false)} />}
      {dialog === "shortcuts" && <ShortcutsDialog onClose={() => setDialog(null)} />}
    </>
  );
}

/** Return the dialog that connects another model, once it is wanted and loaded. */
function useConnectDialog() {
  const isOpen = useSignal(isConnecting);
  const [loaded, setLoaded] = useState<typeof import("./connect_dialog") | null>(null);
  useEffect(() => {
    if (isOpen) void import("./connect_dialog").then(setLoaded, () => (isConnecting.value = false));
  }, [isOpen]);
  return isOpen ? loaded : null;
}

async function copyNewestReply(conversation: Conversation): Promise<void> {
  const text = conversation.state.turns.findLast((turn) => turn.text && !turn.isOpen)?.text;
  if (!text) return;
  await navigator.clipboard.writeText(text);
  announce(t.copied);
}

/** Return the state of the sidebar: kept on a wide screen, closed at first on a phone. */
function useSidebar() {
  const { isSidebarOpen } = useSignal(preferences);
  const [isPhone, setPhone] = useState(PHONE.matches);
  const [isOpenOnPhone, setOpenOnPhone] = useState(false);
  useEffect(() => {
    const update = () => setPhone(PHONE.matches);
    PHONE.addEventListener("change", update);
    return () => PHONE.removeEventListener("change", update);
  }, []);
  const isOpen = isPhone ? isOpenOnPhone : isSidebarOpen;
  const toggle = () => {
    if (isPhone) setOpenOnPhone(!isOpen);
    else setPreference("isSidebarOpen", !isOpen);
    if (isOpen) requestAnimationFrame(() => document.getElementById("show-conversations")?.focus());
  };
  return { isOpen, isPhone, toggle, closeOnPhone: () => setOpenOnPhone(false) };
}
