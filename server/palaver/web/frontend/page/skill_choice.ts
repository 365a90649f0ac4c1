/** The skill that a person has chosen for a conversation, kept in this browser. Without one, the server chooses. */

import type { Conversation, SkillInfo } from "palaver-client";

import { skills } from "./client";
import { Signal } from "./signal";
import { readJson, writeJson } from "./storage";

export const SKILLS_KEY = "palaver.skills";
const MAX_CHOICES = 50; // of the conversations that were last chosen for

type Choices = [thread: string, skill: string][];

export const choices = new Signal<Choices>(readJson<Choices>(SKILLS_KEY, []));

window.addEventListener("storage", ({ key }) => {
  if (key === SKILLS_KEY) choices.value = readJson<Choices>(SKILLS_KEY, []);
});

/** Return the skill that is chosen for a conversation; undefined where the server chooses. */
export function chosenSkill(thread: string): SkillInfo | undefined {
  const chosen = choices.value.find(([known]) => known === thread)?.[1];
  return skills.value.find(({ name }) => name === chosen);
}

/** Choose a skill; null lets the server choose. */
export function chooseSkill(thread: string, skill: string | null): void {
  const others = choices.value.filter(([known]) => known !== thread);
  choices.value = skill === null ? others : [...others, [thread, skill] as [string, string]].slice(-MAX_CHOICES);
  writeJson(SKILLS_KEY, choices.value);
}

export function forgetChoices(): void {
  choices.value = [];
}

/** Return the name of the skill that a message is for: not where its text names one, or answers a question. */
export function skillFor(conversation: Conversation, text: string): string | undefined {
  const chosen = chosenSkill(conversation.thread)?.name;
  const last = conversation.state.turns.at(-1);
  const isAnswer = last?.state === "asked" && last.skill === chosen;
  return isAnswer || /^\/\w/.test(text) ? undefined : chosen;
}
