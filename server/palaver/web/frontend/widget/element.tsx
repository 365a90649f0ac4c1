/** The custom element `<palaver-widget>`. A page shows one. */

import { render } from "preact";

import { loadStrings } from "../page/strings";
import { OBSERVED, readOptions } from "./options";
import type { Session } from "./session";
import { styleSheet } from "./style_sheet";
import { WidgetView } from "./widget_view";

export const TAG = "palaver-widget";

/** What the element of the page shows. */
interface Context {
  session: Session;
  /** The options of the script. */
  defaults: DOMStringMap;
  /** Called when the page has taken the element away. */
  onGone: () => void;
}

let context: Context | null = null;
let shown: PalaverWidget | null = null;

/** Show a session in the element of the page, now or when there is one. */
export function show(next: Context): void {
  context = next;
  document.querySelector<PalaverWidget>(TAG)?.connectedCallback();
}

/** Leave the element empty. */
export function showNothing(): void {
  shown?.disconnectedCallback();
  context = null;
}

export class PalaverWidget extends HTMLElement {
  static readonly observedAttributes = OBSERVED;
  readonly #root = this.attachShadow({ mode: "open" });

  connectedCallback(): void {
    if (!context || shown === this) return;
    if (shown) {
      console.warn(`palaver: a page shows one <${TAG}>`);
      return;
    }
    shown = this;
    const { session } = context;
    session.isRestored = true; // where it is open, the focus stays where it is
    this.#root.adoptedStyleSheets = [styleSheet()];
    void this.#render().then(() => session.resume());
  }

  disconnectedCallback(): void {
    if (shown !== this) return;
    shown = null;
    render(null, this.#root);
    queueMicrotask(() => context?.onGone());
  }

  attributeChangedCallback(_name: string, before: string | null, now: string | null): void {
    if (shown === this && before !== now) void this.#render();
  }

  async #render(): Promise<void> {
    if (!context) return;
    const { session, defaults } = context;
    const options = readOptions(this, defaults);
    session.isInline = options.mode === "inline";
    session.hasSoundByDefault = options.hasSound;
    const language = await loadStrings(options.languages);
    if (shown !== this) return;
    if (this.getAttribute("mode") !== options.mode) {
      this.setAttribute("mode", options.mode); // widget.css reads it
      return; // the change has rendered it
    }
    this.#raise(options.mode === "launcher");
    const style = getComputedStyle(this);
    const accent = options.accent || style.getPropertyValue("--palaver-accent").trim();
    const direction = style.direction === "rtl" ? "rtl" : "ltr";
    const properties = { session, options, accent, language, direction } as const;
    render(<WidgetView key={language} {...properties} />, this.#root);
  }

  /** Put the launcher above the page, whatever its stacking order is, where the browser can. */
  #raise(isRaised: boolean): void {
    if (!("popover" in this)) return;
    this.popover = isRaised ? "manual" : null;
    if (isRaised && !this.matches(":popover-open")) this.showPopover();
  }
}
