/** The words of the page and of the widget in the person's language. */

import { en, type Strings } from "./strings/en";

/** Names of the languages, each in itself. */
export const LANGUAGES: Record<string, string> = {
  en: "English",
  de: "Deutsch",
  fr: "Français",
  es: "Español",
  zh: "中文",
};

/** The languages that are loaded when they are wanted. */
const OTHERS: Record<string, () => Promise<Strings>> = {
  de: async () => (await import("./strings/de")).de,
  fr: async () => (await import("./strings/fr")).fr,
  es: async () => (await import("./strings/es")).es,
  zh: async () => (await import("./strings/zh")).zh,
};

/** The words; `loadStrings` replaces them before anything is rendered. */
export let t: Strings = en;

/** Load the words of the first language that there are words for, and return its code. */
export async function loadStrings(tags: readonly string[]): Promise<string> {
  const wanted = tags.map((tag) => tag.split("-")[0]?.toLowerCase() ?? "");
  const language = wanted.find((code) => code in LANGUAGES) ?? "en";
  t = (await OTHERS[language]?.()) ?? en;
  return language;
}
