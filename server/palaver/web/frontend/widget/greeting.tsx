/** What an empty conversation shows. */

import { t } from "../page/strings";
import type { WidgetOptions } from "./options";

interface Properties {
  options: WidgetOptions;
  onSend: (text: string) => void;
}

export function Greeting({ options, onSend }: Properties) {
  return (
    <div class="greeting">
      <p dir="auto">{options.greeting || t.widget.greeting}</p>
      {options.prompts.length > 0 && (
        <ul class="prompts" aria-label={t.prompts}>
          {options.prompts.map((prompt) => (
            <li key={prompt}>
              <button type="button" class="chip" dir="auto" onClick={() => onSend(prompt)}>
                <span>{prompt}</span>
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
