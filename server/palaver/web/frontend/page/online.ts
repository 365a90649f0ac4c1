/** Whether the browser has a network, as far as it knows. */

import { Signal } from "./signal";

export const isOnline = new Signal(navigator.onLine);

for (const name of ["online", "offline"]) {
  window.addEventListener(name, () => (isOnline.value = navigator.onLine));
}
