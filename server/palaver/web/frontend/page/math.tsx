/** A formula, set by KaTeX as MathML, which is loaded with the first one. */

import { useEffect, useRef } from "preact/hooks";

import { extras } from "./extras";

const OPTIONS = { output: "mathml", strict: false, maxExpand: 100, maxSize: 20 } as const; // maxSize: em

export function MathText({ source, isBlock }: { source: string; isBlock: boolean }) {
  const place = useRef<HTMLElement>(null);
  useEffect(() => {
    let isMounted = true;
    if (place.current && !place.current.hasChildNodes()) place.current.textContent = source;
    void extras.loadKatex?.().then((katex) => {
      if (!isMounted || !place.current) return;
      try {
        katex.render(source, place.current, { ...OPTIONS, displayMode: isBlock });
      } catch {
        place.current.textContent = source; // not a formula: show what was written
      }
    });
    return () => void (isMounted = false);
  }, [source, isBlock]);
  useEffect(() => {
    // A box that scrolls leaves the baseline of the text: only a formula that needs it becomes one.
    const formula = place.current;
    if (!formula) return;
    const sizes = new ResizeObserver(() => {
      const isWide = formula.scrollWidth > formula.clientWidth;
      formula.classList.toggle("math-wide", isWide);
      if (isWide) formula.tabIndex = 0; // the keyboard can scroll it
      else formula.removeAttribute("tabindex");
    });
    sizes.observe(formula);
    return () => sizes.disconnect();
  }, []);
  return <span ref={place} class={isBlock ? "math math-block" : "math"} dir="ltr" />;
}
