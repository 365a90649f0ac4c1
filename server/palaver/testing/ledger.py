"""MemoryLedger: the whole `Ledger` protocol in plain objects, for tests and as the reference.

It keeps every rule of the protocol except durability: what it holds dies with the process.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

from palaver.errors import Conflict, Fenced, IndexConflict, TooMany
from palaver.ledger import (
    INBOX_LIMIT,
    Claim,
    Depth,
    Entry,
    Erasure,
    Exchange,
    Export,
    Guarantee,
    Hint,
    Page,
    PendingTurn,
    Progress,
    Receipt,
    Snapshot,
    Step,
    StopState,
    Waiting,
)
from palaver.messages import (
    Conversation,
    Cursor,
    Event,
    Finished,
    Message,
    Received,
    Recorded,
    Routed,
    Text,
    TextReset,
    new_id,
)

REMEMBERED = 24 * 3600.0
"""Seconds for which the id of a message is known as used."""


class _Turn:
    """One unsettled turn: its message and what was appended to it."""

    __slots__ = (
        "accepted", "expected", "failed", "id", "index", "journal", "length", "message",
        "offset", "parts", "skill", "stop",
    )  # fmt: skip

    def __init__(self, turn: str, message: Message, accepted: float) -> None:
        self.id = turn
        self.message = message
        self.accepted = accepted
        self.failed = 0
        self.index = 0
        self.expected = -1  # the index that the last write expected; offset is what it reached
        self.offset = 0
        self.parts: list[str] = []
        self.length = 0
        self.skill = ""
        self.journal: dict[int, Step] = {}
        self.stop = False

    @property
    def reply(self) -> str:
        return "".join(self.parts)

    def check(self, entries: Sequence[Entry]) -> None:
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

    def apply(self, entries: Sequence[Entry]) -> list[Event]:
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


class _Stream:
    """One conversation: its events, inbox, history and the marks of messages seen."""

    __slots__ = (
        "closed", "conversation", "due", "epoch", "events", "fence", "first", "history", "inbox",
        "lapse", "members", "name", "running", "seen", "waiting",
    )  # fmt: skip

    def __init__(self, conversation: Conversation, epoch: str) -> None:
        self.conversation = conversation
        self.name = str(conversation)
        self.epoch = epoch
        self.first = 1
        self.events: list[Event] = []
        self.inbox: deque[_Turn] = deque()
        self.running = False
        self.due = False  # whether it stands in the ready queue
        self.lapse = 0.0
        self.fence = 0
        self.history: list[Exchange] = []
        self.seen: dict[str, tuple[str, str, float]] = {}
        self.closed: dict[str, tuple[int, int, Progress]] = {}
        self.waiting: Waiting | None = None
        self.members: set[str] = set()

    @property
    def last(self) -> int:
        return self.first + len(self.events) - 1

    def lines(self, count: int) -> tuple[Exchange, ...]:
        return tuple(self.history[-count:]) if count > 0 else ()

    def ahead_of(self, turn: str) -> int:
        """Turns that come before ``turn``; 0 when it is settled."""
        for position, queued in enumerate(self.inbox):
            if queued.id == turn:
                return position
        return 0


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
        self._streams: dict[str, _Stream] = {}
        self._memories: dict[tuple[str, str, str], str] = {}
        self._ready: deque[_Stream] = deque()
        self._leases: list[tuple[float, int, _Stream, int]] = []
        self._order = count()
        self._hints: dict[str, list[Hint]] = {}
        self._work = asyncio.Event()

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close; what is held stays, so a test may look at it."""

    # The walk of a turn

    async def accept(self, message: Message) -> Receipt:
        now = self._clock()
        name = str(message.conversation)
        stream = self._streams.get(name)
        if stream is not None:
            mark = stream.seen.get(message.id)
            if mark is not None and now - mark[2] < REMEMBERED:
                if mark[1] != message.digest:
                    raise Conflict(f"message id {message.id!r} was used with another body")
                return Receipt(turn=mark[0], ahead=stream.ahead_of(mark[0]), duplicate=True)
            if len(stream.inbox) - stream.running >= INBOX_LIMIT:
                raise TooMany(f"{INBOX_LIMIT} messages wait in {name}", retry_after=1.0)
        else:
            stream = self._streams[name] = _Stream(message.conversation, self._epoch)
        return self._queue(stream, message, now)

    def _queue(self, stream: _Stream, message: Message, now: float) -> Receipt:
        turn = _Turn(new_id(), message, now)
        ahead = len(stream.inbox)
        stream.seen.pop(message.id, None)  # so that the marks stay in the order of their age
        stream.seen[message.id] = (turn.id, message.digest, now)
        stream.members.add(message.sender)
        stream.inbox.append(turn)
        received = Received(
            turn=turn.id, id=message.id, sender=message.sender, text=message.text, ahead=ahead
        )
        if not ahead:
            self._make_due(stream)
        self._publish(stream, [received])
        return Receipt(turn=turn.id, ahead=ahead, duplicate=False)

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109 (the protocol's)
        if self._leases:
            timeout = min(timeout, max(0.0, self._leases[0][0] - self._clock()))
        try:
            async with asyncio.timeout(timeout):
                await self._work.wait()
        except TimeoutError:
            pass

    async def claim(self, worker: str, *, lease: float, history: int) -> Claim | None:
        now = self._clock()
        self._collect_lapsed(now)
        stream = self._next_due(now)
        if stream is None:
            self._work.clear()
            return None
        turn = stream.inbox[0]
        if stream.running:
            turn.failed += 1
        stream.running = True
        stream.fence += 1
        stream.lapse = now + lease
        turn.expected = -1
        self._push_lease(stream)
        return Claim(
            turn=turn.id,
            messages=(turn.message,),
            fence=stream.fence,
            attempt=turn.failed + 1,
            index=turn.index,
            reply=turn.reply,
            journal=tuple(turn.journal[number] for number in sorted(turn.journal)),
            history=stream.lines(history),
            waiting=stream.waiting,
            stop=turn.stop,
        )

    async def append(
        self, claim: Claim, entries: Sequence[Entry], *, expect: int, lease: float
    ) -> Progress:
        stream, turn = self._owned(claim)
        repeated = self._applied(turn, entries, expect)
        if not repeated:
            turn.check(entries)
        stream.lapse = self._clock() + lease
        return repeated or self._write(stream, turn, entries, expect)

    async def settle(
        self,
        claim: Claim,
        entries: Sequence[Entry],
        *,
        expect: int,
        waiting: Waiting | None = None,
    ) -> Progress:
        if earlier := self._settled_before(claim, entries, expect):
            return earlier
        stream, turn = self._owned(claim)
        self._applied(turn, entries, expect, settling=True)
        finished = entries[-1] if entries else None
        if not isinstance(finished, Finished):
            raise IndexConflict(f"turn {turn.id}: settling needs Finished as the last entry")
        turn.check(entries)
        progress = self._write(stream, turn, entries, expect)
        stream.history += _lines(turn, finished, self._clock())
        stream.closed[turn.id] = (claim.fence, expect, progress)
        stream.waiting = waiting
        stream.inbox.popleft()
        self._hand_on(stream)
        self._trim(stream)
        return progress

    async def release(self, claim: Claim) -> None:
        stream, _ = self._owned(claim)
        self._hand_on(stream)

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        stream = self._streams.get(str(conversation))
        if stream is None:
            return "unknown", ""
        for queued in stream.inbox:
            if turn is None or queued.id == turn:
                queued.stop = True
                return "stopping", queued.id
        if turn is not None and turn in stream.closed:
            return "settled", turn
        return "unknown", ""

    # Reading

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        stream = self._streams.get(str(conversation))
        if stream is None:
            return Page(self._epoch, 1, 0, ())
        start = max(after + 1, stream.first)
        events = islice(stream.events, start - stream.first, start - stream.first + max(limit, 0))
        recorded = tuple(Recorded(start + step, event) for step, event in enumerate(events))
        return Page(stream.epoch, stream.first, stream.last, recorded)

    async def watch(self, conversation: Conversation, hint: Hint) -> Callable[[], None]:
        name = str(conversation)
        self._hints.setdefault(name, []).append(hint)

        def unwatch() -> None:
            hints = self._hints.get(name, [])
            if hint in hints:
                hints.remove(hint)
            if not hints:
                self._hints.pop(name, None)

        return unwatch

    async def snapshot(self, conversation: Conversation, history: int) -> Snapshot:
        stream = self._streams.get(str(conversation))
        if stream is None:
            return Snapshot(cursor=Cursor(self._epoch, 0), history=(), pending=())
        pending = tuple(
            PendingTurn(
                turn=turn.id,
                messages=(turn.message,),
                running=stream.running and position == 0,
                reply=turn.reply,
                skill=turn.skill,
            )
            for position, turn in enumerate(stream.inbox)
        )
        cursor = Cursor(stream.epoch, stream.last)
        return Snapshot(cursor=cursor, history=stream.lines(history), pending=pending)

    async def members(self, conversation: Conversation) -> frozenset[str]:
        stream = self._streams.get(str(conversation))
        return frozenset(stream.members) if stream else frozenset()

    async def depth(self) -> Depth:
        running = sum(stream.running for stream in self._streams.values())
        unsettled = sum(len(stream.inbox) for stream in self._streams.values())
        return Depth(queued=unsettled - running, running=running)

    # People

    async def remember(self, tenant: str, person: str, key: str, value: str | None) -> None:
        if value is None:
            self._memories.pop((tenant, person, key), None)
        else:
            self._memories[tenant, person, key] = value

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        return self._memories.get((tenant, person, key))

    async def export(self, tenant: str, person: str) -> Export:
        conversations: dict[str, tuple[Exchange, ...]] = {}
        pending: list[Message] = []
        for stream in self._streams_of(tenant, person):
            theirs = _turns_of(stream, person)
            if lines := tuple(line for line in stream.history if line.turn in theirs):
                conversations[stream.name] = lines
            pending += [turn.message for turn in stream.inbox if turn.message.sender == person]
        return Export(
            tenant=tenant,
            person=person,
            conversations=conversations,
            pending=tuple(pending),
            memories=self._memories_of(tenant, person),
        )

    async def erase(self, tenant: str, person: str) -> Erasure:
        streams = list(self._streams_of(tenant, person))
        erased = [self._erase_from(stream, person) for stream in streams]
        memories = self._memories_of(tenant, person)
        for key in memories:
            del self._memories[tenant, person, key]
        self._epoch = new_id()  # a conversation that begins anew must not resume the erased one
        return Erasure(
            tenant=tenant,
            person=person,
            conversations=len(streams),
            messages=sum(messages for messages, _ in erased),
            events=sum(events for _, events in erased),
            memories=len(memories),
            at=self._clock(),
        )

    async def guarantee(self) -> Guarantee:
        return Guarantee(
            holds=("Turns of a conversation run one at a time, in order.",),
            lacks=("Nothing survives the end of the process.",),
        )

    # Below the surface

    def _owned(self, claim: Claim) -> tuple[_Stream, _Turn]:
        """The running turn of ``claim``. Raises `Fenced` when another claim holds it."""
        stream = self._streams.get(str(claim.conversation))
        if (
            stream is None
            or not stream.running
            or stream.fence != claim.fence
            or stream.inbox[0].id != claim.turn
        ):
            raise Fenced(f"turn {claim.turn}: the claim with fence {claim.fence} is over")
        return stream, stream.inbox[0]

    def _applied(
        self, turn: _Turn, entries: Sequence[Entry], expect: int, *, settling: bool = False
    ) -> Progress | None:
        """What this write returned when it was applied, or None when it is new."""
        if expect == turn.index:
            return None
        if not settling and expect == turn.expected and expect + len(entries) == turn.index:
            return Progress(turn.index, turn.offset, turn.stop)
        raise IndexConflict(f"turn {turn.id}: expected index {expect}, it is at {turn.index}")

    def _settled_before(
        self, claim: Claim, entries: Sequence[Entry], expect: int
    ) -> Progress | None:
        stream = self._streams.get(str(claim.conversation))
        closed = stream.closed.get(claim.turn) if stream else None
        if closed is None:
            return None
        fence, expected, progress = closed
        if fence != claim.fence:
            raise Fenced(f"turn {claim.turn}: another claim settled it")
        if expected != expect or expect + len(entries) != progress.index:
            raise IndexConflict(f"turn {claim.turn}: it was settled at index {expected}")
        return progress

    def _write(
        self, stream: _Stream, turn: _Turn, entries: Sequence[Entry], expect: int
    ) -> Progress:
        if events := turn.apply(entries):
            self._publish(stream, events)
        if entries:
            turn.expected = expect
            turn.offset = stream.last
        return Progress(turn.index, stream.last, turn.stop)

    def _publish(self, stream: _Stream, events: list[Event]) -> None:
        start = stream.last + 1
        stream.events += events
        if hints := self._hints.get(stream.name):
            recorded = tuple(Recorded(start + step, event) for step, event in enumerate(events))
            for hint in tuple(hints):
                hint(recorded)

    def _make_due(self, stream: _Stream) -> None:
        if not stream.due:
            stream.due = True
            self._ready.append(stream)
        self._work.set()

    def _hand_on(self, stream: _Stream) -> None:
        """End the claim; the conversation is due again when turns wait."""
        stream.running = False
        if stream.inbox:
            self._make_due(stream)

    def _collect_lapsed(self, now: float) -> None:
        while self._leases and self._leases[0][0] <= now:
            _, _, stream, fence = heapq.heappop(self._leases)
            if not stream.running or stream.fence != fence:
                continue
            if stream.lapse > now:  # renewed since it was pushed
                self._push_lease(stream)
            else:
                self._make_due(stream)

    def _next_due(self, now: float) -> _Stream | None:
        while self._ready:
            stream = self._ready.popleft()
            stream.due = False
            if stream.running and stream.lapse > now:  # renewed after it had lapsed
                self._push_lease(stream)
            elif stream.inbox:  # empty when its last turn was settled late, or erased
                return stream
        return None

    def _push_lease(self, stream: _Stream) -> None:
        heapq.heappush(self._leases, (stream.lapse, next(self._order), stream, stream.fence))

    def _trim(self, stream: _Stream) -> None:
        if (excess := len(stream.events) - self._kept) > 0:
            del stream.events[:excess]
            stream.first += excess
        horizon = self._clock() - REMEMBERED
        while stream.seen:  # oldest first
            message, mark = next(iter(stream.seen.items()))
            if mark[2] > horizon:
                break
            del stream.seen[message]

    def _streams_of(self, tenant: str, person: str) -> Iterator[_Stream]:
        for stream in self._streams.values():
            if stream.conversation.tenant == tenant and person in stream.members:
                yield stream

    def _memories_of(self, tenant: str, person: str) -> dict[str, str]:
        return {
            key: value
            for (owner, who, key), value in self._memories.items()
            if owner == tenant and who == person
        }

    def _erase_from(self, stream: _Stream, person: str) -> tuple[int, int]:
        """Remove a person's turns; returns the messages and the events that went."""
        theirs = _turns_of(stream, person)
        kept = [event for event in stream.events if event.turn not in theirs]
        gone = len(stream.events) - len(kept)
        if stream.members == {person}:
            self._forget(stream)
            return len(theirs), gone
        self._drop_turns(stream, theirs)
        stream.members.discard(person)
        stream.events, stream.first, stream.epoch = kept, 1, new_id()
        if stream.waiting is not None and stream.waiting.message.sender == person:
            stream.waiting = None
        return len(theirs), gone

    def _forget(self, stream: _Stream) -> None:
        del self._streams[stream.name]
        self._ready = deque(due for due in self._ready if due is not stream)
        self._leases = [lease for lease in self._leases if lease[2] is not stream]
        heapq.heapify(self._leases)

    def _drop_turns(self, stream: _Stream, turns: set[str]) -> None:
        head = stream.inbox[0].id if stream.inbox else ""
        stream.inbox = deque(turn for turn in stream.inbox if turn.id not in turns)
        stream.history = [line for line in stream.history if line.turn not in turns]
        stream.seen = {key: mark for key, mark in stream.seen.items() if mark[0] not in turns}
        stream.closed = {key: mark for key, mark in stream.closed.items() if key not in turns}
        if head in turns:
            self._hand_on(stream)


def _lines(turn: _Turn, finished: Finished, now: float) -> tuple[Exchange, Exchange]:
    asked = Exchange(
        role="user",
        text=turn.message.text,
        turn=turn.id,
        at=turn.accepted,
        sender=turn.message.sender,
    )
    answered = Exchange(
        role="assistant",
        text=turn.reply,
        turn=turn.id,
        at=now,
        skill=turn.skill,
        outcome=finished.outcome,
    )
    return asked, answered


def _turns_of(stream: _Stream, person: str) -> set[str]:
    """The turns, settled or not, whose message the person sent."""
    settled = {line.turn for line in stream.history if line.sender == person}
    return settled | {turn.id for turn in stream.inbox if turn.message.sender == person}
