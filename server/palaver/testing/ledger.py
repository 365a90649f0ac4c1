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
    Closing,
    ConversationState,
    InboxMessage,
    OpenTurn,
    Write,
    digest_of,
)
from palaver.testing.erasing import Gone, count_all, erase_from


class MemoryLedger:
    """A `Ledger` in memory.

    ``clock`` gives the time in seconds since the epoch; ``events_kept`` bounds the events held
    for a conversation once a turn has been settled.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.time, events_kept: int = 10_000
    ) -> None:
        self._clock = clock
        self._kept = events_kept
        self._epoch = new_id()
        self._all: dict[str, ConversationState] = {}
        self._memories: dict[tuple[str, str, str], str] = {}
        self._dead: dict[str, tuple[str, DeadLetter]] = {}  # by turn, with whose it is
        self._ready: deque[ConversationState] = deque()
        self._later: list[tuple[float, int, ConversationState]] = []
        """When a lease lapses or a burst is over; it may come too early, but never too late."""
        self._order = count()
        self._hints: dict[str, list[OnChange]] = {}
        self._work = asyncio.Event()

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close; what is held stays, so a test may look at it."""

    # The walk of a turn

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        now = self._clock()
        name = str(message.conversation)
        held = self._all.get(name)
        if held is None:
            held = self._all[name] = ConversationState(message.conversation, self._epoch)
        elif earlier := held.known(message, now):
            return earlier
        if held.messages_waiting >= policies.inbox_limit:
            raise TooMany(f"{policies.inbox_limit} messages wait in {name}", retry_after=1.0)
        post = InboxMessage(message, now)
        turn, joined = held.receive(post, policies)
        held.mark(post, turn)
        ahead = held.ahead_of(turn.id)
        if not ahead and not held.running:
            self._make_due(held)
        self._publish(held, [turn.received(message, ahead=ahead)])
        return Receipt(turn=turn.id, ahead=ahead, duplicate=False, joined=joined)

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109 (the protocol's)
        if self._later:
            timeout = min(timeout, max(0.0, self._later[0][0] - self._clock()))
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
        if held.running:
            turn.failed += 1
        held.running = True
        held.fence += 1
        held.lapse = now + lease
        turn.written = None
        self._look_again(held, held.lapse)
        return Claim(
            turn=turn.id,
            messages=turn.messages,
            interrupted=turn.interrupted,
            steering_messages=turn.steered,
            fence=held.fence,
            attempt=turn.failed + 1,
            index=turn.index,
            reply=turn.reply,
            journal=tuple(turn.journal[number] for number in sorted(turn.journal)),
            history=held.lines(history),
            pending_question=held.waiting,
            stop_requested=turn.stop,
        )

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        held, turn = self._owned(claim)
        earlier = turn.earlier(entries, expect)
        if earlier is None:
            turn.check(entries)
        held.lapse = self._clock() + lease
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
        if earlier := self._settled_before(claim, entries, expect):
            return earlier
        held, turn = self._owned(claim)
        finished = turn.check_end(entries, expect)
        turn.check_steered(taken_steering)
        now = self._clock()
        self._write(held, turn, entries, expect)
        if dead_letter_reason:
            self._bury(turn, taken_steering, dead_letter_reason, now)
        held.ask(
            pending_question, {message.person for message in (*turn.messages, *taken_steering)}
        )
        if moved := held.close(finished, len(taken_steering), now):
            self._publish(held, list(moved.received_anew()))
        progress = Progress(turn.index, held.last, turn.stop, len(turn.steering))
        held.closed[turn.id] = Closing(claim.fence, expect, digest_of(entries), progress)
        self._hand_on(held)
        held.trim(self._kept, now)
        return progress

    async def read_steering(self, claim: Claim) -> tuple[Message, ...]:
        _, turn = self._owned(claim)
        return turn.steered

    async def release(self, claim: Claim) -> None:
        held, _ = self._owned(claim)
        self._hand_on(held)

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        held = self._all.get(str(conversation))
        if held is None:
            return "unknown", ""
        for queued in held.inbox:
            if turn is None or queued.id == turn:
                queued.stop = True
                return "stopping", queued.id
        if turn is not None and turn in held.closed:
            return "settled", turn
        return "unknown", ""

    # Reading

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        held = self._all.get(str(conversation))
        if held is None:
            return Page(self._epoch, 1, 0, ())
        start = max(after + 1, held.first)
        events = islice(held.events, start - held.first, start - held.first + max(limit, 0))
        recorded = tuple(StoredEvent(start + step, event) for step, event in enumerate(events))
        return Page(held.epoch, held.first, held.last, recorded)

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        name = str(conversation)
        self._hints.setdefault(name, []).append(on_change)

        def unwatch() -> None:
            hints = self._hints.get(name, [])
            if on_change in hints:
                hints.remove(on_change)
            if not hints:
                self._hints.pop(name, None)

        return unwatch

    async def snapshot(self, conversation: Conversation, history: int) -> Snapshot:
        held = self._all.get(str(conversation))
        if held is None:
            return Snapshot(cursor=Cursor(self._epoch, 0), history=(), pending=())
        pending = tuple(
            PendingTurn(
                turn=turn.id,
                messages=(*turn.messages, *turn.steered),
                running=held.running and position == 0,
                reply=turn.reply,
                skill=turn.skill,
            )
            for position, turn in enumerate(held.inbox)
        )
        cursor = Cursor(held.epoch, held.last)
        return Snapshot(cursor=cursor, history=held.lines(history), pending=pending)

    async def members(self, conversation: Conversation) -> frozenset[str]:
        held = self._all.get(str(conversation))
        return frozenset(held.members) if held else frozenset()

    async def queue_depth(self) -> QueueDepth:
        running = sum(held.running for held in self._all.values())
        unsettled = sum(len(held.inbox) for held in self._all.values())
        return QueueDepth(queued=unsettled - running, running=running)

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        newest = sorted(self._dead.values(), key=lambda letter: -letter[1].at)
        return tuple(letter for _, letter in newest[: max(limit, 0)])

    async def discard_dead_letter(self, turn: str) -> bool:
        return self._dead.pop(turn, None) is not None

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
        for held in self._all_of(tenant, person):
            if lines := tuple(line.exchange for line in held.history if line.owner == person):
                conversations[held.name] = lines
            pending += [m for turn in held.inbox for m in (*turn.messages, *turn.steered)]
        pending += [m for _, letter in self._letters_of(tenant) for m in letter.messages]
        return Export(
            tenant=tenant,
            person=person,
            conversations=conversations,
            pending=tuple(message for message in pending if message.person == person),
            memories=self._memories_of(tenant, person),
            at=self._clock(),
        )

    async def erase(self, tenant: str, person: str) -> Erasure:
        all_held = list(self._all_of(tenant, person))
        gone = [self._erase_from(held, person) for held in all_held]
        letters = self._erase_letters(tenant, person)
        memories = self._memories_of(tenant, person)
        for key in memories:
            del self._memories[tenant, person, key]
        self._epoch = new_id()  # a conversation that begins anew must not resume the erased one
        for held in all_held:
            for hint in tuple(self._hints.get(held.name, ())):
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
        held = self._all.get(str(claim.conversation))
        if (
            held is None
            or not held.running
            or held.fence != claim.fence
            or held.inbox[0].id != claim.turn
        ):
            raise Fenced(f"turn {claim.turn}: the claim with fence {claim.fence} is over")
        return held, held.inbox[0]

    def _settled_before(
        self, claim: Claim, entries: Sequence[LogEntry], expect: int
    ) -> Progress | None:
        held = self._all.get(str(claim.conversation))
        closed = held.closed.get(claim.turn) if held else None
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
        progress = Progress(turn.index, held.last, turn.stop, len(turn.steering))
        if entries:
            turn.written = Write(expect, digest_of(entries), held.last)
        return progress

    def _publish(self, held: ConversationState, events: list[Event]) -> None:
        start = held.last + 1
        held.events += events
        if hints := self._hints.get(held.name):
            recorded = tuple(StoredEvent(start + step, event) for step, event in enumerate(events))
            for hint in tuple(hints):
                hint(recorded)

    def _bury(self, turn: OpenTurn, steered: Sequence[Message], why: str, now: float) -> None:
        letter = DeadLetter(
            turn=turn.id,
            messages=(*turn.interrupted, *turn.messages, *steered),
            attempt=turn.failed + 1,
            reply=turn.reply,
            skill=turn.skill,
            reason=why,
            at=now,
        )
        self._dead[turn.id] = (turn.person, letter)
        if len(self._dead) > MAX_DEAD_LETTERS:
            del self._dead[next(iter(self._dead))]

    # What is due

    def _make_due(self, held: ConversationState) -> None:
        if not held.ready:
            held.ready = True
            self._ready.append(held)
        self._work.set()

    def _hand_on(self, held: ConversationState) -> None:
        """End the claim; the conversation is due again when turns wait."""
        held.running = False
        if held.inbox:
            self._make_due(held)

    def _next_due(self, now: float) -> ConversationState | None:
        while self._later and self._later[0][0] <= now:
            _, _, held = heapq.heappop(self._later)
            self._make_due(held)
        while self._ready:
            held = self._ready.popleft()
            held.ready = False
            if held.inbox:  # empty when its last turn was settled late, or erased
                due = held.lapse if held.running else held.inbox[0].due
                if due <= now:
                    return held
                self._look_again(held, due)
        return None

    def _look_again(self, held: ConversationState, at: float) -> None:
        heapq.heappush(self._later, (at, next(self._order), held))

    # People

    def _all_of(self, tenant: str, person: str) -> Iterator[ConversationState]:
        for held in self._all.values():
            if held.conversation.tenant == tenant and person in held.members:
                yield held

    def _letters_of(self, tenant: str) -> list[tuple[str, DeadLetter]]:
        return [
            letter
            for letter in self._dead.values()
            if letter[1].messages[0].conversation.tenant == tenant
        ]

    def _memories_of(self, tenant: str, person: str) -> dict[str, str]:
        return {
            key: value
            for (owner, who, key), value in self._memories.items()
            if owner == tenant and who == person
        }

    def _erase_from(self, held: ConversationState, person: str) -> Gone:
        if held.members == {person}:
            self._forget(held)
            return count_all(held, person)
        gone = erase_from(held, person, self._clock())
        if gone.fenced or not held.running:  # the oldest turn may be another one now
            self._hand_on(held)
        return gone

    def _forget(self, held: ConversationState) -> None:
        del self._all[held.name]
        self._ready = deque(due for due in self._ready if due is not held)
        self._later = [later for later in self._later if later[2] is not held]
        heapq.heapify(self._later)

    def _erase_letters(self, tenant: str, person: str) -> int:
        touched = 0
        for owner, letter in self._letters_of(tenant):
            left = tuple(message for message in letter.messages if message.person != person)
            touched += len(left) < len(letter.messages)
            if owner == person:
                del self._dead[letter.turn]
            else:
                self._dead[letter.turn] = (owner, msgspec.structs.replace(letter, messages=left))
        return touched
