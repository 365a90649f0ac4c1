/** The tools that a reply has used, each as a card. */

import type { ToolCall } from "palaver-client";

import { Icon } from "./icon";
import { titleOf } from "./names";
import { t } from "./strings";

const MAX_GIST = 200; // characters; what does not fit into the line is cut there

export function Tools({ tools }: { tools: ToolCall[] }) {
  if (!tools.length) return null;
  return (
    <ul class="tools" aria-label={t.tools}>
      {tools.map((tool, index) => (
        <li key={index}>
          <details class={`tool tool-${tool.state}`}>
            <summary>
              <Icon name="tool" />
              <strong dir="auto">{titleOf(tool.name)}</strong>
              <Gist value={tool.arguments} />
              <span class="state">{t.toolState[tool.state]}</span>
            </summary>
            <Value label={t.toolArguments} value={tool.arguments} />
            <Value label={t.toolResult} value={tool.result} />
          </details>
        </li>
      ))}
    </ul>
  );
}

/** The plain values among the arguments, in one line. */
function Gist({ value }: { value: unknown }) {
  if (typeof value !== "object" || value === null) return null;
  const plain = Object.values(value).filter((each) => ["string", "number"].includes(typeof each) && each !== "");
  if (!plain.length) return null;
  return (
    <span class="gist" dir="auto">
      {plain.join(" · ").slice(0, MAX_GIST)}
    </span>
  );
}

function Value({ label, value }: { label: string; value: unknown }) {
  if (value === null || value === undefined || value === "") return null;
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return (
    <>
      <p>{label}</p>
      <pre tabIndex={0} role="group" aria-label={label}>{text}</pre>
    </>
  );
}
