/** Thumbs up and down below a reply. */

import type { Feedback, Opinion, Turn } from "palaver-client";
import { useContext, useEffect, useState } from "preact/hooks";

import { announce } from "./announcement";
import { type FeedbackFormModule, extras } from "./extras";
import { Icon } from "./icon";
import { problemText } from "./problem_text";
import { RatingsContext, useRating } from "./ratings";
import { t } from "./strings";

/** Stores feedback, or withdraws it; returns whether that has worked. */
export type StoreFeedback = (opinion: Opinion | null) => Promise<boolean>;

interface FeedbackState {
  given: Feedback | null;
  /** Asks what is wrong with a bad reply; null until it is needed and loaded. */
  form: FeedbackFormModule | null;
  isOpen: boolean;
  problem: string;
  setOpen: (isOpen: boolean) => void;
  store: StoreFeedback;
}

/** Return the feedback on a turn and what changes it; null where there is nothing to rate. */
export function useFeedback(turn: Turn): FeedbackState | null {
  const ratings = useContext(RatingsContext);
  const given = useRating(ratings, turn.id);
  const form = useForm(given?.rating === "down");
  const [isOpen, setOpen] = useState(false);
  const [problem, setProblem] = useState("");
  if (!ratings || (!turn.text && turn.state === "stopped")) return null;
  const store: StoreFeedback = async (opinion) => {
    setProblem("");
    announce("");
    try {
      await (opinion ? ratings.give(turn.id, opinion) : ratings.withdraw(turn.id));
    } catch (error) {
      setProblem(problemText(error));
      return false;
    }
    announce(opinion ? t.feedback.thanks : t.feedback.withdrawn);
    return true;
  };
  return { given, form, isOpen, problem, setOpen, store };
}

function useForm(isNeeded: boolean): FeedbackFormModule | null {
  const [form, setForm] = useState<FeedbackFormModule | null>(null);
  useEffect(() => {
    if (isNeeded) void extras.loadFeedbackForm?.().then(setForm).catch(() => {}); // the thumb counts without it
  }, [isNeeded]);
  return isNeeded ? form : null;
}

export function FeedbackButtons({ given, form, isOpen, setOpen, store }: FeedbackState) {
  const rate = (rating: "up" | "down") => {
    const isWithdrawn = given?.rating === rating;
    setOpen(rating === "down" && !isWithdrawn);
    void store(isWithdrawn ? null : { rating });
  };
  return (
    <>
      <RatingButton rating="up" given={given} onClick={() => rate("up")} />
      <RatingButton rating="down" given={given} onClick={() => rate("down")} />
      {form && given && (
        <button type="button" class="action" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
          {form.nameDetails(given)}
        </button>
      )}
    </>
  );
}

function RatingButton(props: { rating: "up" | "down"; given: Feedback | null; onClick: () => void }) {
  const icon = props.rating === "up" ? "good" : "bad";
  return (
    <button
      type="button"
      class="action rating"
      aria-pressed={props.given?.rating === props.rating}
      aria-label={t.feedback[icon]}
      title={t.feedback[icon]}
      onClick={props.onClick}
    >
      <Icon name={icon} />
    </button>
  );
}

/** The problem of the last change; and what is wrong with a bad reply, while that is asked. */
export function FeedbackPanel({ given, form, isOpen, problem, setOpen, store }: FeedbackState) {
  return (
    <>
      {problem && <p class="problem" role="alert" dir="auto">{problem}</p>}
      {isOpen && form && given && <form.FeedbackForm given={given} store={store} onClose={() => setOpen(false)} />}
    </>
  );
}
