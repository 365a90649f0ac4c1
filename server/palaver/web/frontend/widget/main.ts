/** The widget: `<script src="https://host/widget.js" data-site="pk_…" async></script>`. */

import { extras } from "../page/extras";
import * as feedbackForm from "../page/feedback_form";
import { makeApi } from "./api";
import { PalaverWidget, TAG, show, showNothing } from "./element";
import { type Emit, Session } from "./session";

extras.loadFeedbackForm = async () => feedbackForm;

/** The element that loads this file: it names the server and the site. */
const script =
  document.currentScript instanceof HTMLScriptElement
    ? document.currentScript
    : document.querySelector<HTMLScriptElement>('script[src*="/widget.js"][data-site]');

/** The element, with what starts a widget: a page may load the script again after `destroy`. */
class StartingWidget extends PalaverWidget {
  static readonly start = start;
}

/** Send an event from the element: it reaches the document and the window. */
const emit: Emit = (name, detail) => {
  const target = document.querySelector(TAG) ?? document;
  target.dispatchEvent(new CustomEvent(`palaver:${name}`, { detail, bubbles: true, composed: true }));
};

function start({ src, dataset }: HTMLScriptElement): void {
  const session = new Session({ host: new URL(src).origin, site: dataset["site"] ?? "", emit });
  const calls = Array.isArray(window.palaver) ? window.palaver : [];
  let launcher: HTMLElement | null = null;
  const addLauncher = () => {
    // In inline mode, the page has the element, or makes it when it likes.
    if (dataset["mode"] === "inline" || document.querySelector(TAG)) return;
    launcher ??= document.createElement(TAG);
    document.body.append(launcher);
  };
  const api = makeApi(session, () => {
    showNothing();
    session.destroy();
    launcher?.remove();
    delete window.palaver;
  });
  window.palaver = api;
  // Scripts that load pages in place replace the whole body.
  show({ session, defaults: dataset, onGone: addLauncher });
  whenParsed(() => {
    addLauncher();
    emit("ready", null);
    api.push(...calls);
  });
}

function whenParsed(action: () => void): void {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", action, { once: true });
  else action();
}

function load(): void {
  const loaded = customElements.get(TAG) as typeof StartingWidget | undefined;
  if (!script?.dataset["site"]) {
    console.error("palaver: the script of the widget needs data-site, the public key of your site");
  } else if (!loaded) {
    customElements.define(TAG, StartingWidget);
    start(script);
  } else if (window.palaver && !Array.isArray(window.palaver)) {
    console.warn("palaver: the widget is loaded twice");
  } else loaded.start(script);
}

load();
