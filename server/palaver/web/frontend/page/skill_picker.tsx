/** The choice of the skill that answers in a conversation, and what is behind all of them: the model. */

import type { SkillInfo } from "palaver-client";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { about, skills } from "./client";
import { Icon } from "./icon";
import { titleOf } from "./names";
import { useSignal } from "./signal";
import { choices, chooseSkill, chosenSkill } from "./skill_choice";
import { t } from "./strings";

export function SkillPicker({ thread }: { thread: string }) {
  useSignal(choices);
  const known = useSignal(skills);
  const [isOpen, setOpen] = useState(false);
  const place = useRef<HTMLDivElement>(null);
  const chosen = chosenSkill(thread);
  useEffect(() => setOpen(false), [thread]);
  useEffect(() => {
    if (!isOpen) return;
    const handle = ({ target }: Event) => {
      if (target instanceof Node && !place.current?.contains(target)) setOpen(false);
    };
    document.addEventListener("pointerdown", handle);
    return () => document.removeEventListener("pointerdown", handle);
  }, [isOpen]);
  if (known.length < 2) return null;
  const close = () => {
    setOpen(false);
    place.current?.querySelector("button")?.focus();
  };
  const choose = (skill: string | null) => {
    chooseSkill(thread, skill);
    setOpen(false);
    document.getElementById("text")?.focus();
  };
  return (
    <div class="picker" ref={place}>
      <button
        type="button"
        id="picker"
        aria-haspopup="menu"
        aria-expanded={isOpen}
        onClick={() => setOpen(!isOpen)}
        onKeyDown={(event) => {
          if (event.key !== "ArrowDown" || isOpen) return;
          event.preventDefault();
          setOpen(true);
        }}
      >
        <span class="visually-hidden">{t.picker.label}</span>
        <span dir="auto">{chosen ? titleOf(chosen.name) : t.picker.automatic}</span>
        <Icon name="open" />
      </button>
      {isOpen && <Menu known={known} chosen={chosen?.name ?? null} onChoose={choose} onClose={close} />}
    </div>
  );
}

interface MenuProperties {
  known: SkillInfo[];
  chosen: string | null;
  onChoose: (skill: string | null) => void;
  onClose: () => void;
}

function Menu({ known, chosen, onChoose, onClose }: MenuProperties) {
  const menu = useRef<HTMLDivElement>(null);
  const items = () => Array.from(menu.current?.querySelectorAll<HTMLElement>("[role=menuitemradio]") ?? []);
  useLayoutEffect(() => items().find((item) => item.ariaChecked === "true")?.focus(), []);
  const handleKey = (event: KeyboardEvent) => {
    const all = items();
    const index = all.indexOf(document.activeElement as HTMLElement);
    const last = all.length - 1;
    const target = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: last }[event.key];
    if (event.key === "Tab") return onClose(); // and on to what comes after the button
    if (event.key === "Escape") onClose();
    else if (target !== undefined) all[(target + all.length) % all.length]?.focus();
    else return;
    event.preventDefault();
  };
  return (
    <div class="picker-menu">
      <div role="menu" aria-label={t.picker.label} ref={menu} onKeyDown={handleKey}>
        <Item name={t.picker.automatic} text={t.picker.automaticText} isChosen={chosen === null} onChoose={() => onChoose(null)} />
        {known.map(({ name, description }) => (
          <Item
            key={name}
            name={titleOf(name)}
            text={description}
            isChosen={chosen === name}
            onChoose={() => onChoose(name)}
          />
        ))}
      </div>
      <ModelText />
    </div>
  );
}

function Item(props: { name: string; text: string; isChosen: boolean; onChoose: () => void }) {
  return (
    <button type="button" role="menuitemradio" aria-checked={props.isChosen} tabIndex={-1} onClick={props.onChoose}>
      <strong><bdi>{props.name}</bdi></strong>
      <span><bdi>{props.text}</bdi></span>
      {props.isChosen && <Icon name="check" />}
    </button>
  );
}

/** Tells which model writes for all skills, and what a demonstration model is. */
function ModelText() {
  const info = useSignal(about);
  if (!info?.model) return null;
  return (
    <p>
      {t.picker.model(info.model)}
      {info.demonstration && ` ${t.picker.demonstration}`}
    </p>
  );
}
