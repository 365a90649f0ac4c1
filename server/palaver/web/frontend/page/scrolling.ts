/** Scrolling along with a reply, as long as the person stays near the end. */

import type { RefObject } from "preact";
import { useRef, useState } from "preact/hooks";

const NEAR_END = 80; // px from the end within which the page scrolls along

export function useFollowing(main: RefObject<HTMLElement | null>) {
  const isFollowing = useRef(true);
  const top = useRef(0);
  const [isAtEnd, setAtEnd] = useState(true);

  const isNearEnd = () => {
    const node = main.current;
    return !node || node.scrollHeight - node.scrollTop - node.clientHeight < NEAR_END;
  };
  const toEnd = () => {
    const node = main.current;
    if (!node) return;
    node.scrollTop = node.scrollHeight;
    top.current = node.scrollTop;
  };
  return {
    isAtEnd,
    begin() {
      isFollowing.current = true;
      toEnd();
      setAtEnd(true);
    },
    onScroll() {
      // Content that grows moves the end away, and scrolls nothing back.
      const before = top.current;
      top.current = main.current?.scrollTop ?? 0;
      isFollowing.current = isNearEnd() || (isFollowing.current && top.current >= before);
      setAtEnd(isFollowing.current);
    },
    afterRender() {
      if (!isFollowing.current) return setAtEnd(isNearEnd());
      toEnd();
      // A turn that `content-visibility` has left out gets its height in the next frame.
      requestAnimationFrame(() => isFollowing.current && toEnd());
    },
  };
}
