/** The chat page: shows conversations and sends what a person writes. */

import { palaver } from "./client";
import { loadLanguage } from "./setup";

import { render } from "preact";

import { announcement } from "./announcement";
import { App } from "./app";
import { conversations } from "./conversations";
import { preferences } from "./preferences";
import { loadServerInfo } from "./server";
import { sendUnsent } from "./unsent_elsewhere";
import { registerWorker } from "./worker";

const root = document.getElementById("page") as HTMLElement;
const status = document.getElementById("announcement") as HTMLElement;

async function start(): Promise<void> {
  render(<App key={await loadLanguage()} />, root);
}

announcement.subscribe(() => (status.textContent = announcement.value));
void start();
void loadServerInfo();
void conversations.load();
void registerWorker();
void sendUnsent();
window.addEventListener("online", () => void sendUnsent());
palaver.subscribe(() => {
  conversations.clear(); // another person's
  void conversations.load();
});

let { language } = preferences.value;
preferences.subscribe(() => {
  if (preferences.value.language === language) return;
  ({ language } = preferences.value);
  void start();
});
