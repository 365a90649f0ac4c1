"""Reference model of a ledger, as simple as possible: the oracle of the contract tests.

It is independent of the ledgers and of `palaver.concurrency`. It stores nothing that can be
derived: a reply is read from the entries, the due turns from the times.
Turns are called ``turn-1``, ``turn-2``, …; fences are numbers of this model.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec

from palaver.errors import (
    Conflict,
    Fenced,
    Forbidden,
    IndexConflict,
    InvalidInput,
    NotFound,
    TooMany,
)
from palaver.feedback import Feedback, FeedbackReceipt, RatedReply
from palaver.ledger import (
    INBOX_LIMIT,
    MAX_MERGE_WINDOWS,
    Claim,
    ConcurrencyPolicies,
    ConcurrencyPolicy,
    DeadLetter,
    HistoryEntry,
    LogEntry,
    MemoryWrite,
    PendingQuestion,
    PendingTurn,
    Progress,
    Receipt,
    Step,
    StopState,
)
from palaver.messages import (
    Conversation,
    Event,
    Finished,
    Message,
    Received,
    Routed,
    Text,
    TextReset,
)

DAY = 86_400.0


@dataclass(frozen=True)
class InboxMessage:
    message: Message
    accepted_at: float

    @property
    def person(self) -> str:
        return self.message.person


@dataclass
class Turn:
    id: str
    inbox_messages: list[InboxMessage]
    due_at: float
    interrupted: tuple[Message, ...] = ()
    steering: list[InboxMessage] = field(default_factory=list)
    successor: str = ""
    stop_requested: bool = False
    failed_attempts: int = 0
    was_steering: bool = False
    entries: list[LogEntry] = field(default_factory=list)
    last_write: tuple[int, tuple[LogEntry, ...], int] | None = None
    """Write that may be repeated: index, entries, and the returned offset."""

    @property
    def person(self) -> str:
        return self.inbox_messages[0].person

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(inbox_message.message for inbox_message in self.inbox_messages)

    def comes_after(self, order: str, running: "Turn | None") -> bool:
        """Return True when a message with that order goes before this turn."""
        has_place = self.entries or self.steering or self.successor or self.failed_attempts
        if has_place or self.was_steering or self is running or not order:
            return False
        return self.inbox_messages[0].message.order > order

    @property
    def steering_messages(self) -> tuple[Message, ...]:
        return tuple(inbox_message.message for inbox_message in self.steering)

    @property
    def reply(self) -> str:
        return _reply(self.entries)

    @property
    def skill(self) -> str:
        return next((e.skill for e in reversed(self.entries) if isinstance(e, Routed)), "")

    @property
    def journal(self) -> tuple[Step, ...]:
        steps = {entry.number: entry for entry in self.entries if isinstance(entry, Step)}
        return tuple(steps[number] for number in sorted(steps))


@dataclass
class Branches:
    """``path`` is the history with the turns that are not settled, ``lines`` are superseded, each
    from an alternative on; ``parents`` has the turn before each alternative, "" at the beginning.
    """

    path: list[str] = field(default_factory=list)
    lines: list[list[str]] = field(default_factory=list)
    parents: dict[str, str] = field(default_factory=dict)

    def add(self, turn: str, after: str | None) -> None:
        """Add a turn to the path: at its end, or ``after`` another one."""
        if after is not None and self.supersede_after(after):
            self.parents[turn] = after
        self.path.append(turn)

    def supersede_after(self, parent: str) -> bool:
        """Cut what follows ``parent`` in the path; return False when nothing does."""
        end = self.path.index(parent) + 1 if parent else 0
        following, self.path = self.path[end:], self.path[:end]
        if following:
            self.parents.setdefault(following[0], parent)
            self.lines.append(following)
        return bool(following)

    def select(self, turn: str) -> None:
        """Make the line of a turn, with the turns before it, the end of the path."""
        if turn and turn not in self.path:
            line = next(line for line in self.lines if turn in line)
            parent = self.parents[line[0]]
            self.select(parent)
            self.supersede_after(parent)
            self.lines.remove(line)
            self.path += line

    def forget(self, turn: str) -> None:
        """Remove an erased turn: what follows it takes its place."""
        line = next((line for line in (self.path, *self.lines) if turn in line), None)
        if line is None:
            return
        place = line.index(turn)
        parent = line[place - 1] if place else self.parents.get(turn, "")
        if self.parents.pop(turn, None) is not None and line[place + 1 :]:
            self.parents.setdefault(line[place + 1], parent)
        self.parents |= {other: parent for other, of in self.parents.items() if of == turn}
        line.remove(turn)
        self.lines = [line for line in self.lines if line]

    def path_to(self, turn: str) -> list[str]:
        """Return the turns that led to ``turn``, and itself."""
        if not turn:
            return []
        line = next(line for line in (self.path, *self.lines) if turn in line)
        before = [] if line is self.path else self.path_to(self.parents[line[0]])
        return before + line[: line.index(turn) + 1]

    def groups(self, order: list[str]) -> list[list[str]]:
        """Return the alternatives that follow the same turn, by age."""
        by_parent: dict[str, list[str]] = {}
        for turn in sorted(self.parents, key=order.index):
            by_parent.setdefault(self.parents[turn], []).append(turn)
        return [group for group in by_parent.values() if len(group) > 1]


@dataclass
class ConversationModel:
    """Conversation; an erased one that begins again has another ``generation``."""

    conversation: Conversation
    generation: int
    turns: list[Turn] = field(default_factory=list)
    order: list[str] = field(default_factory=list)  # ids of all turns, as they run
    branches: Branches = field(default_factory=Branches)
    fence: int = 0  # the fence, 0 when no turn is claimed
    lease_expires_at: float = 0.0
    events: list[Event] = field(default_factory=list)
    gone: int = 0  # offsets before that of the first event
    history: list[tuple[str, HistoryEntry]] = field(default_factory=list)
    dedupe_records: dict[str, tuple[str, InboxMessage]] = field(default_factory=dict)
    settled: dict[str, tuple[int, int, tuple[LogEntry, ...], Progress]] = field(
        default_factory=dict
    )
    pending_question: PendingQuestion | None = None
    question_people: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    feedback: dict[tuple[str, str], Feedback] = field(default_factory=dict)  # by person and turn

    def next_due_at(self) -> float:
        if not self.turns:
            return float("inf")
        return self.lease_expires_at if self.fence else self.turns[0].due_at

    @property
    def offset(self) -> int:
        return self.gone + len(self.events)

    def position_of(self, turn: str) -> int:
        return next((n for n, each in enumerate(self.turns) if each.id == turn), 0)

    def sort_history(self) -> None:
        self.history.sort(key=lambda each: self.order.index(each[1].turn))

    def find(self, turn: str) -> Turn | None:
        return next((each for each in self.turns if each.id == turn), None)

    @property
    def running(self) -> Turn | None:
        return self.turns[0] if self.fence else None

    @property
    def waiting_messages(self) -> int:
        waiting = [turn for turn in self.turns if turn is not self.running]
        own = sum(len(turn.inbox_messages) for turn in waiting)
        return own + sum(len(turn.steering) for turn in self.turns)


class ReferenceModel:
    """Model of a ledger; the test sets the clock ``now``."""

    def __init__(self) -> None:
        self.now = 0.0
        self.conversations: dict[Conversation, ConversationModel] = {}
        self.memories: dict[tuple[str, str, str], str] = {}
        self.dead_letters_by_owner: list[tuple[str, DeadLetter]] = []
        self._numbers = count(1)

    # Accepting

    def accept(self, message: Message, policies: ConcurrencyPolicies) -> Receipt:
        state = self.conversations.get(message.conversation)
        if state is not None and message.id in state.dedupe_records:
            turn, inbox_message = state.dedupe_records[message.id]
            if self.now - inbox_message.accepted_at < DAY:
                if inbox_message.message.digest != message.digest:
                    raise Conflict
                return Receipt(turn=turn, ahead=state.position_of(turn), duplicate=True)
        if message.after is not None:
            self._check_continuation(state, message.after)
        if state is None:
            state = ConversationModel(message.conversation, next(self._numbers))
            self.conversations[message.conversation] = state
        if state.waiting_messages >= INBOX_LIMIT:
            raise TooMany
        inbox_message = InboxMessage(message, self.now)
        policy = self._policy(state, policies)
        supersedes = message.after is not None and state.branches.supersede_after(message.after)
        joined = self._find_turn_to_join(state, inbox_message, policy, policies.merge_window)
        turn_of = joined or self._add_turn(state, inbox_message, policy, policies)
        if supersedes:
            state.branches.parents[turn_of.id] = message.after or ""
            self._begin_stream(state)
        state.members.add(message.person)
        state.dedupe_records[message.id] = (turn_of.id, inbox_message)
        ahead = state.position_of(turn_of.id)
        state.events.append(_received(turn_of.id, message, ahead))
        return Receipt(turn=turn_of.id, ahead=ahead, duplicate=False, joined=joined is not None)

    def _check_continuation(self, state: ConversationModel | None, after: str) -> None:
        if state is not None and state.turns:
            raise Conflict
        if after and (state is None or after not in state.branches.path):
            raise NotFound

    def _begin_stream(self, state: ConversationModel) -> None:
        state.events, state.gone, state.generation = [], 0, next(self._numbers)
        state.pending_question, state.question_people = None, set()

    def select(self, conversation: Conversation, turn: str) -> None:
        state = self.conversations.get(conversation)
        if state is None or turn not in state.branches.parents:
            raise NotFound
        if state.turns:
            raise Conflict
        if turn not in state.branches.path:
            state.branches.select(turn)
            self._begin_stream(state)

    def revise(self, conversation: Conversation, person: str, turn: str, text: str) -> None:
        state = self.conversations.get(conversation)
        if state is None:
            raise NotFound
        if state.turns:
            raise Conflict
        own = [
            at
            for at, (_, entry) in enumerate(state.history)
            if entry.turn == turn and entry.role == "user" and turn in state.branches.path
        ]
        if all(state.history[at][1].person != person for at in own):
            raise NotFound
        if len(own) > 1:
            raise InvalidInput
        owner, entry = state.history[own[0]]
        if entry.text != text:
            state.history[own[0]] = owner, msgspec.structs.replace(entry, text=text)
            self._begin_stream(state)

    def change_waiting(self, conversation: Conversation, id: str, text: str | None) -> bool:
        state = self.conversations.get(conversation)
        for turn in state.turns if state else ():
            has_begun = turn.entries or turn.steering or turn.successor
            found = [each for each in turn.inbox_messages if each.message.id == id]
            if state is not None and found and turn is not state.running and not has_begun:
                if found[0].message.text != text:
                    self._change(state, turn, found[0], text)
                return True
        return False

    def _change(
        self, state: ConversationModel, turn: Turn, old: InboxMessage, text: str | None
    ) -> None:
        message = old.message
        new = msgspec.structs.replace(message, text=text) if text is not None else None
        changed = [InboxMessage(new, old.accepted_at)] if new else []
        place = turn.inbox_messages.index(old)
        turn.inbox_messages[place : place + 1] = changed
        end, unsettled = state.offset, {each.id for each in state.turns}
        events: list[Event] = []
        for event in state.events:
            if isinstance(event, Received) and (event.turn, event.id) == (turn.id, message.id):
                events += [msgspec.structs.replace(event, text=text)] if new else []
            elif event.turn in unsettled:
                events.append(event)
        state.events, state.gone = events, end - len(events)
        state.generation = next(self._numbers)
        if not turn.inbox_messages:
            state.turns.remove(turn)
            state.branches.forget(turn.id)

    def _policy(self, state: ConversationModel, policies: ConcurrencyPolicies) -> ConcurrencyPolicy:
        skill = state.running.skill if state.running else ""
        return policies.skills.get(skill, policies.default)

    def _find_turn_to_join(
        self,
        state: ConversationModel,
        inbox_message: InboxMessage,
        policy: ConcurrencyPolicy,
        window: float,
    ) -> Turn | None:
        running = state.running
        if inbox_message.message.skill or not state.turns:
            return None
        if policy == "steer" and running is not None and not running.stop_requested:
            running.steering.append(inbox_message)
            return running
        turn: Turn | None = None
        may_join = policy == "merge" or (policy != "queue" and running is None)
        if may_join and self.now < state.turns[-1].due_at:
            turn = state.turns[-1]
        elif policy == "interrupt" and running is not None:
            turn = state.find(running.successor)
        if turn is None or turn.stop_requested or turn.person != inbox_message.person:
            return None
        place = len(turn.inbox_messages)
        order = inbox_message.message.order
        while order and place and turn.inbox_messages[place - 1].message.order > order:
            place -= 1
        turn.inbox_messages.insert(place, inbox_message)
        if policy == "merge":
            first = min(each.accepted_at for each in turn.inbox_messages)
            turn.due_at = min(self.now + window, first + MAX_MERGE_WINDOWS * window)
        return turn

    def _add_turn(
        self,
        state: ConversationModel,
        inbox_message: InboxMessage,
        policy: ConcurrencyPolicy,
        policies: ConcurrencyPolicies,
    ) -> Turn:
        wait = policies.merge_window if policy == "merge" else policies.start_delay
        turn = self._make_turn([inbox_message], self.now + wait)
        running = state.running
        if (
            policy == "interrupt"
            and running is not None
            and not running.stop_requested
            and running.person == inbox_message.person
            and len(running.interrupted) + len(running.inbox_messages) < INBOX_LIMIT
        ):
            running.stop_requested, running.successor = True, turn.id
        place = len(state.turns)
        order = inbox_message.message.order
        while place and state.turns[place - 1].comes_after(order, running):
            place -= 1
        following = state.turns[place].id if state.turns[place:] else None
        state.turns.insert(place, turn)
        for ids in (state.order, state.branches.path):
            ids.insert(len(ids) if following is None else ids.index(following), turn.id)
        return turn

    def _make_turn(self, inbox_messages: list[InboxMessage], due: float) -> Turn:
        return Turn(f"turn-{next(self._numbers)}", inbox_messages, due)

    # Running

    def claimable(self) -> list[Conversation]:
        return [
            conversation
            for conversation, state in self.conversations.items()
            if state.next_due_at() <= self.now
        ]

    def claim(self, conversation: Conversation, lease: float, history: int) -> Claim:
        """Claim the oldest turn of that conversation, which must be due."""
        state = self.conversations[conversation]
        turn = state.turns[0]
        turn.failed_attempts += bool(state.fence)
        turn.last_write = None
        state.fence, state.lease_expires_at = next(self._numbers), self.now + lease
        return Claim(
            turn=turn.id,
            messages=turn.messages,
            interrupted=turn.interrupted,
            steering_messages=turn.steering_messages,
            fence=state.fence,
            attempt=turn.failed_attempts + 1,
            index=len(turn.entries),
            reply=turn.reply,
            journal=turn.journal,
            history=self._history(state, history, before=turn),
            pending_question=state.pending_question,
            stop_requested=turn.stop_requested,
        )

    def _history(
        self, state: ConversationModel, count: int, before: Turn | None = None
    ) -> tuple[HistoryEntry, ...]:
        end = state.order.index(before.id) if before else len(state.order)
        earlier = [
            entry
            for _, entry in state.history
            if entry.turn in state.branches.path and state.order.index(entry.turn) < end
        ]
        return tuple(earlier[-count:]) if count else ()

    def append(
        self, claim: Claim, entries: tuple[LogEntry, ...], *, expect: int, lease: float
    ) -> Progress:
        state, turn = self._owned(claim)
        if expect != len(turn.entries):
            if turn.last_write is None or (expect, entries) != turn.last_write[:2]:
                raise IndexConflict
            state.lease_expires_at = self.now + lease
            return Progress(
                len(turn.entries), turn.last_write[2], turn.stop_requested, len(turn.steering)
            )
        _check(turn, entries)
        self._check_people(state, turn, entries)
        state.lease_expires_at = self.now + lease
        return self._write(state, turn, entries, expect)

    def settle(
        self,
        claim: Claim,
        entries: tuple[LogEntry, ...],
        *,
        expect: int,
        pending_question: PendingQuestion | None,
        taken_steering: Sequence[Message],
        dead_letter_reason: str,
    ) -> Progress:
        earlier = self._repeated_settle(claim, entries, expect)
        if earlier is not None:
            return earlier
        state, turn = self._owned(claim)
        if expect != len(turn.entries) or not entries or not isinstance(entries[-1], Finished):
            raise IndexConflict
        _check(turn, entries)
        if [m.id for m in taken_steering] != [
            m.id for m in turn.steering_messages[: len(taken_steering)]
        ]:
            raise IndexConflict
        self._check_people(state, turn, entries)
        self._write(state, turn, entries, expect)
        self._close(state, turn, entries[-1], len(taken_steering), dead_letter_reason)
        state.question_people |= {turn.person, *(message.person for message in taken_steering)}
        state.question_people |= {pending_question.message.person} if pending_question else set()
        state.pending_question = pending_question
        state.question_people = state.question_people if pending_question else set()
        progress = Progress(
            len(turn.entries), state.offset, turn.stop_requested, len(turn.steering)
        )
        state.settled[turn.id] = (claim.fence, expect, entries, progress)
        return progress

    def _close(
        self,
        state: ConversationModel,
        turn: Turn,
        finished: Finished,
        taken: int,
        dead_letter_reason: str,
    ) -> None:
        state.turns.remove(turn)
        state.fence = 0
        answered = turn.inbox_messages + turn.steering[:taken]
        state.history += [
            (inbox_message.person, _user_entry(turn.id, inbox_message))
            for inbox_message in answered
        ] + [(turn.person, _assistant_entry(turn, finished, self.now))]
        state.sort_history()
        successor = state.find(turn.successor)
        if finished.outcome == "stopped" and successor is not None:
            successor.interrupted = turn.interrupted + turn.messages
        if dead_letter_reason:
            messages = turn.interrupted + tuple(inbox_message.message for inbox_message in answered)
            self._store_dead_letter(turn, messages, dead_letter_reason)
        self._move_steering(state, turn.id, turn.steering[taken:])

    def _store_dead_letter(self, turn: Turn, messages: tuple[Message, ...], reason: str) -> None:
        letter = DeadLetter(
            turn=turn.id,
            messages=messages,
            attempt=turn.failed_attempts + 1,
            reply=turn.reply,
            skill=turn.skill,
            reason=reason,
            at=self.now,
        )
        self.dead_letters_by_owner.append((turn.person, letter))

    def _move_steering(
        self, state: ConversationModel, after: str, inbox_messages: list[InboxMessage]
    ) -> None:
        """Make the next turn of the first person's messages; the rest steer it."""
        if not inbox_messages:
            return
        own = 1
        while own < len(inbox_messages) and inbox_messages[own].person == inbox_messages[0].person:
            own += 1
        turn = self._make_turn(inbox_messages[:own], self.now)
        turn.steering, turn.was_steering = inbox_messages[own:], True
        state.turns.insert(0, turn)
        for order in (state.order, state.branches.path):
            order.insert(order.index(after) + 1, turn.id)
        for inbox_message in inbox_messages:
            state.events.append(_received(turn.id, inbox_message.message, 0, moved=True))
            if state.dedupe_records.get(inbox_message.message.id, ("", None))[1] is inbox_message:
                state.dedupe_records[inbox_message.message.id] = (turn.id, inbox_message)

    def _write(
        self, state: ConversationModel, turn: Turn, entries: tuple[LogEntry, ...], expect: int
    ) -> Progress:
        turn.entries += entries
        state.events += [entry for entry in entries if not isinstance(entry, Step | MemoryWrite)]
        for entry in entries:
            if isinstance(entry, MemoryWrite):
                self._remember(state.conversation.tenant, entry)
        if entries:
            turn.last_write = (expect, entries, state.offset)
        return Progress(len(turn.entries), state.offset, turn.stop_requested, len(turn.steering))

    def _owned(self, claim: Claim) -> tuple[ConversationModel, Turn]:
        state = self.conversations.get(claim.conversation)
        if state is None or state.fence != claim.fence:
            raise Fenced
        return state, state.turns[0]

    def _repeated_settle(
        self, claim: Claim, entries: tuple[LogEntry, ...], expect: int
    ) -> Progress | None:
        state = self.conversations.get(claim.conversation)
        if state is None or claim.turn not in state.settled:
            return None
        fence, expected, written, progress = state.settled[claim.turn]
        if fence != claim.fence:
            raise Fenced
        if (expected, written) != (expect, entries):
            raise IndexConflict
        return progress

    def steering(self, claim: Claim) -> tuple[Message, ...]:
        return self._owned(claim)[1].steering_messages

    def release(self, claim: Claim) -> None:
        state, _ = self._owned(claim)
        state.fence = 0

    def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        state = self.conversations.get(conversation)
        if state is None:
            return "unknown", ""
        found = state.turns[0] if turn is None and state.turns else state.find(turn or "")
        if found is not None:
            found.stop_requested = True
            worker_ends_it = found is state.running or found.entries or found.successor
            if not worker_ends_it and not found.steering:
                self._settle_waiting(state, found)
            return "stopping", found.id
        return ("settled", turn) if turn in state.settled else ("unknown", "")

    def _settle_waiting(self, state: ConversationModel, turn: Turn) -> None:
        ids = tuple(message.id for message in turn.messages)
        finished = Finished(turn=turn.id, outcome="stopped", length=0, messages=ids)
        state.turns.remove(turn)
        state.events.append(finished)
        state.history += [(m.person, _user_entry(turn.id, m)) for m in turn.inbox_messages]
        state.history.append((turn.person, _assistant_entry(turn, finished, self.now)))
        state.sort_history()
        nothing = Progress(0, state.offset, True)
        state.settled[turn.id] = (-1, 0, (finished,), nothing)

    # Reading

    def snapshot(self, conversation: Conversation, count: int) -> dict[str, Any]:
        state = self.conversations.get(conversation)
        if state is None:
            return {"offset": 0, "history": (), "pending": (), "alternatives": []}
        pending = tuple(
            PendingTurn(
                turn=turn.id,
                messages=turn.messages + turn.steering_messages,
                running=turn is state.running,
                reply=turn.reply,
                skill=turn.skill,
                at=turn.inbox_messages[0].accepted_at,
            )
            for turn in state.turns
        )
        history = self._history(state, count)
        return {
            "offset": state.offset,
            "history": history,
            "pending": pending,
            "alternatives": state.branches.groups(state.order),
        }

    def events(self, conversation: Conversation) -> tuple[int, list[Event]]:
        """Return the stream, and how many offsets are before it."""
        state = self.conversations.get(conversation)
        return (state.gone, state.events) if state else (0, [])

    def members(self, conversation: Conversation) -> set[str]:
        return (
            self.conversations[conversation].members
            if conversation in self.conversations
            else set()
        )

    def depth(self) -> tuple[int, int]:
        running = sum(bool(state.fence) for state in self.conversations.values())
        return sum(len(state.turns) for state in self.conversations.values()) - running, running

    def unsettled(self) -> Counter[tuple[str, str]]:
        """Return how many turns are unsettled, by tenant and person."""
        return Counter(
            (conversation.tenant, turn.person)
            for conversation, state in self.conversations.items()
            for turn in state.turns
        )

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        return [letter for _, letter in reversed(self.dead_letters_by_owner)][:limit]

    def discard(self, turn: str) -> bool:
        before = len(self.dead_letters_by_owner)
        self.dead_letters_by_owner = [
            each for each in self.dead_letters_by_owner if each[1].turn != turn
        ]
        return len(self.dead_letters_by_owner) < before

    # People

    def _check_people(
        self, state: ConversationModel, turn: Turn, entries: tuple[LogEntry, ...]
    ) -> None:
        people = {turn.person, *state.question_people}
        people |= {message.person for message in turn.steering_messages}
        if {entry.person for entry in entries if isinstance(entry, MemoryWrite)} - people:
            raise Forbidden

    def _remember(self, tenant: str, memory: MemoryWrite) -> None:
        self.memories.pop((tenant, memory.person, memory.key), None)
        if memory.value is not None:
            self.memories[tenant, memory.person, memory.key] = memory.value

    def export(self, tenant: str, person: str) -> dict[str, Any]:
        states = list(self._conversations_of(tenant, person))
        conversations = {
            str(state.conversation): entries
            for state in states
            if (entries := [entry for owner, entry in state.history if owner == person])
        }
        pending = [
            inbox_message.message
            for state in states
            for turn in state.turns
            for inbox_message in turn.inbox_messages + turn.steering
            if inbox_message.person == person
        ]
        pending += [
            message
            for _, letter in self._dead_letters_of(tenant)
            for message in letter.messages
            if message.person == person
        ]
        return {
            "conversations": conversations,
            "pending": pending,
            "feedback": {
                str(state.conversation): given
                for state in states
                if (given := self.feedback(state.conversation, person))
            },
            "memories": self._memories_of(tenant, person),
        }

    def erase(
        self, tenant: str, person: str, conversation: Conversation | None = None
    ) -> dict[str, int]:
        """Erase a person, or what a conversation has about them."""

        def is_meant(where: Conversation) -> bool:
            return conversation in (None, where)

        states = [
            state
            for state in self._conversations_of(tenant, person)
            if is_meant(state.conversation)
        ]
        erased = [self._erase_from(state, person) for state in states]
        letters = 0
        for owner, letter in self._dead_letters_of(tenant):
            if not is_meant(letter.messages[0].conversation):
                continue
            letters += any(message.person == person for message in letter.messages)
            self._erase_from_dead_letter(owner, letter, person)
        memories = {} if conversation else self._memories_of(tenant, person)
        for key in memories:
            del self.memories[tenant, person, key]
        return {
            "conversations": len(states),
            "messages": sum(messages for messages, _ in erased),
            "events": sum(events for _, events in erased),
            "dead_letters": letters,
            "memories": len(memories),
        }

    # Feedback

    def give_feedback(
        self, where: Conversation, person: str, feedback: Feedback
    ) -> FeedbackReceipt:
        state = self.conversations.get(where)
        if state is None or person not in state.members:
            raise NotFound("no member")
        reply = next(
            (
                entry
                for _, entry in state.history
                if entry.turn == feedback.turn and entry.role == "assistant"
            ),
            None,
        )
        if reply is None or (reply.outcome == "stopped" and not reply.text):
            raise NotFound("no reply")
        given = msgspec.structs.replace(feedback, skill=reply.skill)
        duplicate = state.feedback.get((person, feedback.turn)) == given
        state.feedback[person, feedback.turn] = given
        return FeedbackReceipt(feedback=given, duplicate=duplicate)

    def withdraw_feedback(self, where: Conversation, person: str, turn: str) -> bool:
        state = self.conversations.get(where)
        return state is not None and state.feedback.pop((person, turn), None) is not None

    def feedback(self, where: Conversation, person: str) -> list[Feedback]:
        state = self.conversations.get(where)
        given = state.feedback.items() if state else ()
        return [feedback for (author, _), feedback in given if author == person]

    def rated_replies(self, tenant: str) -> list[RatedReply]:
        return [
            RatedReply(
                conversation=where,
                person=person,
                feedback=feedback,
                entries=self._entries_of(state, [turn]),
                history=self._entries_of(state, state.branches.path_to(turn)[:-1]),
            )
            for where, state in self.conversations.items()
            if where.tenant == tenant
            for (person, turn), feedback in state.feedback.items()
        ]

    def _entries_of(self, state: ConversationModel, turns: list[str]) -> tuple[HistoryEntry, ...]:
        return tuple(entry for _, entry in state.history if entry.turn in turns)

    def _conversations_of(self, tenant: str, person: str) -> Iterator[ConversationModel]:
        for conversation, state in self.conversations.items():
            if conversation.tenant == tenant and person in state.members:
                yield state

    def _dead_letters_of(self, tenant: str) -> list[tuple[str, DeadLetter]]:
        return [
            each
            for each in self.dead_letters_by_owner
            if each[1].messages[0].conversation.tenant == tenant
        ]

    def _memories_of(self, tenant: str, person: str) -> dict[str, str]:
        return {
            k: value for (t, p, k), value in self.memories.items() if (t, p) == (tenant, person)
        }

    def _erase_from_dead_letter(self, owner: str, letter: DeadLetter, person: str) -> None:
        self.dead_letters_by_owner.remove((owner, letter))
        if owner != person:
            others = tuple(message for message in letter.messages if message.person != person)
            fields = {name: getattr(letter, name) for name in letter.__struct_fields__}
            kept = DeadLetter(**(fields | {"messages": others}))
            self.dead_letters_by_owner.append((owner, kept))
            self.dead_letters_by_owner.sort(key=lambda each: each[1].at)

    def _erase_from(self, state: ConversationModel, person: str) -> tuple[int, int]:
        theirs = {turn.id for turn in state.turns if turn.person == person}
        theirs |= {
            line.turn for owner, line in state.history if owner == person and not line.person
        }
        messages = sum(line.person == person for _, line in state.history)
        messages += sum(
            inbox_message.person == person
            for turn in state.turns
            for inbox_message in turn.inbox_messages + turn.steering
        )
        if state.members == {person}:
            del self.conversations[state.conversation]
            return messages, len(state.events)
        oldest = state.turns[0] if state.turns else None
        restarts = (
            oldest is not None
            and oldest.id not in theirs
            and self._has_words_of(state, oldest, person)
        )
        erased = self._drop_events(
            state, person, theirs | ({oldest.id} if oldest and restarts else set())
        )
        self._forget_question(state, person)
        others = [
            inbox_message
            for inbox_message in (oldest.steering if oldest else ())
            if inbox_message.person != person
        ]
        state.turns = [turn for turn in state.turns if turn.person != person]
        if oldest is not None and oldest.id in theirs:
            state.fence = 0
            self._move_steering(state, oldest.id, others)
        elif oldest is not None:
            oldest.steering = others
            if restarts:
                oldest.entries, oldest.last_write, state.fence = [], None, 0
        state.history = [each for each in state.history if each[0] != person]
        state.dedupe_records = {
            i: mark for i, mark in state.dedupe_records.items() if mark[1].person != person
        }
        state.settled = {turn: each for turn, each in state.settled.items() if turn not in theirs}
        kept = {turn.id for turn in state.turns} | {entry.turn for _, entry in state.history}
        for turn in state.order:
            if turn not in kept:
                state.branches.forget(turn)
        replied = {entry.turn for _, entry in state.history if entry.role == "assistant"}
        state.feedback = {
            (author, turn): feedback
            for (author, turn), feedback in state.feedback.items()
            if author != person and turn in replied
        }
        state.members.discard(person)
        state.generation = next(self._numbers)
        return messages, erased

    def _has_words_of(self, state: ConversationModel, oldest: Turn, person: str) -> bool:
        """Return True when the oldest turn may contain the person's words: they steer it, or it
        continues a skill whose question contains them."""
        resumes = state.pending_question is not None and person in state.question_people
        begun = bool(state.fence or oldest.entries)
        return any(inbox_message.person == person for inbox_message in oldest.steering) or (
            resumes and begun
        )

    def _forget_question(self, state: ConversationModel, person: str) -> None:
        if person in state.question_people:
            state.pending_question, state.question_people = None, set()

    def _drop_events(self, state: ConversationModel, person: str, silent: set[str]) -> int:
        def stays(event: Event) -> bool:
            if isinstance(event, Received):
                return event.person != person
            return event.turn not in silent

        kept = [event for event in state.events if stays(event)]
        erased = len(state.events) - len(kept)
        state.events, state.gone = kept, 0
        return erased


