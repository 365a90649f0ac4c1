/** What a person has begun to write, by conversation: kept in this browser until it is sent. */

import { useEffect, useRef, useState } from "preact/hooks";

import { SKILLS_KEY, forgetChoices } from "./skill_choice";
import { forgetKeys, readJson, writeJson } from "./storage";

const KEY = "palaver.drafts";
const MAX_DRAFTS = 50; // of the conversations that were written in last
const DELAY = 300; // ms after the last key

/** Thread and text of each draft; those that were written last are at the end. */
type Drafts = [thread: string, text: string][];

/** Grows when all is forgotten: what is on the screen then is not kept. */
let life = 0;

function read(): Drafts {
  return readJson<Drafts>(KEY, []);
}

function save(thread: string, text: string): void {
  const drafts = read();
  if ((drafts.find(([known]) => known === thread)?.[1] ?? "") === text) return;
  const others = drafts.filter(([known]) => known !== thread);
  writeJson(KEY, text.trim() ? [...others, [thread, text]].slice(-MAX_DRAFTS) : others);
}

/** Forget what was written and not sent: drafts, and the client's unsent messages; and the skills that were chosen. */
export function forgetUnsent(thread?: string): void {
  if (thread !== undefined) {
    save(thread, "");
    forgetKeys((key) => key === `palaver.unsent.${thread}`);
    return;
  }
  life += 1;
  forgetChoices();
  forgetKeys((key) => [KEY, SKILLS_KEY].includes(key) || key.startsWith("palaver.unsent."));
}

/** Return the draft of a conversation, and what changes it. */
export function useDraft(thread: string): [string, (text: string) => void] {
  const [text, setText] = useState(() => read().find(([known]) => known === thread)?.[1] ?? "");
  const latest = useRef(text);
  latest.current = text;
  useEffect(() => {
    const born = life;
    const keep = () => {
      if (born === life) save(thread, latest.current);
    };
    window.addEventListener("pagehide", keep);
    return () => {
      window.removeEventListener("pagehide", keep);
      keep();
    };
  }, [thread]);
  useEffect(() => {
    const timer = setTimeout(() => save(thread, text), text ? DELAY : 0);
    return () => clearTimeout(timer);
  }, [thread, text]);
  return [text, setText];
}
