"""MemoryLedger: the `Ledger` protocol in plain objects, for tests and as the reference.

It follows every rule of the protocol except durability.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from itertools import count, islice

import msgspec

from palaver.clock import SteadyClock
from palaver.concurrency import (
    check_dead_letter,
    check_member,
    inbox_is_full,
    received_event,
)
from palaver.errors import Fenced, IndexConflict, TooMany
from palaver.exports import ExportPart
from palaver.history import cut_text, parse_position, take_history
from palaver.ledger import (
    DEAD_LETTER_REPLY,
    HISTORY_BYTES,
    MAX_DEAD_LETTER_BYTES,
    MAX_DEAD_LETTERS,
    PAGE_BYTES,
    QUEUE_ALL,
    Claim,
    ConcurrencyPolicies,
    DeadLetter,
    Erasure,
    Export,
    Guarantee,
    HistoryPage,
    InboxMessage,
    LogEntry,
    MemoryWrite,
    OnChange,
    Page,
    PendingQuestion,
    PendingTurn,
    Progress,
    QueueDepth,
    Receipt,
    Snapshot,
    StopState,
    StorageUsage,
    UnsettledCount,
    memory_writes,
    stopped_event,
)
from palaver.messages import Conversation, Cursor, Event, Message, StoredEvent, encode, new_id
from palaver.storage import check_storage, reply_size
from palaver.testing.conversation_state import (
    ConversationState,
    LastWrite,
    SettledTurn,
    UnsettledTurn,
    digest_of,
)
from palaver.testing.erasure import ErasedCounts, count_content, erase_from
from palaver.testing.usage import StorageCounters


class MemoryLedger:
    """A `Ledger` in memory.

    ``clock`` returns seconds since the epoch, see `SteadyClock`. When a turn is settled, the
    conversation keeps its newest ``events_kept`` events.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] | None = None,
        events_kept: int = 10_000,
    ) -> None:
        self._clock = SteadyClock(clock, monotonic)
        self._events_kept = events_kept
        self._epoch = new_id()
        self._conversations: dict[str, ConversationState] = {}
        self._memories: dict[tuple[str, str, str], str] = {}
        self._dead_letters: dict[str, tuple[str, DeadLetter]] = {}
        """Person and dead letter, by turn."""
        self._storage = StorageCounters()
        self._ready: deque[ConversationState] = deque()
        self._timers: list[tuple[float, int, ConversationState]] = []
        """When a lease or a merge window ends: a timer may fire too early, never too late."""
        self._order = count()
        self._watchers: dict[str, list[OnChange]] = {}
        self._work = asyncio.Event()

    async def start(self) -> None:
        """Do nothing: there is no store to open."""

    async def close(self) -> None:
        """Do nothing: the data stays for the test to read."""

    # Turns

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        now = self._clock()
        name = str(message.conversation)
        state = self._conversations.get(name)
        if state is not None and policies.members_only:
            check_member(message.conversation, message.person, state.members)
        if turn_id := policies.dead_letter:
            _, letter = self._dead_letters.get(turn_id, ("", None))
            check_dead_letter(turn_id, message.person, letter.messages if letter else ())
        if state is not None and (earlier := state.find_duplicate(message, now)):
            return earlier
        size = len(encode(message))
        tenant = message.conversation.tenant
        check_storage(
            message,
            size,
            policies,
            self._storage.usage(tenant, message.person),
            self._storage.usage(tenant),
            is_new=state is None,
            is_member=state is not None and message.person in state.members,
        )
        if state is None:
            state = self._conversations[name] = ConversationState(message.conversation, self._epoch)
        if state.waiting_messages >= policies.inbox_limit:
            raise TooMany(f"{policies.inbox_limit} messages wait in {name}", retry_after=1.0)
        if state.inbox and inbox_is_full(state.unsettled_bytes, message, policies.inbox_bytes):
            raise TooMany(f"the messages that wait in {name} are too large", retry_after=1.0)
        turn, joined = state.receive(InboxMessage(now, message), policies)
        self._storage.charge(state, message.person, size)
        ahead = state.ahead_of(turn.id)
        if not ahead and not state.is_running:
            self._make_due(state)
        self._publish(state, [received_event(turn.id, message, ahead=ahead)])
        return Receipt(turn=turn.id, ahead=ahead, duplicate=False, joined=joined)

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109 (the protocol's)
        if self._timers:
            timeout = min(timeout, max(0.0, self._timers[0][0] - self._clock()))
        try:
            async with asyncio.timeout(timeout):
                await self._work.wait()
        except TimeoutError:
            pass

    async def claim(
        self, worker: str, *, lease: float, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Claim | None:
        self._follow_step()
        now = self._clock()
        state = self._next_due(now)
        if state is None:
            self._work.clear()
            return None
        turn = state.inbox[0]
        if state.is_running:
            turn.failed_attempts += 1
        state.is_running = True
        state.fence += 1
        state.lease_expires_at = now + lease
        turn.last_write = None
        self._schedule_check(state, state.lease_expires_at)
        selection = state.select_history(history, history_bytes, before=turn)
        return Claim(
            turn=turn.id,
            messages=turn.messages,
            interrupted=turn.interrupted,
            steering_messages=turn.steering_messages,
            fence=state.fence,
            attempt=turn.failed_attempts + 1,
            index=turn.index,
            reply=turn.reply,
            journal=tuple(turn.journal[number] for number in sorted(turn.journal)),
            history=selection.entries,
            pending_question=state.pending_question,
            stop_requested=turn.stop_requested,
            history_cut=selection.is_cut,
        )

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        state, turn = self._owned(claim)
        earlier = turn.repeated_write(entries, expect)
        if earlier is None:
            turn.check(entries)
            memories = memory_writes(turn.id, entries, lambda: state.people_of(turn))
        state.lease_expires_at = self._clock() + lease
        if earlier is not None:
            return earlier
        if memories:
            self._write_memories(state, memories)
        return self._write(state, turn, entries, expect)

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
        state, turn = self._owned(claim)
        finished = turn.check_settle(entries, expect, taken_steering)
        if memories := memory_writes(turn.id, entries, lambda: state.people_of(turn)):
            self._write_memories(state, memories)
        now = self._clock()
        self._write(state, turn, entries, expect)
        if dead_letter_reason:
            self._store_dead_letter(turn, taken_steering, dead_letter_reason, now)
        state.set_pending_question(
            pending_question, {message.person for message in (*turn.messages, *taken_steering)}
        )
        if turn.person in state.members:
            self._storage.charge(state, turn.person, reply_size(turn.reply))
        if moved := state.close_turn(finished, len(taken_steering), now):
            self._publish(state, list(moved.moved_events()))
        progress = turn.progress(state.last_offset)
        state.settled_turns[turn.id] = SettledTurn(
            claim.fence, expect, digest_of(entries), progress
        )
        self._end_claim(state)
        state.trim(self._events_kept, now)
        return progress

    async def read_steering(self, claim: Claim) -> tuple[Message, ...]:
        _, turn = self._owned(claim)
        return turn.steering_messages

    async def release(self, claim: Claim) -> None:
        state, _ = self._owned(claim)
        self._end_claim(state)

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        state = self._conversations.get(str(conversation))
        if state is None:
            return "unknown", ""
        for queued in state.inbox:
            if turn is None or queued.id == turn:
                if queued is state.running_turn or queued.has_begun:
                    queued.stop_requested = True
                else:
                    self._settle_stopped(state, queued)
                return "stopping", queued.id
        if turn is not None and turn in state.settled_turns:
            return "settled", turn
        return "unknown", ""

    def _settle_stopped(self, state: ConversationState, turn: UnsettledTurn) -> None:
        """Settle a turn that waits."""
        now = self._clock()
        is_oldest = turn is state.inbox[0]
        state.inbox.remove(turn)
        state.add_history(turn, "stopped", 0, now)
        finished = stopped_event(turn.id, turn.messages)
        self._publish(state, [finished])
        no_claim = SettledTurn(0, 0, digest_of((finished,)), turn.progress(state.last_offset))
        state.settled_turns[turn.id] = no_claim
        if is_oldest:
            self._end_claim(state)
        state.trim(self._events_kept, now)

    # Reading

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        state = self._conversations.get(str(conversation))
        if state is None:
            return Page(self._epoch, 1, 0, ())
        start = max(after + 1, state.first_offset)
        events = islice(
            state.events, start - state.first_offset, start - state.first_offset + max(limit, 0)
        )
        recorded = tuple(_first_page(start, events))
        return Page(state.epoch, state.first_offset, state.last_offset, recorded)

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        name = str(conversation)
        self._watchers.setdefault(name, []).append(on_change)

        def unwatch() -> None:
            watchers = self._watchers.get(name, [])
            if on_change in watchers:
                watchers.remove(on_change)
            if not watchers:
                self._watchers.pop(name, None)

        return unwatch

    async def snapshot(
        self, conversation: Conversation, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Snapshot:
        state = self._conversations.get(str(conversation))
        if state is None:
            return Snapshot(cursor=Cursor(self._epoch, 0), history=(), pending=())
        pending = tuple(
            PendingTurn(
                turn=turn.id,
                messages=(*turn.messages, *turn.steering_messages),
                running=state.is_running and position == 0,
                reply=turn.reply,
                skill=turn.skill,
            )
            for position, turn in enumerate(state.inbox)
        )
        cursor = Cursor(state.epoch, state.last_offset)
        selection = state.select_history(history, history_bytes)
        return Snapshot(
            cursor=cursor, history=selection.entries, pending=pending, earlier=selection.earlier
        )

    async def history(
        self,
        conversation: Conversation,
        before: str,
        limit: int,
        history_bytes: int = HISTORY_BYTES,
    ) -> HistoryPage:
        end = parse_position(before) if before else None
        state = self._conversations.get(str(conversation))
        if state is None:
            return HistoryPage(history=())
        selection = take_history(
            state.newest_first(end), limit, history_bytes, newest_complete=True
        )
        return HistoryPage(history=selection.entries, earlier=selection.earlier)

    async def members(self, conversation: Conversation) -> frozenset[str]:
        state = self._conversations.get(str(conversation))
        return frozenset(state.members) if state else frozenset()

    async def storage_usage(self, tenant: str, person: str = "") -> StorageUsage:
        return self._storage.usage(tenant, person)

    async def queue_depth(self) -> QueueDepth:
        running = sum(state.is_running for state in self._conversations.values())
        unsettled = sum(len(state.inbox) for state in self._conversations.values())
        return QueueDepth(queued=unsettled - running, running=running)

    async def count_unsettled(self) -> tuple[UnsettledCount, ...]:
        sizes: dict[tuple[str, str], list[int]] = {}
        for state in self._conversations.values():
            for turn in state.inbox:
                size = sum(len(message.text.encode()) for message in turn.messages)
                sizes.setdefault((state.conversation.tenant, turn.person), []).append(size)
        return tuple(
            UnsettledCount(tenant=tenant, person=person, turns=len(found), bytes=sum(found))
            for (tenant, person), found in sizes.items()
        )

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        newest = sorted(self._dead_letters.values(), key=lambda letter: -letter[1].at)
        return tuple(letter for _, letter in newest[: max(limit, 0)])

    async def discard_dead_letter(self, turn: str) -> bool:
        return self._dead_letters.pop(turn, None) is not None

    # People

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        return self._memories.get((tenant, person, key))

    async def count_memories(self, tenant: str, person: str) -> int:
        return len(self._memories_of(tenant, person))

    async def export(self, tenant: str, person: str) -> AsyncGenerator[Export, None]:
        part = ExportPart(tenant, person)
        for state in tuple(self._conversations_of(tenant, person)):
            for owned in tuple(state.history):
                if owned.owner == person:
                    part.add_history(state.name, owned.entry)
                    if part.is_full:
                        yield part.take(self._clock())
                        if not self._is_member(state, person):  # erased in the meantime
                            break
        for message in self._pending_of(tenant, person):
            part.add_pending(message)
            if part.is_full:
                yield part.take(self._clock())
        for key, value in self._memories_of(tenant, person).items():
            part.add_memory(key, value)
        yield part.take(self._clock())

    def _is_member(self, state: ConversationState, person: str) -> bool:
        return self._conversations.get(state.name) is state and person in state.members

    def _pending_of(self, tenant: str, person: str) -> list[Message]:
        """Return the person's messages that wait, steer or are in dead letters."""
        waiting = [
            message
            for state in self._conversations_of(tenant, person)
            for turn in state.inbox
            for message in (*turn.messages, *turn.steering_messages)
        ]
        dead = [m for _, letter in self._dead_letters_of(tenant) for m in letter.messages]
        return [message for message in (*waiting, *dead) if message.person == person]

    async def erase(self, tenant: str, person: str) -> Erasure:
        states = list(self._conversations_of(tenant, person))
        erased = [self._erase_from(state, person) for state in states]
        letters = self._erase_dead_letters(tenant, person)
        memories = self._memories_of(tenant, person)
        for key in memories:
            del self._memories[tenant, person, key]
        self._epoch = new_id()  # cursors of an erased conversation must not fit a new one
        for state in states:
            self._notify(state.name, ())
        return Erasure(
            tenant=tenant,
            person=person,
            conversations=len(states),
            messages=sum(part.messages for part in erased),
            events=sum(part.events for part in erased),
            dead_letters=letters,
            memories=len(memories),
            at=self._clock(),
        )

    async def guarantee(self) -> Guarantee:
        return Guarantee(
            promises=("Turns of a conversation run one at a time, in order.",),
            limitations=("Nothing survives the end of the process.",),
        )

    # Writing

    def _owned(self, claim: Claim) -> tuple[ConversationState, UnsettledTurn]:
        """Return the running turn of ``claim``. Raises `Fenced` when the claim is over."""
        state = self._conversations.get(str(claim.conversation))
        if (
            state is None
            or not state.is_running
            or state.fence != claim.fence
            or state.inbox[0].id != claim.turn
        ):
            raise Fenced(f"turn {claim.turn}: the claim with fence {claim.fence} is over")
        return state, state.inbox[0]

    def _repeated_settle(
        self, claim: Claim, entries: Sequence[LogEntry], expect: int
    ) -> Progress | None:
        state = self._conversations.get(str(claim.conversation))
        settled = state.settled_turns.get(claim.turn) if state else None
        if settled is None:
            return None
        if settled.fence != claim.fence:
            raise Fenced(f"turn {claim.turn}: another claim settled it")
        if (settled.expect, settled.digest) != (expect, digest_of(entries)):
            raise IndexConflict(f"turn {claim.turn}: it was settled otherwise")
        return settled.progress

    def _write(
        self,
        state: ConversationState,
        turn: UnsettledTurn,
        entries: Sequence[LogEntry],
        expect: int,
    ) -> Progress:
        if events := turn.apply(entries):
            self._publish(state, events)
        if entries:
            turn.last_write = LastWrite(expect, digest_of(entries), state.last_offset)
        return turn.progress(state.last_offset)

    def _write_memories(self, state: ConversationState, memories: Sequence[MemoryWrite]) -> None:
        for memory in memories:
            key = (state.conversation.tenant, memory.person, memory.key)
            if memory.value is None:
                self._memories.pop(key, None)
            else:
                self._memories[key] = memory.value

    def _publish(self, state: ConversationState, events: list[Event]) -> None:
        start = state.last_offset + 1
        state.events += events
        if state.name in self._watchers:
            stored = [StoredEvent(start + step, event) for step, event in enumerate(events)]
            self._notify(state.name, stored)

    def _notify(self, name: str, events: Sequence[StoredEvent]) -> None:
        for on_change in tuple(self._watchers.get(name, ())):
            on_change(events)

    def _store_dead_letter(
        self, turn: UnsettledTurn, taken: Sequence[Message], reason: str, now: float
    ) -> None:
        letter = DeadLetter(
            turn=turn.id,
            messages=(*turn.interrupted, *turn.messages, *taken),
            attempt=turn.failed_attempts + 1,
            reply=cut_text(turn.reply, DEAD_LETTER_REPLY),
            skill=turn.skill,
            reason=reason,
            at=now,
        )
        self._dead_letters[turn.id] = (turn.person, letter)
        while len(self._dead_letters) > 1 and self._has_too_many_dead_letters():
            del self._dead_letters[next(iter(self._dead_letters))]

    def _has_too_many_dead_letters(self) -> bool:
        letters = self._dead_letters.values()
        size = sum(len(encode(letter)) for _, letter in letters)
        return len(letters) > MAX_DEAD_LETTERS or size > MAX_DEAD_LETTER_BYTES

    # Due conversations

    def _follow_step(self) -> None:
        """After a step of the wall clock, move the ends of leases and merge windows with it."""
        if step := self._clock.follow_step():
            for state in self._conversations.values():
                state.lease_expires_at += step
                for turn in state.inbox:
                    turn.due_at += step
            self._timers = [(at + step, order, state) for at, order, state in self._timers]

    def _make_due(self, state: ConversationState) -> None:
        if not state.is_ready:
            state.is_ready = True
            self._ready.append(state)
        self._work.set()

    def _end_claim(self, state: ConversationState) -> None:
        """End the claim; the conversation becomes due when it has an unsettled turn."""
        state.is_running = False
        if state.inbox:
            self._make_due(state)

    def _next_due(self, now: float) -> ConversationState | None:
        while self._timers and self._timers[0][0] <= now:
            _, _, state = heapq.heappop(self._timers)
            self._make_due(state)
        while self._ready:
            state = self._ready.popleft()
            state.is_ready = False
            if state.inbox:  # empty when its last turn was settled late, or erased
                due = state.lease_expires_at if state.is_running else state.inbox[0].due_at
                if due <= now:
                    return state
                self._schedule_check(state, due)
        return None

    def _schedule_check(self, state: ConversationState, at: float) -> None:
        heapq.heappush(self._timers, (at, next(self._order), state))

    # People

    def _conversations_of(self, tenant: str, person: str) -> Iterator[ConversationState]:
        for state in self._conversations.values():
            if state.conversation.tenant == tenant and person in state.members:
                yield state

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

    def _erase_from(self, state: ConversationState, person: str) -> ErasedCounts:
        self._storage.release(state, person)
        if state.members == {person}:
            self._delete(state)
            return count_content(state, person)
        erased = erase_from(state, person, self._clock())
        if erased.fenced or not state.is_running:  # another turn may be the oldest now
            self._end_claim(state)
        return erased

    def _delete(self, state: ConversationState) -> None:
        del self._conversations[state.name]
        self._ready = deque(ready for ready in self._ready if ready is not state)
        self._timers = [timer for timer in self._timers if timer[2] is not state]
        heapq.heapify(self._timers)

    def _erase_dead_letters(self, tenant: str, person: str) -> int:
        changed = 0
        for owner, letter in self._dead_letters_of(tenant):
            others = tuple(message for message in letter.messages if message.person != person)
            changed += len(others) < len(letter.messages)
            if owner == person:
                del self._dead_letters[letter.turn]
            else:
                self._dead_letters[letter.turn] = (
                    owner,
                    msgspec.structs.replace(letter, messages=others),
                )
        return changed


def _first_page(start: int, events: Iterable[Event]) -> Iterator[StoredEvent]:
    """Yield the events with their offsets, which start at ``start``, up to `PAGE_BYTES`."""
    size = 0
    for offset, event in enumerate(events, start):
        size += len(encode(event))
        if size > PAGE_BYTES and offset > start:
            return
        yield StoredEvent(offset, event)
