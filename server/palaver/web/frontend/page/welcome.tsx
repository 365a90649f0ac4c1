/** What an empty conversation shows: messages to begin with, and the skills. */

import { skills } from "./client";
import { ConnectCard } from "./connect_card";
import { titleOf } from "./names";
import { useSignal } from "./signal";
import { t } from "./strings";

interface Properties {
  onChoose: (text: string) => void;
  onSend: (text: string) => void;
}

const MAX_PROMPTS = 4;

export function Welcome({ onChoose, onSend }: Properties) {
  const known = useSignal(skills);
  // The first of each skill, then the second: every skill is seen.
  const most = Math.max(0, ...known.map(({ prompts = [] }) => prompts.length));
  const prompts = Array.from({ length: most }, (_, index) => known.map(({ prompts = [] }) => prompts[index]))
    .flat()
    .filter((prompt) => prompt !== undefined)
    .slice(0, MAX_PROMPTS);
  return (
    <section id="empty-state" aria-labelledby="greeting">
      <h2 id="greeting">{t.greeting}</h2>
      <p>{t.greetingText}</p>
      <ConnectCard />
      {prompts.length > 0 && (
        <ul class="prompts" aria-label={t.prompts}>
          {prompts.map((prompt) => (
            <li key={prompt}>
              <button type="button" class="chip" dir="auto" onClick={() => onSend(prompt)}>
                <span>{prompt}</span>
              </button>
            </li>
          ))}
        </ul>
      )}
      <ul id="skills" aria-label={t.skills}>
        {known.map((skill) => (
          <li key={skill.name}>
            <button type="button" onClick={() => onChoose(`/${skill.name} `)}>
              <strong>{titleOf(skill.name)}</strong>
              <span dir="auto">{skill.description}</span>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
