/** The skills that match what a person has typed after a slash. */

import type { SkillInfo } from "palaver-client";

import { t } from "./strings";

/** Return the skills whose name begins as the text after its slash. */
export function findSuggestions(skills: SkillInfo[], text: string): SkillInfo[] {
  const typed = /^\/([\w-]*)$/.exec(text)?.[1]?.toLowerCase();
  return typed === undefined ? [] : skills.filter(({ name }) => name.startsWith(typed));
}

interface Properties {
  matching: SkillInfo[];
  selected: number;
  isShown: boolean;
  accept: (name: string) => void;
}

export function Suggestions({ matching, selected, isShown, accept }: Properties) {
  return (
    <ul id="suggestions" role="listbox" aria-label={t.skills} hidden={!isShown}>
      {isShown &&
        matching.map((skill, index) => (
          <li
            key={skill.name}
            id={`suggestion-${index}`}
            role="option"
            aria-selected={index === selected}
            ref={index === selected ? (node) => node?.scrollIntoView({ block: "nearest" }) : undefined}
            // pointerdown comes before the field loses its focus.
            onPointerDown={(event) => {
              event.preventDefault();
              accept(skill.name);
            }}
          >
            <strong>/{skill.name}</strong>
            <span dir="auto">{skill.description}</span>
          </li>
        ))}
    </ul>
  );
}
