"""Held: what `palaver.testing.ledger.MemoryLedger` holds of one conversation."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from palaver.errors import Conflict, IndexConflict
from palaver.ledger import (
    INBOX_LIMIT,
    MAX_MERGE_WINDOWS,
    ConcurrencyPolicies,
    ConcurrencyPolicy,
    HistoryEntry,
    LogEntry,
    PendingQuestion,
    Progress,
    Receipt,
    Step,
)
from palaver.messages import (
    Conversation,
    Event,
    Finished,
    Message,
    Outcome,
    Received,
    Routed,
    Text,
    TextReset,
    encode,
    new_id,
)

DEDUPE_SECONDS = 24 * 3600.0
"""Seconds for which the id of a message is known as used."""


class InboxMessage(NamedTuple):
    """A message and when it was accepted."""

    message: Message
    at: float


class DedupeRecord(NamedTuple):
    """What is remembered of a message's id: the turn that has it, and who sent what when."""

    turn: str
    digest: str
    at: float
    person: str


class OwnedHistoryEntry(NamedTuple):
    """A line of history and whose it is: the person's, or theirs to whom the turn replied."""

    owner: str
    entry: HistoryEntry


class LastWrite(NamedTuple):
    """The last write on a turn, to know it when it is repeated."""

    expect: int
    digest: int
    offset: int


class SettledTurn(NamedTuple):
    """The write that settled a turn, and what it returned."""

    fence: int
    expect: int
    digest: int
    progress: Progress


def digest_of(entries: Sequence[LogEntry]) -> int:
    """Tells one batch from another, and keeps none of its words."""
    return hash(encode(entries))


class OpenTurn:
    """An unsettled turn: its messages and what was appended to it."""

    def __init__(self, posts: Sequence[InboxMessage], due: float) -> None:
        self.id = new_id()
        self.person = posts[0].message.person
        self.inbox_messages = list(posts)
        self.due_at = due
        """When it may be claimed: while that is ahead, the burst of its person goes on."""
        self.interrupted: tuple[Message, ...] = ()
        self.successor = ""
        """The turn that waits for this one to stop."""
        self.steering: list[InboxMessage] = []
        self.failed_attempts = 0
        self.stop_requested = False
        self.reset()

    def reset(self) -> None:
        """Forget what was appended."""
        self.index = 0
        self.length = 0
        self.parts: list[str] = []
        self.skill = ""
        self.journal: dict[int, Step] = {}
        self.last_write: LastWrite | None = None

    @property
    def reply(self) -> str:
        return "".join(self.parts)

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(post.message for post in self.inbox_messages)

    @property
    def steering_messages(self) -> tuple[Message, ...]:
        return tuple(post.message for post in self.steering)

    def received_event(self, message: Message, *, ahead: int = 0, moved: bool = False) -> Received:
        return Received(
            turn=self.id,
            id=message.id,
            person=message.person,
            text=message.text,
            moved=moved,
            ahead=ahead,
        )

    def moved_events(self) -> list[Received]:
        """Tells of messages that another turn did not take."""
        return [
            self.received_event(post.message, moved=True)
            for post in (*self.inbox_messages, *self.steering)
        ]

    def earlier(self, entries: Sequence[LogEntry], expect: int) -> Progress | None:
        """What this append has reached already, or None when it is new."""
        if expect == self.index:
            return None
        written = self.last_write
        if written is None or (written.expect, written.digest) != (expect, digest_of(entries)):
            raise IndexConflict(f"turn {self.id}: expected index {expect}, it is at {self.index}")
        return Progress(self.index, written.offset, self.stop_requested, len(self.steering))

    def check(self, entries: Sequence[LogEntry]) -> None:
        """Raise `IndexConflict` unless the texts continue the reply."""
        length = self.length
        for entry in entries:
            kind = type(entry)
            if kind is Text:
                if entry.position != length:  # type: ignore[union-attr]
                    raise IndexConflict(f"turn {self.id}: text does not start at {length}")
                length += len(entry.text)  # type: ignore[union-attr]
            elif kind is TextReset:
                if entry.position > length:  # type: ignore[union-attr]
                    raise IndexConflict(f"turn {self.id}: reset beyond the {length} characters")
                length = entry.position  # type: ignore[union-attr]

    def check_end(self, entries: Sequence[LogEntry], expect: int) -> Finished:
        """The end that settles the turn. Raises `IndexConflict` when ``entries`` may not."""
        if expect != self.index:
            raise IndexConflict(f"turn {self.id}: expected index {expect}, it is at {self.index}")
        finished = entries[-1] if entries else None
        if not isinstance(finished, Finished):
            raise IndexConflict(f"turn {self.id}: settling needs Finished as the last entry")
        self.check(entries)
        return finished

    def check_steered(self, steered: Sequence[Message]) -> None:
        """Raise `IndexConflict` unless ``steered`` are the first of the turn's steering."""
        wanted = [post.message.id for post in self.steering[: len(steered)]]
        if [message.id for message in steered] != wanted:
            raise IndexConflict(f"turn {self.id}: what was taken is not the first that steers it")

    def apply(self, entries: Sequence[LogEntry]) -> list[Event]:
        """Take the checked entries in; returns those that are events."""
        events: list[Event] = []
        for entry in entries:
            if isinstance(entry, Step):
                self.journal[entry.number] = entry
                continue
            events.append(entry)
            if isinstance(entry, Text):
                self.parts.append(entry.text)
                self.length = entry.end
            elif isinstance(entry, TextReset):
                self.parts = [self.reply[: entry.position]]
                self.length = entry.position
            elif isinstance(entry, Routed):
                self.skill = entry.skill
        self.index += len(entries)
        return events


