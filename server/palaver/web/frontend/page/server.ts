/** The server of the page, as this tab talks to it. */

import { type Conversation, Palaver } from "palaver-client";

import { about, me, palaver, skills } from "./client";
import { local, session } from "./storage";

/** The key: of this tab, in the session storage, or of this device, in the local one. */
const TOKEN = "palaver.token";
/** Set while the key is to be kept on this device, once the server has accepted it. */
const REMEMBERED = "palaver.token.remembered";
/** The key that the server has accepted. */
const ACCEPTED = "palaver.token.accepted";

palaver.value = connect();

window.addEventListener("storage", ({ key, oldValue, newValue }) => {
  const isOwn = key === TOKEN && newValue === null && oldValue === palaver.value.options.token;
  if (isOwn) reconnect(null); // another tab has signed out on this device
});

function connect(): Palaver {
  const token = session.getItem(TOKEN) ?? local.getItem(TOKEN);
  return new Palaver({ url: location.origin, token, storage: local });
}

/** Return true when the server has accepted the present key before. */
export function wasAccepted(): boolean {
  const { token } = palaver.value.options;
  return token !== null && [session.getItem(ACCEPTED), local.getItem(TOKEN)].includes(token as string);
}

/** Use a key from now on; also in other tabs and after this one, once it is accepted. */
export function signIn(key: string, isRemembered: boolean): void {
  if (isRemembered) session.setItem(REMEMBERED, "yes");
  reconnect(key);
}

export function signOut(): void {
  local.removeItem(TOKEN);
  reconnect(null);
}

function reconnect(key: string | null): void {
  session.removeItem(ACCEPTED);
  if (key === null) {
    session.removeItem(TOKEN);
    session.removeItem(REMEMBERED);
  } else {
    session.setItem(TOKEN, key);
  }
  [me.value, about.value, skills.value] = [null, null, []];
  palaver.value = connect();
  void loadServerInfo();
}

/** Load skills, model and identity; the conversation does not wait for them. */
export async function loadServerInfo(): Promise<void> {
  const { value: client } = palaver;
  try {
    const loaded = await Promise.all([client.about(), client.skills(), client.me()]);
    if (client !== palaver.value) return;
    [about.value, skills.value, me.value] = loaded;
    keepAccepted(client.options.token as string | null);
  } catch {
    // The websocket shows the problem.
  }
}

/** Read about the server again after a lost connection: it may have restarted with another model.
 * Return a function that ends it. */
export function watchRestarts(conversation: Conversation): () => void {
  let isLost = false;
  const handle = () => {
    if (conversation.status === "reconnecting") isLost = true;
    if (conversation.status !== "open" || !isLost) return;
    isLost = false;
    void loadAbout();
  };
  conversation.addEventListener("status", handle);
  return () => conversation.removeEventListener("status", handle);
}

async function loadAbout(): Promise<void> {
  const { value: client } = palaver;
  const loaded = await client.about().catch(() => null);
  if (loaded && client === palaver.value) about.value = loaded;
}

function keepAccepted(token: string | null): void {
  if (token === null) return;
  session.setItem(ACCEPTED, token);
  if (session.getItem(REMEMBERED)) local.setItem(TOKEN, token);
}
