/** The person's ratings of replies, as the components and the other tabs of the browser see them. */

import type { Conversation, Feedback, Ratings } from "palaver-client";
import { createContext } from "preact";
import { useEffect, useState } from "preact/hooks";

export const RatingsContext = createContext<Ratings | null>(null);

/** Carries the thread whose ratings another tab has changed. */
const CHANNEL = "palaver.ratings";

/** Read the ratings of a conversation, and again whenever they may have changed elsewhere. */
export function useRatings(conversation: Conversation): void {
  useEffect(() => {
    const { ratings, thread } = conversation;
    const load = () => {
      // Without them the buttons work all the same.
      if (conversation.status === "open" && !document.hidden) void ratings.load().catch(() => {});
    };
    const channel = new BroadcastChannel(CHANNEL);
    channel.onmessage = ({ data }) => data === thread && load();
    const tellOthers = () => channel.postMessage(thread);
    ratings.addEventListener("stored", tellOthers);
    conversation.addEventListener("status", load);
    document.addEventListener("visibilitychange", load);
    load();
    return () => {
      channel.close();
      ratings.removeEventListener("stored", tellOthers);
      conversation.removeEventListener("status", load);
      document.removeEventListener("visibilitychange", load);
    };
  }, [conversation]);
}

/** Return the feedback on the reply of a turn; the component is rendered again when it changes. */
export function useRating(ratings: Ratings | null, turn: string): Feedback | null {
  const [given, setGiven] = useState<Feedback | null>(null);
  useEffect(() => {
    if (!ratings) return;
    const update = () => setGiven(ratings.of(turn));
    update();
    ratings.addEventListener("change", update);
    return () => ratings.removeEventListener("change", update);
  }, [ratings, turn]);
  return given;
}
