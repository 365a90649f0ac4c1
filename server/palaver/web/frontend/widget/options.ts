/** What the owner of a page sets: attributes of the element, or `data-` attributes of the script. */

const NAMES = [
  "mode", "title", "greeting", "prompts", "theme", "accent", "position", "radius", "font", "lang", "sound",
] as const;

export const OBSERVED: readonly string[] = NAMES;

export interface WidgetOptions {
  /** `launcher`: a button in a corner that opens the chat; `inline`: the chat, where the element is. */
  mode: "launcher" | "inline";
  /** Empty: a text in the language of the widget. */
  title: string;
  greeting: string;
  prompts: string[];
  theme: "auto" | "light" | "dark";
  /** CSS values; empty: the widget's own. */
  accent: string;
  radius: string;
  /** `page`: the font of the page around it. */
  font: "system" | "page";
  /** Empty: the corner at the end of a line. */
  position: "left" | "right" | "";
  /** Language tags, the best first. */
  languages: string[];
  hasSound: boolean;
}

/** Return the options of an element; what it lacks comes from the script. */
export function readOptions(element: HTMLElement, script: DOMStringMap): WidgetOptions {
  const read = (name: (typeof NAMES)[number]) => element.getAttribute(name) ?? script[name] ?? "";
  return {
    mode: oneOf(read("mode"), ["launcher", "inline"]),
    title: read("title"),
    greeting: read("greeting"),
    prompts: read("prompts").split("|").map((prompt) => prompt.trim()).filter(Boolean),
    theme: oneOf(read("theme"), ["auto", "light", "dark"]),
    accent: read("accent"),
    radius: read("radius"),
    font: oneOf(read("font"), ["system", "page"]),
    position: oneOf(read("position"), ["", "left", "right"]),
    languages: [read("lang"), document.documentElement.lang, ...navigator.languages],
    hasSound: read("sound") === "on",
  };
}

/** Return the value if it is known, else the first of the known ones. */
function oneOf<Value extends string>(value: string, known: readonly [Value, ...Value[]]): Value {
  return known.find((other) => other === value) ?? known[0];
}
