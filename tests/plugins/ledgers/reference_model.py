"""A ledger written down as plainly as it can be: what every ledger must show, and no more.

Nothing is stored that follows from something else: a reply is read from the entries, what is due
from the times. Turns are called ``turn-1``, ``turn-2``, …; fences are numbers of this model's own.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from palaver.errors import Conflict, Fenced, IndexConflict, TooMany
from palaver.ledger import (
    INBOX_LIMIT,
    MAX_MERGE_WINDOWS,
    Claim,
    ConcurrencyPolicies,
    ConcurrencyPolicy,
    DeadLetter,
    HistoryEntry,
    LogEntry,
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
    entries: list[LogEntry] = field(default_factory=list)
    last_write: tuple[int, tuple[LogEntry, ...], int] | None = None
    """The write that may be repeated: index, entries, and the offset that it reached."""

    @property
    def person(self) -> str:
        return self.inbox_messages[0].person

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(post.message for post in self.inbox_messages)

    @property
    def steering_messages(self) -> tuple[Message, ...]:
        return tuple(post.message for post in self.steering)

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
class ConversationModel:
    """A conversation; ``life`` tells it from an earlier one of its name, and from itself before
    an erasure."""

    conversation: Conversation
    generation: int
    turns: list[Turn] = field(default_factory=list)
    fence: int = 0  # the fence, 0 when no turn is claimed
    lease_expires_at: float = 0.0
    events: list[Event] = field(default_factory=list)
    history: list[tuple[str, HistoryEntry]] = field(default_factory=list)
    dedupe_records: dict[str, tuple[str, InboxMessage]] = field(default_factory=dict)
    settled: dict[str, tuple[int, int, tuple[LogEntry, ...], Progress]] = field(
        default_factory=dict
    )
    pending_question: PendingQuestion | None = None
    question_people: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)

    def next_due_at(self) -> float:
        if not self.turns:
            return float("inf")
        return self.lease_expires_at if self.fence else self.turns[0].due_at

    def position_of(self, turn: str) -> int:
        return next((n for n, each in enumerate(self.turns) if each.id == turn), 0)

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
    """``now`` is the clock, which the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.conversations: dict[Conversation, ConversationModel] = {}
        self.memories: dict[tuple[str, str, str], str] = {}
        self.dead_letters_by_owner: list[tuple[str, DeadLetter]] = []
        self._numbers = count(1)

    # Accepting

    def accept(self, message: Message, policies: ConcurrencyPolicies) -> Receipt:
        talk = self.conversations.get(message.conversation)
        if talk is not None and message.id in talk.dedupe_records:
            turn, post = talk.dedupe_records[message.id]
            if self.now - post.accepted_at < DAY:
                if post.message.digest != message.digest:
                    raise Conflict
                return Receipt(turn=turn, ahead=talk.position_of(turn), duplicate=True)
        if talk is None:
            talk = ConversationModel(message.conversation, next(self._numbers))
            self.conversations[message.conversation] = talk
        if talk.waiting_messages >= INBOX_LIMIT:
            raise TooMany
        post = InboxMessage(message, self.now)
        policy = self._policy(talk, policies)
        joined = self._find_turn_to_join(talk, post, policy, policies.merge_window)
        turn_of = joined or self._add_turn(talk, post, policy, policies.merge_window)
        talk.members.add(message.person)
        talk.dedupe_records[message.id] = (turn_of.id, post)
        ahead = talk.position_of(turn_of.id)
        talk.events.append(_received(turn_of.id, message, ahead))
        return Receipt(turn=turn_of.id, ahead=ahead, duplicate=False, joined=joined is not None)

    def _policy(self, talk: ConversationModel, policies: ConcurrencyPolicies) -> ConcurrencyPolicy:
        skill = talk.running.skill if talk.running else ""
        return policies.skills.get(skill, policies.default)

    def _find_turn_to_join(
        self, talk: ConversationModel, post: InboxMessage, policy: ConcurrencyPolicy, window: float
    ) -> Turn | None:
        running = talk.running
        if post.message.skill or not talk.turns:
            return None
        if policy == "steer" and running is not None and not running.stop_requested:
            running.steering.append(post)
            return running
        turn: Turn | None = None
        if policy == "merge" and self.now < talk.turns[-1].due_at:
            turn = talk.turns[-1]
        elif policy == "interrupt" and running is not None:
            turn = talk.find(running.successor)
        if turn is None or turn.stop_requested or turn.person != post.person:
            return None
        turn.inbox_messages.append(post)
        if policy == "merge":
            turn.due_at = min(
                self.now + window, turn.inbox_messages[0].accepted_at + MAX_MERGE_WINDOWS * window
            )
        return turn

    def _add_turn(
        self, talk: ConversationModel, post: InboxMessage, policy: ConcurrencyPolicy, window: float
    ) -> Turn:
        turn = self._make_turn([post], self.now + (window if policy == "merge" else 0.0))
        running = talk.running
        if (
            policy == "interrupt"
            and running is not None
            and not running.stop_requested
            and running.person == post.person
            and len(running.interrupted) + len(running.inbox_messages) < INBOX_LIMIT
        ):
            running.stop_requested, running.successor = True, turn.id
        talk.turns.append(turn)
        return turn

    def _make_turn(self, posts: list[InboxMessage], due: float) -> Turn:
        return Turn(f"turn-{next(self._numbers)}", posts, due)

    # Running

    def claimable(self) -> list[Conversation]:
        return [
            where for where, talk in self.conversations.items() if talk.next_due_at() <= self.now
        ]

    def claim(self, where: Conversation, lease: float, history: int) -> Claim:
        """Claim the oldest turn of that conversation, which must be due."""
        talk = self.conversations[where]
        turn = talk.turns[0]
        turn.failed_attempts += bool(talk.fence)
        turn.last_write = None
        talk.fence, talk.lease_expires_at = next(self._numbers), self.now + lease
        return Claim(
            turn=turn.id,
            messages=turn.messages,
            interrupted=turn.interrupted,
            steering_messages=turn.steering_messages,
            fence=talk.fence,
            attempt=turn.failed_attempts + 1,
            index=len(turn.entries),
            reply=turn.reply,
            journal=turn.journal,
            history=self._history(talk, history),
            pending_question=talk.pending_question,
            stop_requested=turn.stop_requested,
        )

    def _history(self, talk: ConversationModel, lines: int) -> tuple[HistoryEntry, ...]:
        return tuple(line for _, line in talk.history)[-lines:] if lines else ()

    def append(
        self, claim: Claim, entries: tuple[LogEntry, ...], *, expect: int, lease: float
    ) -> Progress:
        talk, turn = self._owned(claim)
        if expect != len(turn.entries):
            if turn.last_write is None or (expect, entries) != turn.last_write[:2]:
                raise IndexConflict
            talk.lease_expires_at = self.now + lease
            return Progress(
                len(turn.entries), turn.last_write[2], turn.stop_requested, len(turn.steering)
            )
        _check(turn, entries)
        talk.lease_expires_at = self.now + lease
        return self._write(talk, turn, entries, expect)

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
        talk, turn = self._owned(claim)
        if expect != len(turn.entries) or not entries or not isinstance(entries[-1], Finished):
            raise IndexConflict
        _check(turn, entries)
        if [m.id for m in taken_steering] != [
            m.id for m in turn.steering_messages[: len(taken_steering)]
        ]:
            raise IndexConflict
        self._write(talk, turn, entries, expect)
        self._close(talk, turn, entries[-1], len(taken_steering), dead_letter_reason)
        talk.question_people |= {turn.person, *(message.person for message in taken_steering)}
        talk.question_people |= {pending_question.message.person} if pending_question else set()
        talk.pending_question = pending_question
        talk.question_people = talk.question_people if pending_question else set()
        progress = Progress(
            len(turn.entries), len(talk.events), turn.stop_requested, len(turn.steering)
        )
        talk.settled[turn.id] = (claim.fence, expect, entries, progress)
        return progress

    def _close(
        self, talk: ConversationModel, turn: Turn, finished: Finished, taken: int, dead: str
    ) -> None:
        talk.turns.remove(turn)
        talk.fence = 0
        answered = turn.inbox_messages + turn.steering[:taken]
        talk.history += [(post.person, _user_entry(turn.id, post)) for post in answered] + [
            (turn.person, _assistant_entry(turn, finished, self.now))
        ]
        follower = talk.find(turn.successor)
        if finished.outcome == "stopped" and follower is not None:
            follower.interrupted = turn.interrupted + turn.messages
        if dead:
            messages = turn.interrupted + tuple(post.message for post in answered)
            self._store_dead_letter(turn, messages, dead)
        self._move_steering(talk, turn.steering[taken:])

    def _store_dead_letter(self, turn: Turn, messages: tuple[Message, ...], why: str) -> None:
        letter = DeadLetter(
            turn=turn.id,
            messages=messages,
            attempt=turn.failed_attempts + 1,
            reply=turn.reply,
            skill=turn.skill,
            reason=why,
            at=self.now,
        )
        self.dead_letters_by_owner.append((turn.person, letter))

    def _move_steering(self, talk: ConversationModel, posts: list[InboxMessage]) -> None:
        """The next turn has the first person's first messages, and the rest steer it."""
        if not posts:
            return
        own = 1
        while own < len(posts) and posts[own].person == posts[0].person:
            own += 1
        turn = self._make_turn(posts[:own], self.now)
        turn.steering = posts[own:]
        talk.turns.insert(0, turn)
        for post in posts:
            talk.events.append(_received(turn.id, post.message, 0, moved=True))
            if talk.dedupe_records.get(post.message.id, ("", None))[1] is post:
                talk.dedupe_records[post.message.id] = (turn.id, post)

    def _write(
        self, talk: ConversationModel, turn: Turn, entries: tuple[LogEntry, ...], expect: int
    ) -> Progress:
        turn.entries += entries
        talk.events += [entry for entry in entries if not isinstance(entry, Step)]
        if entries:
            turn.last_write = (expect, entries, len(talk.events))
        return Progress(
            len(turn.entries), len(talk.events), turn.stop_requested, len(turn.steering)
        )

    def _owned(self, claim: Claim) -> tuple[ConversationModel, Turn]:
        talk = self.conversations.get(claim.conversation)
        if talk is None or talk.fence != claim.fence:
            raise Fenced
        return talk, talk.turns[0]

    def _repeated_settle(
        self, claim: Claim, entries: tuple[LogEntry, ...], expect: int
    ) -> Progress | None:
        talk = self.conversations.get(claim.conversation)
        if talk is None or claim.turn not in talk.settled:
            return None
        fence, expected, written, progress = talk.settled[claim.turn]
        if fence != claim.fence:
            raise Fenced
        if (expected, written) != (expect, entries):
            raise IndexConflict
        return progress

    def steering(self, claim: Claim) -> tuple[Message, ...]:
        return self._owned(claim)[1].steering_messages

    def release(self, claim: Claim) -> None:
        talk, _ = self._owned(claim)
        talk.fence = 0

    def stop(self, where: Conversation, turn: str | None) -> tuple[StopState, str]:
        talk = self.conversations.get(where)
        if talk is None:
            return "unknown", ""
        found = talk.turns[0] if turn is None and talk.turns else talk.find(turn or "")
        if found is not None:
            found.stop_requested = True
            return "stopping", found.id
        return ("settled", turn) if turn in talk.settled else ("unknown", "")

    # Reading

    def snapshot(self, where: Conversation, lines: int) -> dict[str, Any]:
        talk = self.conversations.get(where)
        if talk is None:
            return {"offset": 0, "history": (), "pending": ()}
        pending = tuple(
            PendingTurn(
                turn=turn.id,
                messages=turn.messages + turn.steering_messages,
                running=turn is talk.running,
                reply=turn.reply,
                skill=turn.skill,
            )
            for turn in talk.turns
        )
        history = self._history(talk, lines)
        return {"offset": len(talk.events), "history": history, "pending": pending}

    def events(self, where: Conversation) -> list[Event]:
        return self.conversations[where].events if where in self.conversations else []

    def members(self, where: Conversation) -> set[str]:
        return self.conversations[where].members if where in self.conversations else set()

    def depth(self) -> tuple[int, int]:
        running = sum(bool(talk.fence) for talk in self.conversations.values())
        return sum(len(talk.turns) for talk in self.conversations.values()) - running, running

    def unsettled(self) -> Counter[tuple[str, str]]:
        """Return how many turns are unsettled, by tenant and person."""
        return Counter(
            (where.tenant, turn.person)
            for where, talk in self.conversations.items()
            for turn in talk.turns
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

    def remember(self, tenant: str, person: str, key: str, value: str | None) -> None:
        self.memories.pop((tenant, person, key), None)
        if value is not None:
            self.memories[tenant, person, key] = value

    def export(self, tenant: str, person: str) -> dict[str, Any]:
        talks = list(self._conversations_of(tenant, person))
        conversations = {
            str(talk.conversation): lines
            for talk in talks
            if (lines := [line for owner, line in talk.history if owner == person])
        }
        pending = [
            post.message
            for talk in talks
            for turn in talk.turns
            for post in turn.inbox_messages + turn.steering
            if post.person == person
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
            "memories": self._memories_of(tenant, person),
        }

    def erase(self, tenant: str, person: str) -> dict[str, int]:
        talks = list(self._conversations_of(tenant, person))
        gone = [self._erase_from(talk, person) for talk in talks]
        letters = 0
        for owner, letter in self._dead_letters_of(tenant):
            letters += any(message.person == person for message in letter.messages)
            self._erase_from_dead_letter(owner, letter, person)
        memories = self._memories_of(tenant, person)
        for key in memories:
            del self.memories[tenant, person, key]
        return {
            "conversations": len(talks),
            "messages": sum(messages for messages, _ in gone),
            "events": sum(events for _, events in gone),
            "dead_letters": letters,
            "memories": len(memories),
        }

    def _conversations_of(self, tenant: str, person: str) -> Iterator[ConversationModel]:
        for where, talk in self.conversations.items():
            if where.tenant == tenant and person in talk.members:
                yield talk

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
            left = tuple(message for message in letter.messages if message.person != person)
            fields = {name: getattr(letter, name) for name in letter.__struct_fields__}
            kept = DeadLetter(**(fields | {"messages": left}))
            self.dead_letters_by_owner.append((owner, kept))
            self.dead_letters_by_owner.sort(key=lambda each: each[1].at)

    def _erase_from(self, talk: ConversationModel, person: str) -> tuple[int, int]:
        theirs = {turn.id for turn in talk.turns if turn.person == person}
        theirs |= {line.turn for owner, line in talk.history if owner == person and not line.person}
        messages = sum(line.person == person for _, line in talk.history)
        messages += sum(
            post.person == person
            for turn in talk.turns
            for post in turn.inbox_messages + turn.steering
        )
        if talk.members == {person}:
            del self.conversations[talk.conversation]
            return messages, len(talk.events)
        head = talk.turns[0] if talk.turns else None
        anew = head is not None and head.id not in theirs and self._has_words_of(talk, head, person)
        gone = self._drop_events(talk, person, theirs | ({head.id} if head and anew else set()))
        self._forget_question(talk, person)
        left = [post for post in (head.steering if head else ()) if post.person != person]
        talk.turns = [turn for turn in talk.turns if turn.person != person]
        if head is not None and head.id in theirs:
            talk.fence = 0
            self._move_steering(talk, left)
        elif head is not None:
            head.steering = left
            if anew:
                head.entries, head.last_write, talk.fence = [], None, 0
        talk.history = [each for each in talk.history if each[0] != person]
        talk.dedupe_records = {
            i: mark for i, mark in talk.dedupe_records.items() if mark[1].person != person
        }
        talk.settled = {turn: each for turn, each in talk.settled.items() if turn not in theirs}
        talk.members.discard(person)
        talk.generation = next(self._numbers)
        return messages, gone

    def _has_words_of(self, talk: ConversationModel, head: Turn, person: str) -> bool:
        """Whether what the oldest turn has put out may hold a person's words: they steer it, or
        it goes on with a skill that asked and knows them."""
        resumes = talk.pending_question is not None and person in talk.question_people
        begun = bool(talk.fence or head.entries)
        return any(post.person == person for post in head.steering) or (resumes and begun)

    def _forget_question(self, talk: ConversationModel, person: str) -> None:
        if person in talk.question_people:
            talk.pending_question, talk.question_people = None, set()

    def _drop_events(self, talk: ConversationModel, person: str, silent: set[str]) -> int:
        def stays(event: Event) -> bool:
            if isinstance(event, Received):
                return event.person != person
            return event.turn not in silent

        kept = [event for event in talk.events if stays(event)]
        gone = len(talk.events) - len(kept)
        talk.events = kept
        return gone


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


def _user_entry(turn: str, post: InboxMessage) -> HistoryEntry:
    return HistoryEntry(
        role="user", text=post.message.text, turn=turn, at=post.accepted_at, person=post.person
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
        turn=turn, id=message.id, person=message.person, text=message.text, ahead=ahead, moved=moved
    )
