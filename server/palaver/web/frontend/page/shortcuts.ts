/** Keyboard shortcuts of the whole page. */

interface Actions {
  create: () => void;
  toggleSidebar: () => void;
  search: () => void;
  copyReply: () => void;
  help: () => void;
}

/** The keys of each shortcut, as people read them. */
export const SHORTCUTS = {
  send: "Enter",
  line: "Shift+Enter",
  edit: "↑",
  stop: "Esc",
  skill: "/",
  write: "/",
  create: "Ctrl+Shift+O",
  search: "Ctrl+K",
  copy: "Ctrl+Shift+C",
  sidebar: "Ctrl+Shift+S",
  help: "?",
} as const;

export function handleShortcut(event: KeyboardEvent, actions: Actions): void {
  const action = findAction(event, actions);
  if (!action || event.defaultPrevented || event.isComposing) return;
  event.preventDefault();
  action();
}

function findAction(event: KeyboardEvent, actions: Actions): (() => void) | null {
  if ((event.ctrlKey || event.metaKey) && event.shiftKey) {
    if (event.code === "KeyO") return actions.create;
    if (event.code === "KeyC") return actions.copyReply;
    return event.code === "KeyS" ? actions.toggleSidebar : null;
  }
  if ((event.ctrlKey || event.metaKey) && !event.altKey && event.code === "KeyK") return actions.search;
  if (event.ctrlKey || event.metaKey || event.altKey || isInUse(event.target)) return null;
  if (event.key === "?") return actions.help;
  return event.key === "/" ? () => document.getElementById("text")?.focus() : null;
}

/** Return true when the element takes keys itself. */
function isInUse(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest("input, textarea, select, dialog") !== null;
}
