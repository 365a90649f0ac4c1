import {
  type ConversationEvent,
  type HistoryEntry,
  type PendingTurn,
  type Snapshot,
  splitCursor,
} from "./frames.ts";
import { Turn } from "./turn.ts";

const EVENT_TYPES = new Set<string>([
  "message", "started", "queued", "routed", "text", "text_reset", "tool", "citation", "attachment",
  "question", "finished",
] satisfies ConversationEvent["type"][]);

/** The state of a conversation: apply frames to it, read its turns. */
export class ConversationState {
  byId = new Map<string, Turn>();
  epoch = "";
  offset = 0;
  /** The position before which older entries can be read; empty: there are none. */
  earlier = "";
  #alternatives: string[][] = [];

  /** Oldest first. */
  get turns(): Turn[] {
    return [...this.byId.values()];
  }

  get cursor(): string | null {
    return this.epoch ? `${this.epoch}:${this.offset}` : null;
  }

  /** The first turn without an end, or null. */
  get running(): Turn | null {
    return this.turns.find((turn) => turn.isOpen) ?? null;
  }

  /** Return the number of open turns before this one. */
  turnsAhead(turn: Turn): number {
    const turns = this.turns;
    return turns.slice(0, turns.indexOf(turn)).filter((other) => other.isOpen).length;
  }

  /** Return the ids of the turns that follow the same turn as this one, itself among them, by age. */
  alternativesOf(turn: Turn): string[] {
    return this.#alternatives.find((group) => group.includes(turn.id)) ?? [turn.id];
  }

  /** Apply an event. Returns false when frames are missing: then a new snapshot is needed. */
  apply(event: ConversationEvent): boolean {
    if (!this.#advance(event.cursor)) return true;
    if (!EVENT_TYPES.has(event.type)) return true; // from a newer server
    const turn = this.#turn(event.turn);
    if (event.type === "message" && event.moved) this.#move(turn, event.id);
    return turn.apply(event);
  }

  /** Begin at the cursor of a welcome that has no snapshot. */
  begin(cursor: string): void {
    if (!this.epoch) [this.epoch] = splitCursor(cursor);
  }

  /** Replace the state by a snapshot. Fields of a turn that the snapshot lacks are kept. */
  applySnapshot(snapshot: Snapshot, cursor: string): void {
    const before = this.byId;
    this.byId = new Map();
    [this.epoch, this.offset] = splitCursor(cursor);
    this.earlier = snapshot.earlier ?? "";
    this.#alternatives = snapshot.alternatives ?? [];
    this.#restoreHistory(snapshot.history, before);
    for (const pending of snapshot.pending) this.#restorePending(pending, before);
  }

  /** Put a page of older history before the turns. */
  prepend(history: HistoryEntry[], earlier: string): void {
    const shown = this.byId;
    this.byId = new Map();
    this.earlier = earlier;
    this.#restoreHistory(history, new Map());
    for (const [id, turn] of shown) {
      const part = this.byId.get(id); // the rest of a turn that the page's border has cut
      if (part) complete(turn, part);
      this.byId.set(id, turn);
    }
  }

  /** Advance to the event's cursor; return false when the event was applied before. */
  #advance(cursor: string | undefined): boolean {
    if (!cursor) return true;
    const [epoch, offset] = splitCursor(cursor);
    if (epoch === this.epoch && offset <= this.offset) return false;
    this.epoch = epoch;
    this.offset = offset;
    return true;
  }

  #turn(id: string): Turn {
    const known = this.byId.get(id);
    if (known) return known;
    const turn = new Turn(id);
    this.byId.set(id, turn);
    return turn;
  }

  /** Move a message from its turn to this one, which comes before all waiting turns. */
  #move(turn: Turn, messageId: string): void {
    for (const other of this.byId.values()) {
      if (other === turn || !other.messages.some(({ id }) => id === messageId)) continue;
      other.messages = other.messages.filter(({ id }) => id !== messageId);
      other.version += 1;
    }
    const rest = this.turns.filter((other) => other !== turn);
    const isWaiting = (other: Turn) => other.state === "waiting";
    const begun = rest.filter((other) => !isWaiting(other));
    const order = [...begun, turn, ...rest.filter(isWaiting)];
    this.byId = new Map(order.map((other) => [other.id, other]));
  }

  #restoreHistory(history: HistoryEntry[], before: Map<string, Turn>): void {
    const ids = messageIds(before.values());
    for (const entry of history) {
      const isFirst = !this.byId.has(entry.turn);
      const turn = this.#restore(before, entry.turn);
      if (isFirst) {
        turn.messages = [];
        turn.state = "stopped"; // settled; the reply's entry tells how
      }
      if (entry.role === "user") {
        const id = ids.get(`${entry.turn} ${entry.text}`) ?? "";
        const { person = "", text, attachments = [] } = entry;
        turn.messages = [...turn.messages, { id, person, text, attachments }];
        turn.at = isFirst ? entry.at : turn.at;
      } else {
        turn.restore(entry);
      }
    }
  }

  #restorePending(pending: PendingTurn, before: Map<string, Turn>): void {
    const turn = this.#restore(before, pending.turn);
    turn.messages = pending.messages;
    turn.at = pending.at ?? turn.at;
    turn.state = pending.running ? "running" : "waiting";
    turn.skill = pending.skill || turn.skill;
    turn.setText(pending.reply);
    if (!pending.events) return;
    turn.tools = [];
    for (const event of pending.events) if (EVENT_TYPES.has(event.type)) turn.apply(event);
  }

  #restore(before: Map<string, Turn>, id: string): Turn {
    const known = before.get(id);
    if (!this.byId.has(id) && known) this.byId.set(id, known);
    const turn = this.#turn(id);
    turn.version += 1;
    return turn;
  }
}

/** Take messages and the whole text from an earlier page. */
function complete(turn: Turn, part: Turn): void {
  if (part.messages.length > turn.messages.length) turn.messages = part.messages;
  if (part.length > turn.length && !turn.isOpen) turn.setText(part.text);
  turn.version += 1;
}

/** Return the ids of messages by turn and text: a history entry has no id. */
function messageIds(turns: Iterable<Turn>): Map<string, string> {
  const ids = new Map<string, string>();
  for (const turn of turns) {
    for (const message of turn.messages) ids.set(`${turn.id} ${message.text}`, message.id);
  }
  return ids;
}