def _reply(entries: Sequence[LogEntry]) -> str:
    said = ""
    for entry in entries:
        if isinstance(entry, Text):
            said += entry.text
        elif isinstance(entry, TextReset):
            said = said[: entry.position]
    return said


def _check(turn: Turn, entries: Sequence[LogEntry]) -> None:
    for number, entry in enumerate(entries):
        length = len(_reply([*turn.entries, *entries[:number]]))
        if isinstance(entry, Text) and entry.position != length:
            raise IndexConflict
        if isinstance(entry, TextReset) and entry.position > length:
            raise IndexConflict


def _user_entry(turn: str, inbox_message: InboxMessage) -> HistoryEntry:
    return HistoryEntry(
        role="user",
        text=inbox_message.message.text,
        turn=turn,
        at=inbox_message.accepted_at,
        person=inbox_message.person,
        attachments=inbox_message.message.attachments or msgspec.UNSET,
    )


def _assistant_entry(turn: Turn, finished: Finished, now: float) -> HistoryEntry:
    return HistoryEntry(
        role="assistant",
        text=turn.reply,
        turn=turn.id,
        at=now,
        skill=turn.skill,
        outcome=finished.outcome,
    )


def _received(turn: str, message: Message, ahead: int, *, moved: bool = False) -> Received:
    return Received(
        turn=turn,
        id=message.id,
        person=message.person,
        text=message.text,
        attachments=message.attachments or msgspec.UNSET,
        ahead=ahead,
        moved=moved,
    )
