/** Where the focus goes when something opens and closes. */

import { useLayoutEffect } from "preact/hooks";

/** Return the element that has the focus, also inside of a shadow root. */
export function findFocus(): Element | null {
  let focused = document.activeElement;
  while (focused?.shadowRoot?.activeElement) focused = focused.shadowRoot.activeElement;
  return focused;
}

/** Give the focus back, when the component goes, to what had it before. */
export function useReturnFocus(): void {
  useLayoutEffect(() => {
    const before = findFocus();
    return () => {
      if (before instanceof HTMLElement && before.isConnected) before.focus({ preventScroll: true });
    };
  }, []);
}
