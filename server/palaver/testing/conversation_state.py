"""State of one conversation in `palaver.testing.ledger.MemoryLedger`."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import NamedTuple

from palaver.concurrency import (
    JoinTurn,
    NewTurn,
    check_taken_steering,
    decide_concurrency,
    insert_in_order,
    json_size,
    place_in_order,
    received_event,
    split_untaken_steering,
)
from palaver.errors import Conflict, IndexConflict
from palaver.feedback import Feedback
from palaver.history import HistorySelection, take_history
from palaver.ledger import (
    ConcurrencyPolicies,
    HistoryEntry,
    InboxMessage,
    LogEntry,
    MemoryWrite,
    PendingQuestion,
    Progress,
    Receipt,
    Step,
    finished_entry,
    history_of_turn,
    reply_length_after,
)
from palaver.messages import (
    NO_PARTS,
    Conversation,
    Event,
    Finished,
    Message,
    Outcome,
    Received,
    ReplyParts,
    Routed,
    Text,
    TextReset,
    encode,
    later_epoch,
    new_id,
)
from palaver.testing.branches import Branches
from palaver.testing.conversation_list import ListedConversation

DEDUPE_SECONDS = 24 * 3600.0
"""Seconds for which the ledger recognizes the id of a message."""


class DedupeRecord(NamedTuple):
    """Accepted message id: the turn that answers the message, its digest, time and person."""

    turn: str
    digest: str
    accepted_at: float
    person: str


class OwnedHistoryEntry(NamedTuple):
    """History entry, its owner (the author, or the person to whom the reply is addressed), the
    number of its turn, and its size as JSON."""

    owner: str
    entry: HistoryEntry
    number: float
    size: int


_size_of = attrgetter("size")


class LastWrite(NamedTuple):
    """Last write on a turn, by which a repetition is recognized."""

    expect: int
    digest: int
    offset: int


class SettledTurn(NamedTuple):
    """Write that settled a turn, and its result."""

    fence: int
    expect: int
    digest: int
    progress: Progress


def digest_of(entries: Sequence[LogEntry]) -> int:
    """Return a digest that identifies the entries and contains none of their words."""
    return hash(encode(entries))


class UnsettledTurn:
    """Turn that is not settled: its messages and its entries."""

    def __init__(
        self, number: float, inbox_messages: Sequence[InboxMessage], due_at: float
    ) -> None:
        self.id = new_id()
        self.number = number
        """Turns run in the order of their numbers; one of untaken steering messages has the number
        of the turn that they steered."""
        self.was_steering = False
        """Whether the messages steered an earlier turn: none goes before them."""
        self.person = inbox_messages[0].message.person
        self.inbox_messages = list(inbox_messages)
        self.due_at = due_at
        """End of the merge window or of the delay, in seconds since the epoch."""
        self.interrupted: tuple[Message, ...] = ()
        self.successor = ""
        """Id of the turn for which this one was interrupted."""
        self.steering: list[InboxMessage] = []
        self.failed_attempts = 0
        self.stop_requested = False
        self.reset()

    def reset(self) -> None:
        """Delete the entries."""
        self.index = 0
        self.length = 0
        self.parts: list[str] = []
        self.skill = ""
        self.journal: dict[int, Step] = {}
        self.last_write: LastWrite | None = None

    @property
    def has_begun(self) -> bool:
        """Return True when only a worker can end the turn: it has entries, or messages to pass
        on."""
        return bool(self.index or self.steering or self.successor)

    @property
    def order(self) -> str:
        """Return the order of the first message; messages with a lower one go before the turn."""
        has_place = self.was_steering or self.has_begun or self.failed_attempts
        return "" if has_place else self.inbox_messages[0].message.order

    @property
    def reply(self) -> str:
        return "".join(self.parts)

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple([inbox_message.message for inbox_message in self.inbox_messages])

    @property
    def steering_messages(self) -> tuple[Message, ...]:
        return tuple([inbox_message.message for inbox_message in self.steering])

    def progress(self, offset: int) -> Progress:
        return Progress(self.index, offset, self.stop_requested, len(self.steering))

    def moved_events(self) -> list[Received]:
        """Return the events of messages that an earlier turn did not take."""
        messages = (*self.inbox_messages, *self.steering)
        return [received_event(self.id, each, moved=True) for each in messages]

    def repeated_write(self, entries: Sequence[LogEntry], expect: int) -> Progress | None:
        """Return the result of the same write when it was applied before."""
        if expect == self.index:
            return None
        last = self.last_write
        if last is None or (last.expect, last.digest) != (expect, digest_of(entries)):
            raise self._index_conflict(expect)
        return self.progress(last.offset)

    def check(self, entries: Sequence[LogEntry]) -> None:
        """Raise `IndexConflict` unless the texts continue the reply."""
        reply_length_after(self.id, entries, self.length)

    def check_settle(
        self, entries: Sequence[LogEntry], expect: int, taken: Sequence[Message]
    ) -> Finished:
        """Return the last entry. Raises `IndexConflict` when the write is not allowed."""
        if expect != self.index:
            raise self._index_conflict(expect)
        finished = finished_entry(self.id, entries)
        self.check(entries)
        check_taken_steering(self.id, self.steering, taken)
        return finished

    def _index_conflict(self, expect: int) -> IndexConflict:
        return IndexConflict(f"turn {self.id}: expected index {expect}, it is at {self.index}")

    def apply(self, entries: Sequence[LogEntry]) -> list[Event]:
        """Append checked entries; return those that are events."""
        events: list[Event] = []
        for entry in entries:
            match entry:
                case Step():
                    self.journal[entry.number] = entry
                    continue
                case MemoryWrite():
                    continue
                case Text():
                    self.parts.append(entry.text)
                    self.length = entry.end
                case TextReset():
                    self.parts = [self.reply[: entry.position]]
                    self.length = entry.position
                case Routed():
                    self.skill = entry.skill
            events.append(entry)
        self.index += len(entries)
        return events


class ConversationState:
    """One conversation: events, inbox, history and dedupe records."""

    def __init__(self, conversation: Conversation, epoch: str) -> None:
        self.conversation = conversation
        self.name = str(conversation)
        self.epoch = epoch
        self.first_offset = 1
        self.events: list[Event] = []
        self.inbox: deque[UnsettledTurn] = deque()
        self.newest_number = 0
        self.is_running = False
        self.is_ready = False
        """True while the conversation is in the ledger's ready queue."""
        self.lease_expires_at = 0.0
        self.fence = 0
        self.history: list[OwnedHistoryEntry] = []
        self.dedupe_records: dict[str, DedupeRecord] = {}
        self.settled_turns: dict[str, SettledTurn] = {}
        self.pending_question: PendingQuestion | None = None
        self.question_people: set[str] = set()
        """People with words in ``pending_question``."""
        self.members: set[str] = set()
        self.retention: float | None = None
        """Seconds after the last turn after which it is deleted; None: never."""
        self.expires_at = 0.0
        self.usage: dict[str, int] = {}
        """Bytes that each member has stored."""
        self.listed = ListedConversation(conversation)
        self.feedback: dict[tuple[str, str], Feedback] = {}
        """Feedback by its author and the turn."""
        self.branches = Branches()

    @property
    def last_offset(self) -> int:
        return self.first_offset + len(self.events) - 1

    @property
    def running_turn(self) -> UnsettledTurn | None:
        return self.inbox[0] if self.is_running else None

    @property
    def waiting_messages(self) -> int:
        """Count the messages of turns that wait, and all steering messages."""
        own = sum(len(turn.inbox_messages) for turn in self.inbox if turn is not self.running_turn)
        return own + sum(len(turn.steering) for turn in self.inbox)

    def people_of(self, turn: UnsettledTurn) -> set[str]:
        """Return the people with words in the running turn or in its pending question."""
        steering = {message.person for message in turn.steering_messages}
        return {turn.person} | steering | self.question_people

    @property
    def unsettled_bytes(self) -> int:
        """Return the size of all messages without a reply."""
        return sum(
            json_size((*turn.interrupted, *turn.messages, *turn.steering_messages))
            for turn in self.inbox
        )

    def select_history(
        self, count: int, size: int, before: UnsettledTurn | None = None
    ) -> HistorySelection:
        """Return the newest ``count`` history entries that fit into ``size`` bytes, without those
        of turns that wait behind ``before``."""
        end = self._history_end(before.number) if before else len(self.history)
        if self.branches.has_superseded:
            return take_history(self.newest_first(end), count, size)
        older = max(0, end - max(count, 0))
        newest = self.history[older:end]
        if sum(map(_size_of, newest)) > size:
            return take_history(self.newest_first(end), count, size)
        entries = tuple([owned.entry for owned in newest])
        return HistorySelection(entries, str(older) if older else "", is_cut=False)

    def newest_first(self, end: int | None = None) -> Iterator[tuple[str, HistoryEntry]]:
        """Yield the first ``end`` history entries, newest first, each with the position after
        it."""
        end = len(self.history) if end is None else min(end, len(self.history))
        for number in range(end, 0, -1):
            entry = self.history[number - 1].entry
            if not self.branches.is_superseded(entry.turn):
                yield str(number), entry

    # Branches

    @property
    def settled_order(self) -> list[str]:
        """Return the settled turns in the order of the history."""
        return list(dict.fromkeys(owned.entry.turn for owned in self.history))

    @property
    def order(self) -> list[str]:
        """Return all turns in the order in which they run."""
        numbered = [(owned.number, owned.entry.turn) for owned in self.history]
        numbered += [(turn.number, turn.id) for turn in self.inbox]
        return list(dict.fromkeys(turn for _, turn in sorted(numbered, key=itemgetter(0))))

    @property
    def alternatives(self) -> tuple[tuple[str, ...], ...]:
        """Return the groups of turns that follow the same turn, each in the order of their age."""
        return self.branches.alternatives(self.order) if self.branches.has_any else ()

    def continue_after(self, parent: str, new: str) -> bool:
        """Supersede what comes after the turn ``parent``; return False when nothing does."""
        if not self.branches.continue_after(parent, self.settled_order, new):
            return False
        self.begin_stream()
        return True

    def select(self, turn: str) -> bool:
        """Make an alternative part of the history; return False when it is."""
        if not self.branches.select(turn, self.settled_order):
            return False
        self.begin_stream()
        return True

    def entries_of(self, turn: str) -> tuple[HistoryEntry, ...]:
        """Return the history of a settled turn."""
        return tuple(owned.entry for owned in self.history if owned.entry.turn == turn)

    def replace_entries(self, turn: str, entries: Sequence[HistoryEntry]) -> None:
        """Replace the history of a settled turn by as many entries; begin another stream."""
        places = [at for at, owned in enumerate(self.history) if owned.entry.turn == turn]
        for at, entry in zip(places, entries, strict=True):
            self.history[at] = self.history[at]._replace(entry=entry, size=len(encode(entry)))
        self.begin_stream()

    def begin_stream(self) -> None:
        """Begin an empty stream of another epoch, without the pending question."""
        self.set_pending_question(None, ())
        self.events, self.first_offset, self.epoch = [], 1, later_epoch()

    def _history_end(self, number: float) -> int:
        if not self.history or self.history[-1].number <= number:  # nearly always
            return len(self.history)
        return bisect_right(self.history, number, key=lambda owned: owned.number)

    def ahead_of(self, turn: str) -> int:
        """Count the turns before ``turn``; 0 when it is settled."""
        for position, queued in enumerate(self.inbox):
            if queued.id == turn:
                return position
        return 0

    # Accepting a message

    def find_duplicate(self, message: Message, now: float) -> Receipt | None:
        """Return the receipt of the same message, if it was accepted within the last day."""
        record = self.dedupe_records.get(message.id)
        if record is None or abs(now - record.accepted_at) >= DEDUPE_SECONDS:
            return None
        if record.digest != message.digest:
            raise Conflict(f"message id {message.id!r} was used with another body")
        return Receipt(turn=record.turn, ahead=self.ahead_of(record.turn), duplicate=True)

    def receive(
        self, inbox_message: InboxMessage, policies: ConcurrencyPolicies
    ) -> tuple[UnsettledTurn, bool]:
        """Add the message to a turn; return the turn, and True when it existed before."""
        message = inbox_message.message
        running = self.running_turn
        successor = running.successor if running else ""
        decision = decide_concurrency(
            inbox_message,
            policies,
            running.skill if running else "",
            running=running,
            newest=self.inbox[-1] if self.inbox else None,
            successor=next((turn for turn in self.inbox if turn.id == successor), None),
        )
        if isinstance(decision, NewTurn):
            turn = self._add_turn(inbox_message, decision.due_at)
            if running is not None and decision.stop_running:
                running.stop_requested, running.successor = True, turn.id
        elif isinstance(decision, JoinTurn):
            turn = decision.turn
            turn.inbox_messages = list(insert_in_order(turn.inbox_messages, inbox_message))
            turn.due_at = decision.due_at
        else:
            turn = decision.turn
            turn.steering.append(inbox_message)
        self.members.add(message.person)
        self.listed.record_message(message.person, inbox_message.accepted_at)
        self.dedupe_records.pop(message.id, None)  # keeps the records in the order of their age
        self.dedupe_records[message.id] = DedupeRecord(
            turn.id, message.digest, inbox_message.accepted_at, message.person
        )
        return turn, not isinstance(decision, NewTurn)

    def _add_turn(self, inbox_message: InboxMessage, due_at: float) -> UnsettledTurn:
        """Add a turn for the message, in its place."""
        end, order = len(self.inbox), inbox_message.message.order
        place = self._place(order) if order else end
        if place < end:
            number = self._number_before(place)
        else:
            number = self.newest_number = self.newest_number + 1
        turn = UnsettledTurn(number, [inbox_message], due_at)
        self.inbox.insert(place, turn)
        return turn

    def _place(self, order: str) -> int:
        """Return the place in the inbox of the turn of a message with that `Message.order`."""
        orders = [turn.order if turn is not self.running_turn else "" for turn in self.inbox]
        return place_in_order(order, orders)

    def _number_before(self, place: int) -> float:
        """Return a number between that of the turn at the place and those of the turns before it,
        settled ones included."""
        number = self.inbox[place].number
        before = self.inbox[place - 1].number if place else 0.0
        settled = bisect_left(self.history, number, key=lambda owned: owned.number)
        if settled:
            before = max(before, self.history[settled - 1].number)
        return (before + number) / 2

    # Settling a turn

    def close_turn(
        self, finished: Finished, taken: int, now: float, parts: ReplyParts
    ) -> UnsettledTurn | None:
        """Settle the oldest turn, which took the first ``taken`` steering messages; return the turn
        that the others became."""
        turn = self.inbox.popleft()
        self.add_history(turn, finished.outcome, taken, now, parts)
        if finished.outcome == "stopped":
            for waiting in self.inbox:
                if waiting.id == turn.successor:
                    waiting.interrupted = (*turn.interrupted, *turn.messages)
        return self.move_steering(turn.number, turn.steering[taken:], now)

    def add_history(
        self,
        turn: UnsettledTurn,
        outcome: Outcome,
        taken: int,
        now: float,
        parts: ReplyParts = NO_PARTS,
    ) -> None:
        """Store the history of a settled turn, before that of turns that were stopped while they
        waited behind it."""
        entries = history_of_turn(
            turn.id,
            (*turn.inbox_messages, *turn.steering[:taken]),
            reply=turn.reply,
            skill=turn.skill,
            outcome=outcome,
            at=now,
            parts=parts,
        )
        end = self._history_end(turn.number)
        self.history[end:end] = [
            OwnedHistoryEntry(entry.person or turn.person, entry, turn.number, len(encode(entry)))
            for entry in entries
        ]

    def move_steering(
        self, number: float, steering: Sequence[InboxMessage], now: float
    ) -> UnsettledTurn | None:
        """Make the next turn of steering messages that the settled or erased turn ``number`` did
        not take."""
        if not steering:
            return None
        own, rest = split_untaken_steering(steering)
        turn = UnsettledTurn(number, own, now)
        turn.was_steering, turn.steering = True, list(rest)
        self.inbox.appendleft(turn)
        for inbox_message in steering:
            id = inbox_message.message.id
            record = self.dedupe_records.get(id)
            if record is not None and record.accepted_at == inbox_message.accepted_at:
                self.dedupe_records[id] = record._replace(turn=turn.id)
        return turn

    def set_pending_question(self, question: PendingQuestion | None, people: Iterable[str]) -> None:
        """Replace the pending question; ``people`` have words in the new one."""
        if question is None:
            self.question_people.clear()
        else:
            self.question_people |= {question.message.person, *people}
        self.pending_question = question

    def trim(self, events_kept: int, now: float) -> None:
        """Delete the oldest events, and expired dedupe records."""
        if (excess := len(self.events) - events_kept) > 0:
            del self.events[:excess]
            self.first_offset += excess
        while self.dedupe_records:  # oldest first
            message, record = next(iter(self.dedupe_records.items()))
            if record.accepted_at > now - DEDUPE_SECONDS:
                break
            del self.dedupe_records[message]
