/** The style sheet of the widget: made by script, which a page's content security policy always allows. */

import base from "../page/style/base.css?inline";
import composer from "../page/style/composer.css?inline";
import feedback from "../page/style/feedback.css?inline";
import feedbackForm from "../page/style/feedback_form.css?inline";
import markdown from "../page/style/markdown.css?inline";
import sources from "../page/style/sources.css?inline";
import turn from "../page/style/turn.css?inline";
import welcome from "../page/style/welcome.css?inline";
import widget from "./style/widget.css?inline";

let sheet: CSSStyleSheet | null = null;

export function styleSheet(): CSSStyleSheet {
  if (!sheet) {
    sheet = new CSSStyleSheet();
    sheet.replaceSync([base, welcome, turn, feedback, feedbackForm, sources, markdown, composer, widget].join("\n"));
  }
  return sheet;
}
