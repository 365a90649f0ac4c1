/** Files that are dropped on an element. */

import { type RefObject } from "preact";
import { useEffect, useState } from "preact/hooks";

/** Call `add` with dropped files; return true while files are dragged over the element. */
export function useDrop(place: RefObject<HTMLElement | null>, add: ((files: File[]) => void) | undefined): boolean {
  const [isOver, setOver] = useState(false);
  useEffect(() => {
    const element = place.current;
    if (!element || !add) return;
    const abort = new AbortController();
    const listen = <Name extends keyof HTMLElementEventMap>(
      name: Name,
      handle: (event: HTMLElementEventMap[Name]) => void,
    ) => element.addEventListener(name, handle, { signal: abort.signal });
    let depth = 0; // an element within is entered before the one around it is left
    listen("dragenter", (event) => {
      if (!hasFiles(event.dataTransfer)) return;
      depth += 1;
      setOver(true);
    });
    listen("dragleave", () => {
      depth = Math.max(0, depth - 1);
      if (!depth) setOver(false);
    });
    listen("dragover", (event) => {
      if (hasFiles(event.dataTransfer)) event.preventDefault(); // allows to drop
    });
    listen("drop", (event) => {
      depth = 0;
      setOver(false);
      if (!hasFiles(event.dataTransfer)) return;
      event.preventDefault();
      add([...(event.dataTransfer?.files ?? [])]);
    });
    return () => abort.abort();
  }, [add]);
  return isOver;
}

function hasFiles(data: DataTransfer | null): boolean {
  return data?.types.includes("Files") ?? false;
}
