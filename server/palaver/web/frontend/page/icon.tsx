/** The icons: strokes of 24 × 24 units. */

const PATHS = {
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  down: "M12 5v13M6 12.500l6 6 6-6",
  open: "M7 10l5 5 5-5",
  close: "M6 6l12 12M18 6L6 18",
  panel: "M4 5h16v14H4zM9.500 5v14",
  pin: "M9 4h6l-1 6 3 3v1H7v-1l3-3zM12 14v6",
  archive: "M4 5h16v4H4zM5.500 9v10h13V9M10 13h4",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  back: "M14 7l-5 5 5 5",
  forward: "M10 7l5 5-5 5",
  again: "M4.500 12a7.500 7.500 0 1 0 2.300-5.400L4 9.500M4 4.500v5h5",
  edit: "M4 20l1-4.500L16 4.500l3.500 3.500L8.500 19z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.500l4.500 4.500L19 7.500",
  speak: "M4 9.500v5h3.500L12 19V5L7.500 9.500zM15.500 9a4 4 0 0 1 0 6M18 6.500a8 8 0 0 1 0 11",
  silence: "M4 9.500v5h3.500L12 19V5L7.500 9.500zM16 10l4 4M20 10l-4 4",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M13 7a2 2 0 1 0 4 0a2 2 0 1 0-4 0M7 17a2 2 0 1 0 4 0a2 2 0 1 0-4 0",
  help: "M9 9.200a3 3 0 1 1 4.300 2.700c-.9.5-1.300 1-1.300 2.100M12 17.500h.01",
  good: "M4 11h3v9H4zM7 11l4-7.500a2 2 0 0 1 2.800 2.400L13.500 10H18a2 2 0 0 1 2 2.300l-1.200 6a2 2 0 0 1-2 1.700H7",
  bad: "M4 13h3V4H4zM7 13l4 7.500a2 2 0 0 0 2.800-2.400L13.500 14H18a2 2 0 0 0 2-2.300l-1.200-6a2 2 0 0 0-2-1.700H7",
  tool: "M14.500 6.500a4 4 0 0 0-5 5L4 17l3 3 5.500-5.500a4 4 0 0 0 5-5L15 12l-3-3z",
  attach: "M19 11.500l-7.500 7.500a4.600 4.600 0 0 1-6.500-6.500l8-8a3 3 0 0 1 4.300 4.300l-8 8a1.500 1.500 0 0 1-2.100-2.100l7-7",
  chat: "M4 5h16v11.500H10.500L6 20.500v-4H4z",
} as const;

export type IconName = keyof typeof PATHS | "stop";

export function Icon({ name }: { name: IconName }) {
  return (
    <svg viewBox="0 0 24 24" aria-hidden="true" class={`icon icon-${name}`}>
      {name === "stop" ? <rect x="7" y="7" width="10" height="10" rx="2" /> : <path d={PATHS[name]} />}
    </svg>
  );
}
