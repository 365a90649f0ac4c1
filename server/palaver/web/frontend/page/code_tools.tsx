/** What a person can do with a block of code beside copying it. */

import { useState } from "preact/hooks";

import { save } from "./downloads";
import type { CodeToolsProperties } from "./extras";
import { t } from "./strings";

/** Extensions of files in languages whose names are no extensions. */
const EXTENSIONS: Record<string, string> = {
  bash: "sh", csharp: "cs", javascript: "js", kotlin: "kt", markdown: "md", perl: "pl", python: "py",
  ruby: "rb", rust: "rs", shell: "sh", typescript: "ts", "c++": "cpp", "objective-c": "m", haskell: "hs",
};

function extensionOf(language: string): string {
  const name = language.toLowerCase();
  return EXTENSIONS[name] ?? (/^[a-z0-9]{1,8}$/.test(name) ? name : "txt");
}

export function CodeTools({ source, language, place }: CodeToolsProperties) {
  const [isWrapped, setWrapped] = useState(false);
  const wrap = () => {
    place.current?.closest("pre")?.classList.toggle("wrapped", !isWrapped);
    setWrapped(!isWrapped);
  };
  return (
    <>
      <button type="button" class="copy" aria-pressed={isWrapped} onClick={wrap}>{t.wrapLines}</button>
      <button type="button" class="copy" onClick={() => save(new Blob([source]), `code.${extensionOf(language)}`)}>
        {t.download}
      </button>
    </>
  );
}
