"""MemoryLedger: the whole `Ledger` protocol in plain objects, for tests and as the reference.

It keeps every rule of the protocol except durability: what it holds dies with the process.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

import msgspec

from palaver.errors import Fenced, IndexConflict, TooMany
from palaver.ledger import (
    MAX_DEAD_LETTERS,
    QUEUE_ALL,
    Claim,
    ConcurrencyPolicies,
    DeadLetter,
    Erasure,
    Export,
    Guarantee,
    HistoryEntry,
    LogEntry,
    OnChange,
    Page,
    PendingQuestion,
    PendingTurn,
    Progress,
    QueueDepth,
    Receipt,
    Snapshot,
    StopState,
)
from palaver.messages import (
    Conversation,
    Cursor,
    Event,
    Message,
    StoredEvent,
    new_id,
)
from palaver.testing.conversation_state import (
    ConversationState,
    InboxMessage,
    LastWrite,
    OpenTurn,
    SettledTurn,
    digest_of,
)
from palaver.testing.erasure import ErasedCounts, count_content, erase_from


class MemoryLedger:
    """A `Ledger` in memory.

    ``clock`` gives the time in seconds since the epoch; ``events_kept`` bounds the events held
    for a conversation once a turn has been settled.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.time, events_kept: int = 10_000
    ) -> None:
        self._clock = clock
        self._events_kept = events_kept
        self._epoch = new_id()
        self._conversations: dict[str, ConversationState] = {}
        self._memories: dict[tuple[str, str, str], str] = {}
        self._dead_letters: dict[str, tuple[str, DeadLetter]] = {}  # by turn, with whose it is
        self._ready: deque[ConversationState] = deque()
        self._timers: list[tuple[float, int, ConversationState]] = []
        """When a lease lapses or a burst is over; it may come too early, but never too late."""
        self._order = count()
        self._watchers: dict[str, list[OnChange]] = {}
        self._work = asyncio.Event()

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close; what is held stays, so a test may look at it."""

    # The walk of a turn

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        now = self._clock()
        name = str(message.conversation)
        held = self._conversations.get(name)
        if held is None:
            held = self._conversations[name] = ConversationState(message.conversation, self._epoch)
        elif earlier := held.find_duplicate(message, now):
            return earlier
        if held.waiting_messages >= policies.inbox_limit:
            raise TooMany(f"{policies.inbox_limit} messages wait in {name}", retry_after=1.0)
        post = InboxMessage(message, now)
        turn, joined = held.receive(post, policies)
        held.remember_id(post, turn)
        ahead = held.ahead_of(turn.id)
        if not ahead and not held.is_running:
            self._make_due(held)
        self._publish(held, [turn.received_event(message, ahead=ahead)])
        return Receipt(turn=turn.id, ahead=ahead, duplicate=False, joined=joined)

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109 (the protocol's)
        if self._timers:
            timeout = min(timeout, max(0.0, self._timers[0][0] - self._clock()))
        try:
            async with asyncio.timeout(timeout):
                await self._work.wait()
        except TimeoutError:
            pass

    async def claim(self, worker: str, *, lease: float, history: int) -> Claim | None:
        now = self._clock()
        held = self._next_due(now)
        if held is None:
            self._work.clear()
            return None
        turn = held.inbox[0]
        if held.is_running:
            turn.failed_attempts += 1
        held.is_running = True
        held.fence += 1
        held.lease_expires_at = now + lease
        turn.last_write = None
        self._schedule_check(held, held.lease_expires_at)
        return Claim(
            turn=turn.id,
            messages=turn.messages,
            interrupted=turn.interrupted,
            steering_messages=turn.steering_messages,
            fence=held.fence,
            attempt=turn.failed_attempts + 1,
            index=turn.index,
            reply=turn.reply,
            journal=tuple(turn.journal[number] for number in sorted(turn.journal)),
            history=held.newest_history(history),
            pending_question=held.pending_question,
            stop_requested=turn.stop_requested,
        )

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        held, turn = self._owned(claim)
        earlier = turn.earlier(entries, expect)
        if earlier is None:
            turn.check(entries)
        held.lease_expires_at = self._clock() + lease
        return earlier or self._write(held, turn, entries, expect)

    async def settle(
        self,
        claim: Claim,
        entries: Sequence[LogEntry],
        *,
        expect: int,
        pending_question: PendingQuestion | None = None,
        taken_steering: Sequence[Message] = (),
        dead_letter_reason: str = "",
    ) -> Progress:
        if earlier := self._repeated_settle(claim, entries, expect):
            return earlier
        held, turn = self._owned(claim)
        finished = turn.check_end(entries, expect)
        turn.check_steered(taken_steering)
        now = self._clock()
        self._write(held, turn, entries, expect)
        if dead_letter_reason:
            self._store_dead_letter(turn, taken_steering, dead_letter_reason, now)
        held.set_pending_question(
            pending_question, {message.person for message in (*turn.messages, *taken_steering)}
        )
        if moved := held.close(finished, len(taken_steering), now):
            self._publish(held, list(moved.moved_events()))
        progress = Progress(turn.index, held.last_offset, turn.stop_requested, len(turn.steering))
        held.settled_turns[turn.id] = SettledTurn(claim.fence, expect, digest_of(entries), progress)
        self._end_claim(held)
        held.trim(self._events_kept, now)
        return progress

    async def read_steering(self, claim: Claim) -> tuple[Message, ...]:
        _, turn = self._owned(claim)
        return turn.steering_messages

    async def release(self, claim: Claim) -> None:
        held, _ = self._owned(claim)
        self._end_claim(held)

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        held = self._conversations.get(str(conversation))
        if held is None:
            return "unknown", ""
        for queued in held.inbox:
            if turn is None or queued.id == turn:
                queued.stop_requested = True
                return "stopping", queued.id
        if turn is not None and turn in held.settled_turns:
            return "settled", turn
        return "unknown", ""

    # Reading

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        held = self._conversations.get(str(conversation))
        if held is None:
            return Page(self._epoch, 1, 0, ())
        start = max(after + 1, held.first_offset)
        events = islice(
            held.events, start - held.first_offset, start - held.first_offset + max(limit, 0)
        )
        recorded = tuple(StoredEvent(start + step, event) for step, event in enumerate(events))
        return Page(held.epoch, held.first_offset, held.last_offset, recorded)

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        name = str(conversation)
        self._watchers.setdefault(name, []).append(on_change)

        def unwatch() -> None:
            hints = self._watchers.get(name, [])
            if on_change in hints:
                hints.remove(on_change)
            if not hints:
                self._watchers.pop(name, None)

        return unwatch

    async def snapshot(self, conversation: Conversation, history: int) -> Snapshot:
        held = self._conversations.get(str(conversation))
        if held is None:
            return Snapshot(cursor=Cursor(self._epoch, 0), history=(), pending=())
        pending = tuple(
            PendingTurn(
                turn=turn.id,
                messages=(*turn.messages, *turn.steering_messages),
                running=held.is_running and position == 0,
                reply=turn.reply,
                skill=turn.skill,
            )
            for position, turn in enumerate(held.inbox)
        )
        cursor = Cursor(held.epoch, held.last_offset)
        return Snapshot(cursor=cursor, history=held.newest_history(history), pending=pending)

    async def members(self, conversation: Conversation) -> frozenset[str]:
        held = self._conversations.get(str(conversation))
        return frozenset(held.members) if held else frozenset()

    async def queue_depth(self) -> QueueDepth:
        running = sum(held.is_running for held in self._conversations.values())
        unsettled = sum(len(held.inbox) for held in self._conversations.values())
        return QueueDepth(queued=unsettled - running, running=running)

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        newest = sorted(self._dead_letters.values(), key=lambda letter: -letter[1].at)
        return tuple(letter for _, letter in newest[: max(limit, 0)])

    async def discard_dead_letter(self, turn: str) -> bool:
        return self._dead_letters.pop(turn, None) is not None

    # People

    async def remember(self, tenant: str, person: str, key: str, value: str | None) -> None:
        if value is None:
            self._memories.pop((tenant, person, key), None)
        else:
            self._memories[tenant, person, key] = value

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        return self._memories.get((tenant, person, key))

    async def export(self, tenant: str, person: str) -> Export:
        conversations: dict[str, tuple[HistoryEntry, ...]] = {}
        pending: list[Message] = []
        for held in self._conversations_of(tenant, person):
            if lines := tuple(line.entry for line in held.history if line.owner == person):
                conversations[held.name] = lines
            pending += [m for turn in held.inbox for m in (*turn.messages, *turn.steering_messages)]
        pending += [m for _, letter in self._dead_letters_of(tenant) for m in letter.messages]
        return Export(
            tenant=tenant,
            person=person,
            conversations=conversations,
            pending=tuple(message for message in pending if message.person == person),
            memories=self._memories_of(tenant, person),
            at=self._clock(),
        )

    async def erase(self, tenant: str, person: str) -> Erasure:
        all_held = list(self._conversations_of(tenant, person))
        gone = [self._erase_from(held, person) for held in all_held]
        letters = self._erase_dead_letters(tenant, person)
        memories = self._memories_of(tenant, person)
        for key in memories:
            del self._memories[tenant, person, key]
        self._epoch = new_id()  # a conversation that begins anew must not resume the erased one
        for held in all_held:
            for hint in tuple(self._watchers.get(held.name, ())):
                hint(())
        return Erasure(
            tenant=tenant,
            person=person,
            conversations=len(all_held),
            messages=sum(part.messages for part in gone),
            events=sum(part.events for part in gone),
            dead_letters=letters,
            memories=len(memories),
            at=self._clock(),
        )

    async def guarantee(self) -> Guarantee:
        return Guarantee(
            promises=("Turns of a conversation run one at a time, in order.",),
            limitations=("Nothing survives the end of the process.",),
        )

    # Below the surface

    def _owned(self, claim: Claim) -> tuple[ConversationState, OpenTurn]:
        """The running turn of ``claim``. Raises `Fenced` when another claim holds it."""
        held = self._conversations.get(str(claim.conversation))
        if (
            held is None
            or not held.is_running
            or held.fence != claim.fence
            or held.inbox[0].id != claim.turn
        ):
            raise Fenced(f"turn {claim.turn}: the claim with fence {claim.fence} is over")
        return held, held.inbox[0]

    def _repeated_settle(
        self, claim: Claim, entries: Sequence[LogEntry], expect: int
    ) -> Progress | None:
        held = self._conversations.get(str(claim.conversation))
        closed = held.settled_turns.get(claim.turn) if held else None
        if closed is None:
            return None
        if closed.fence != claim.fence:
            raise Fenced(f"turn {claim.turn}: another claim settled it")
        if (closed.expect, closed.digest) != (expect, digest_of(entries)):
            raise IndexConflict(f"turn {claim.turn}: it was settled otherwise")
        return closed.progress

    def _write(
        self, held: ConversationState, turn: OpenTurn, entries: Sequence[LogEntry], expect: int
    ) -> Progress:
        if events := turn.apply(entries):
            self._publish(held, events)
        progress = Progress(turn.index, held.last_offset, turn.stop_requested, len(turn.steering))
        if entries:
            turn.last_write = LastWrite(expect, digest_of(entries), held.last_offset)
        return progress

    def _publish(self, held: ConversationState, events: list[Event]) -> None:
        start = held.last_offset + 1
        held.events += events
        if hints := self._watchers.get(held.name):
            recorded = tuple(StoredEvent(start + step, event) for step, event in enumerate(events))
            for hint in tuple(hints):
                hint(recorded)

    def _store_dead_letter(
        self, turn: OpenTurn, steered: Sequence[Message], why: str, now: float
    ) -> None:
        letter = DeadLetter(
            turn=turn.id,
            messages=(*turn.interrupted, *turn.messages, *steered),
            attempt=turn.failed_attempts + 1,
            reply=turn.reply,
            skill=turn.skill,
            reason=why,
            at=now,
        )
        self._dead_letters[turn.id] = (turn.person, letter)
        if len(self._dead_letters) > MAX_DEAD_LETTERS:
            del self._dead_letters[next(iter(self._dead_letters))]

    # What is due

    def _make_due(self, held: ConversationState) -> None:
        if not held.is_ready:
            held.is_ready = True
            self._ready.append(held)
        self._work.set()

    def _end_claim(self, held: ConversationState) -> None:
        """End the claim; the conversation is due again when turns wait."""
        held.is_running = False
        if held.inbox:
            self._make_due(held)

    def _next_due(self, now: float) -> ConversationState | None:
        while self._timers and self._timers[0][0] <= now:
            _, _, held = heapq.heappop(self._timers)
            self._make_due(held)
        while self._ready:
            held = self._ready.popleft()
            held.is_ready = False
            if held.inbox:  # empty when its last turn was settled late, or erased
                due = held.lease_expires_at if held.is_running else held.inbox[0].due_at
                if due <= now:
                    return held
                self._schedule_check(held, due)
        return None

    def _schedule_check(self, held: ConversationState, at: float) -> None:
        heapq.heappush(self._timers, (at, next(self._order), held))

    # People

    def _conversations_of(self, tenant: str, person: str) -> Iterator[ConversationState]:
        for held in self._conversations.values():
            if held.conversation.tenant == tenant and person in held.members:
                yield held

    def _dead_letters_of(self, tenant: str) -> list[tuple[str, DeadLetter]]:
        return [
            letter
            for letter in self._dead_letters.values()
            if letter[1].messages[0].conversation.tenant == tenant
        ]

    def _memories_of(self, tenant: str, person: str) -> dict[str, str]:
        return {
            key: value
            for (owner, who, key), value in self._memories.items()
            if owner == tenant and who == person
        }

    def _erase_from(self, held: ConversationState, person: str) -> ErasedCounts:
        if held.members == {person}:
            self._delete(held)
            return count_content(held, person)
        gone = erase_from(held, person, self._clock())
        if gone.fenced or not held.is_running:  # the oldest turn may be another one now
            self._end_claim(held)
        return gone

    def _delete(self, held: ConversationState) -> None:
        del self._conversations[held.name]
        self._ready = deque(due for due in self._ready if due is not held)
        self._timers = [later for later in self._timers if later[2] is not held]
        heapq.heapify(self._timers)

    def _erase_dead_letters(self, tenant: str, person: str) -> int:
        touched = 0
        for owner, letter in self._dead_letters_of(tenant):
            left = tuple(message for message in letter.messages if message.person != person)
            touched += len(left) < len(letter.messages)
            if owner == person:
                del self._dead_letters[letter.turn]
            else:
                self._dead_letters[letter.turn] = (
                    owner,
                    msgspec.structs.replace(letter, messages=left),
                )
        return touched
