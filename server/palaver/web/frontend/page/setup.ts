/** What all pages of the server begin with: styles, colours, size of the text, language. */

import "./style/base.css";
import "./style/layout.css";
import "./style/welcome.css";
import "./style/turn.css";
import "./style/feedback.css";
import "./style/feedback_form.css";
import "./style/sources.css";
import "./style/markdown.css";
import "./style/highlight.css";
import "./style/composer.css";
import "./style/picker.css";
import "./style/dialogs.css";
import "./style/connect.css";

import { CodeTools } from "./code_tools";
import { formatDay } from "./dates";
import { extras } from "./extras";
import { applyPreferences, preferences } from "./preferences";
import { loadStrings } from "./strings";

extras.loadHighlighter = async () => (await import("./highlighter")).highlight;
extras.loadKatex = async () => (await import("katex")).default;
extras.loadFeedbackForm = () => import("./feedback_form");
extras.CodeTools = CodeTools;
extras.formatDay = formatDay;
applyPreferences();

/** Load the words of the person's language; return its code. */
export async function loadLanguage(): Promise<string> {
  const language = await loadStrings([preferences.value.language, ...navigator.languages]);
  document.documentElement.lang = language;
  return language;
}
