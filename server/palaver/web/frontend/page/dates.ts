/** Dates as people of the page's language read them. */

/** Return date and time of a moment, in s since 1970. */
export function formatTime(seconds: number): string {
  const format = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "long", timeStyle: "short" });
  return format.format(new Date(seconds * 1000));
}

const DAY = 86_400_000; // ms

/** Return the time of day of a moment, in s since 1970. */
export function formatClock(seconds: number): string {
  const format = new Intl.DateTimeFormat(document.documentElement.lang, { timeStyle: "short" });
  return format.format(new Date(seconds * 1000));
}

/** Return the day of a moment as people call it: "Today", "Yesterday", or the date. */
export function formatDay(seconds: number): string {
  const { lang } = document.documentElement;
  const days = daysAgo(seconds);
  if (days > 1) return new Intl.DateTimeFormat(lang, { dateStyle: "full" }).format(new Date(seconds * 1000));
  return capitalized(new Intl.RelativeTimeFormat(lang, { numeric: "auto" }).format(-days, "day"));
}

/** Return the name of the time that a list shows a moment under: a day, `lastWeek`, or a month. */
export function formatPeriod(seconds: number, lastWeek: string): string {
  const days = daysAgo(seconds);
  if (days <= 1) return formatDay(seconds);
  if (days <= 7) return lastWeek;
  const format = new Intl.DateTimeFormat(document.documentElement.lang, { month: "long", year: "numeric" });
  return capitalized(format.format(new Date(seconds * 1000)));
}

/** Return how many midnights have passed since a moment. */
function daysAgo(seconds: number): number {
  const midnight = (date: Date) => Date.UTC(date.getFullYear(), date.getMonth(), date.getDate());
  return Math.max(0, (midnight(new Date()) - midnight(new Date(seconds * 1000))) / DAY);
}

function capitalized(text: string): string {
  return text.charAt(0).toLocaleUpperCase(document.documentElement.lang) + text.slice(1);
}