class ConversationState:
    """One conversation: its events, inbox, history and the marks of messages seen."""

    def __init__(self, conversation: Conversation, epoch: str) -> None:
        self.conversation = conversation
        self.name = str(conversation)
        self.epoch = epoch
        self.first_offset = 1
        self.events: list[Event] = []
        self.inbox: deque[OpenTurn] = deque()
        self.is_running = False
        self.is_ready = False  # whether it stands in the ready queue
        self.lease_expires_at = 0.0
        self.fence = 0
        self.history: list[OwnedHistoryEntry] = []
        self.dedupe_records: dict[str, DedupeRecord] = {}
        self.settled_turns: dict[str, SettledTurn] = {}
        self.pending_question: PendingQuestion | None = None
        self.question_people: set[str] = set()
        """The people whose words are in ``waiting``."""
        self.members: set[str] = set()

    @property
    def last_offset(self) -> int:
        return self.first_offset + len(self.events) - 1

    @property
    def waiting_messages(self) -> int:
        """Messages that no skill has begun to answer, with those that steer a turn."""
        own = sum(len(turn.inbox_messages) for turn in self.inbox)
        running = len(self.inbox[0].inbox_messages) if self.is_running else 0
        return own - running + sum(len(turn.steering) for turn in self.inbox)

    def newest_history(self, count: int) -> tuple[HistoryEntry, ...]:
        return tuple(line.entry for line in self.history[-count:]) if count > 0 else ()

    def ahead_of(self, turn: str) -> int:
        """Turns that come before ``turn``; 0 when it is settled."""
        for position, queued in enumerate(self.inbox):
            if queued.id == turn:
                return position
        return 0

    # Receiving a message

    def find_duplicate(self, message: Message, now: float) -> Receipt | None:
        """The receipt of the same message, if it was accepted within the last day."""
        mark = self.dedupe_records.get(message.id)
        if mark is None or now - mark.at >= DEDUPE_SECONDS:
            return None
        if mark.digest != message.digest:
            raise Conflict(f"message id {message.id!r} was used with another body")
        return Receipt(turn=mark.turn, ahead=self.ahead_of(mark.turn), duplicate=True)

    def receive(self, post: InboxMessage, policies: ConcurrencyPolicies) -> tuple[OpenTurn, bool]:
        """Give the message to a turn; returns that turn and whether it was there before."""
        self.members.add(post.message.person)
        policy = self._policy(policies)
        turn = self._joined(post, policy, policies.merge_window)
        if turn is not None:
            return turn, True
        turn = OpenTurn([post], post.at + (policies.merge_window if policy == "merge" else 0.0))
        if policy == "interrupt":
            self._interrupt_for(turn)
        self.inbox.append(turn)
        return turn, False

    def remember_id(self, post: InboxMessage, turn: OpenTurn) -> None:
        message = post.message
        self.dedupe_records.pop(
            message.id, None
        )  # so that the marks stay in the order of their age
        self.dedupe_records[message.id] = DedupeRecord(
            turn.id, message.digest, post.at, message.person
        )

    def _policy(self, policies: ConcurrencyPolicies) -> ConcurrencyPolicy:
        skill = self.inbox[0].skill if self.is_running else ""
        return policies.skills.get(skill, policies.default)

    def _joined(
        self, post: InboxMessage, policy: ConcurrencyPolicy, window: float
    ) -> OpenTurn | None:
        """The turn that the message became part of."""
        if post.message.skill or not self.inbox:
            return None
        if policy == "steer":
            return self._steered(post)
        turn = self._successor() if policy == "interrupt" else self.inbox[-1]
        if turn is None or turn.stop_requested or turn.person != post.message.person:
            return None
        if policy == "merge" and post.at < turn.due_at:
            turn.due_at = min(
                post.at + window, turn.inbox_messages[0].at + MAX_MERGE_WINDOWS * window
            )
        elif policy != "interrupt":
            return None
        turn.inbox_messages.append(post)
        return turn

    def _steered(self, post: InboxMessage) -> OpenTurn | None:
        if not self.is_running or self.inbox[0].stop_requested:
            return None
        self.inbox[0].steering.append(post)
        return self.inbox[0]

    def _successor(self) -> OpenTurn | None:
        """The turn that waits for the running one to stop."""
        name = self.inbox[0].successor if self.is_running else ""
        return next((turn for turn in self.inbox if name and turn.id == name), None)

    def _interrupt_for(self, turn: OpenTurn) -> None:
        """Stop the running turn, if the policy applies to it."""
        if not self.is_running:
            return
        running = self.inbox[0]
        many = len(running.interrupted) + len(running.inbox_messages) >= INBOX_LIMIT
        if not running.stop_requested and running.person == turn.person and not many:
            running.stop_requested = True
            running.successor = turn.id

    # Closing a turn

    def close(self, finished: Finished, taken: int, now: float) -> OpenTurn | None:
        """Settle the oldest turn, of whose steering the first ``taken`` are answered; returns the
        turn that the others became."""
        turn = self.inbox.popleft()
        self.history += _lines(turn, finished.outcome, taken, now)
        if finished.outcome == "stopped":
            for follower in self.inbox:
                if follower.id == turn.successor:
                    follower.interrupted = (*turn.interrupted, *turn.messages)
        return self.move_steering(turn.steering[taken:], now)

    def move_steering(self, posts: Sequence[InboxMessage], now: float) -> OpenTurn | None:
        """Make the next turn of messages that steered one which is over: the first person's are
        its own, and the others steer it."""
        if not posts:
            return None
        person = posts[0].message.person
        own = next((n for n, post in enumerate(posts) if post.message.person != person), len(posts))
        turn = OpenTurn(posts[:own], now)
        turn.steering = list(posts[own:])
        self.inbox.appendleft(turn)
        for post in posts:
            mark = self.dedupe_records.get(post.message.id)
            if mark is not None and mark.at == post.at:
                self.dedupe_records[post.message.id] = mark._replace(turn=turn.id)
        return turn

    def set_pending_question(self, waiting: PendingQuestion | None, people: Iterable[str]) -> None:
        """Keep the skill that asked, in which are the words of ``people``."""
        if waiting is None:
            self.question_people.clear()
        else:
            self.question_people |= {waiting.message.person, *people}
        self.pending_question = waiting

    def trim(self, kept: int, now: float) -> None:
        """Drop the oldest events, and marks that are over."""
        if (excess := len(self.events) - kept) > 0:
            del self.events[:excess]
            self.first_offset += excess
        while self.dedupe_records:  # oldest first
            message, mark = next(iter(self.dedupe_records.items()))
            if mark.at > now - DEDUPE_SECONDS:
                break
            del self.dedupe_records[message]


def _lines(turn: OpenTurn, outcome: Outcome, taken: int, now: float) -> list[OwnedHistoryEntry]:
    lines = [
        OwnedHistoryEntry(
            post.message.person,
            HistoryEntry(
                role="user",
                text=post.message.text,
                turn=turn.id,
                at=post.at,
                person=post.message.person,
            ),
        )
        for post in (*turn.inbox_messages, *turn.steering[:taken])
    ]
    answer = HistoryEntry(
        role="assistant",
        text=turn.reply,
        turn=turn.id,
        at=now,
        skill=turn.skill,
        outcome=outcome,
    )
    return [*lines, OwnedHistoryEntry(turn.person, answer)]
