/** What a person has set for this browser: colours, size of the text, language. */

import { Signal } from "./signal";
import { readJson, writeJson } from "./storage";

export const THEMES = ["system", "light", "dark"] as const;
export const TEXT_SIZES = ["small", "normal", "large", "larger"] as const;

export interface Preferences {
  theme: (typeof THEMES)[number];
  textSize: (typeof TEXT_SIZES)[number];
  /** A language code; empty: the browser's. */
  language: string;
  isSidebarOpen: boolean;
  /** The card about a real model was closed. */
  isConnectHidden: boolean;
}

const KEY = "palaver.preferences";
const DEFAULTS: Preferences = {
  theme: "system",
  textSize: "normal",
  language: "",
  isSidebarOpen: true,
  isConnectHidden: false,
};

export const preferences = new Signal<Preferences>({ ...DEFAULTS, ...readJson<Partial<Preferences>>(KEY, {}) });

export function setPreference<Name extends keyof Preferences>(name: Name, value: Preferences[Name]): void {
  preferences.value = { ...preferences.value, [name]: value };
  writeJson(KEY, preferences.value);
  applyPreferences();
}

/** Show the colours and the size of the text; base.css has them by attribute. */
export function applyPreferences(): void {
  document.documentElement.dataset["theme"] = preferences.value.theme;
  document.documentElement.dataset["textSize"] = preferences.value.textSize;
}
