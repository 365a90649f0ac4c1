"""MemoryLedger: the `Ledger` protocol in plain objects, for tests and as the reference.

It follows every rule of the protocol except durability.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from itertools import count, islice

from palaver.branches import (
    no_alternative,
    no_message_to_revise,
    not_settled,
    revise_entries,
)
from palaver.clock import SteadyClock
from palaver.concurrency import (
    check_dead_letter,
    check_member,
    inbox_is_full,
    received_event,
)
from palaver.conversations import (
    ConversationChange,
    ConversationFilter,
    ConversationList,
    ConversationSummary,
    Share,
    check_share,
    not_in_list,
)
from palaver.errors import Fenced, IndexConflict, TooMany
from palaver.exports import ExportPart
from palaver.feedback import Feedback, FeedbackFilter, FeedbackReceipt, RatedReply
from palaver.history import cut_text, parse_position, take_history
from palaver.ledger import (
    DEAD_LETTER_REPLY,
    HISTORY_BYTES,
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
    first_accepted,
    memory_writes,
    stopped_event,
)
from palaver.messages import (
    NO_PARTS,
    Conversation,
    Cursor,
    Event,
    HistoryEntry,
    Message,
    ReplyParts,
    StoredEvent,
    encode,
    new_id,
)
from palaver.records import Record
from palaver.storage import check_storage, reply_size
from palaver.testing.branches import Branches
from palaver.testing.conversation_list import make_list
from palaver.testing.conversation_state import (
    ConversationState,
    LastWrite,
    SettledTurn,
    UnsettledTurn,
    digest_of,
)
from palaver.testing.dead_letters import DeadLetters
from palaver.testing.erasure import ErasedCounts, count_content, erase_from
from palaver.testing.feedback import feedback_of, give_feedback, rated_replies
from palaver.testing.records import Records
from palaver.testing.usage import StorageCounters
from palaver.testing.waiting import change_waiting, find_waiting
from palaver.waiting import change_messages, growth_of


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
        self._dead_letters = DeadLetters()
        self._storage = StorageCounters()
        self._records = Records(self._clock)
        self._ready: deque[ConversationState] = deque()
        self._timers: list[tuple[float, int, ConversationState]] = []
        """When a lease or a merge window ends: a timer may fire too early, never too late."""
        self._expiries: list[tuple[float, int, ConversationState]] = []
        """When a conversation with a retention expires, unless it is active until then."""
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
        self._delete_expired(now)
        name = str(message.conversation)
        state = self._conversations.get(name)
        if state is not None and policies.members_only:
            check_member(message.conversation, message.person, state.members)
        if turn_id := policies.dead_letter:
            check_dead_letter(turn_id, message.person, self._dead_letters.messages_in(turn_id))
        if state is not None and (earlier := state.find_duplicate(message, now)):
            return earlier
        size = len(encode(message))
        tenant = message.conversation.tenant
        check_storage(
            size,
            policies,
            self._storage.usage(tenant, message.person),
            self._storage.usage(tenant),
            is_new=state is None,
            is_member=state is not None and message.person in state.members,
        )
        if message.after is not None:
            self._check_continuation(state, message, message.after)
        if state is None:
            state = self._conversations[name] = ConversationState(message.conversation, self._epoch)
            state.retention = policies.retention
        if state.waiting_messages >= policies.inbox_limit:
            raise TooMany(f"{policies.inbox_limit} messages wait in {name}", retry_after=1.0)
        if state.inbox and inbox_is_full(state.unsettled_bytes, message, policies.inbox_bytes):
            raise TooMany(f"the messages that wait in {name} are too large", retry_after=1.0)
        turn, joined = state.receive(InboxMessage(now, message), policies)
        if message.after is not None:
            state.continue_after(message.after, turn.id)
        self._storage.charge(state, message.person, size)
        self._records.message_accepted(message.conversation, policies)
        ahead = state.ahead_of(turn.id)
        if not ahead and not state.is_running:
            self._make_due(state)
        self._publish(state, [received_event(turn.id, InboxMessage(now, message), ahead=ahead)])
        return Receipt(turn=turn.id, ahead=ahead, duplicate=False, joined=joined)

    def _check_continuation(
        self, state: ConversationState | None, message: Message, after: str
    ) -> None:
        """Raise an error when the message cannot continue after that turn."""
        if state is not None and state.inbox:
            raise not_settled()
        branches = state.branches if state is not None else Branches()
        branches.check(after, state.settled_order if state is not None else ())

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
            accepted_at=first_accepted(turn.inbox_messages),
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
        parts: ReplyParts = NO_PARTS,
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
        if moved := state.close_turn(finished, len(taken_steering), now, parts):
            self._publish(state, list(moved.moved_events()))
        progress = turn.progress(state.last_offset)
        state.settled_turns[turn.id] = SettledTurn(
            claim.fence, expect, digest_of(entries), progress
        )
        self._end_claim(state)
        self._tidy(state, now)
        return progress

    def _tidy(self, state: ConversationState, now: float) -> None:
        """Delete what is too old, and schedule the expiry, after a turn was settled."""
        state.trim(self._events_kept, now)
        if state.retention is not None:
            state.expires_at = now + state.retention
            heapq.heappush(self._expiries, (state.expires_at, next(self._order), state))

    def _delete_expired(self, now: float) -> None:
        """Delete the conversations whose own retention has passed since their last turn."""
        while self._expiries and self._expiries[0][0] <= now:
            at, _, state = heapq.heappop(self._expiries)
            is_stored = self._conversations.get(state.name) is state
            if is_stored and state.expires_at == at and not state.inbox:
                for person in tuple(state.usage):
                    self._storage.release(state, person)
                self._delete(state)
                self._epoch = new_id()  # its cursors must not fit a new one of its name

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
        self._tidy(state, now)

    async def change_waiting(
        self,
        conversation: Conversation,
        message: str,
        text: str | None,
        policies: ConcurrencyPolicies = QUEUE_ALL,
    ) -> bool:
        state = self._conversations.get(str(conversation))
        turn = find_waiting(state, message) if state is not None else None
        if state is None or turn is None:
            return False
        changed = change_messages(turn.inbox_messages, message, text)
        if (growth := growth_of(turn.inbox_messages, changed)) > 0:
            self._check_growth(conversation.tenant, turn.person, growth, policies)
        if changed == tuple(turn.inbox_messages):
            return True
        is_oldest = turn is state.inbox[0]
        self._storage.charge(state, turn.person, growth)
        change_waiting(state, turn, message, text)
        if is_oldest and not changed:
            self._end_claim(state)
        if not state.inbox:
            self._tidy(state, self._clock())
        self._notify(state.name, ())
        return True

    def _check_growth(
        self, tenant: str, person: str, growth: int, policies: ConcurrencyPolicies
    ) -> None:
        """Raise `TooMany` when a person's messages may not take so many bytes more."""
        check_storage(
            growth,
            policies,
            self._storage.usage(tenant, person),
            self._storage.usage(tenant),
            is_new=False,
            is_member=True,
        )

    async def select(self, conversation: Conversation, turn: str) -> None:
        state = self._conversations.get(str(conversation))
        if state is None or not state.branches.has(turn):
            raise no_alternative(turn)
        if state.inbox:
            raise not_settled()
        if state.select(turn):
            self._notify(state.name, ())

    async def revise(
        self,
        conversation: Conversation,
        person: str,
        turn: str,
        text: str,
        policies: ConcurrencyPolicies = QUEUE_ALL,
    ) -> None:
        state = self._conversations.get(str(conversation))
        if state is None:
            raise no_message_to_revise(turn)
        if state.inbox:
            raise not_settled()
        entries = () if state.branches.is_superseded(turn) else state.entries_of(turn)
        revised, growth = revise_entries(entries, person, turn, text)
        if revised == entries:
            return
        if growth > 0:
            self._check_growth(conversation.tenant, person, growth, policies)
        state.replace_entries(turn, revised)
        self._storage.charge(state, person, growth)
        self._notify(state.name, ())

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
                at=turn.inbox_messages[0].accepted_at,
            )
            for position, turn in enumerate(state.inbox)
        )
        cursor = Cursor(state.epoch, state.last_offset)
        selection = state.select_history(history, history_bytes)
        return Snapshot(
            cursor=cursor,
            history=selection.entries,
            pending=pending,
            earlier=selection.earlier,
            alternatives=state.alternatives,
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
        self._delete_expired(self._clock())
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
        return self._dead_letters.newest(limit)

    async def discard_dead_letter(self, turn: str) -> bool:
        return self._dead_letters.discard(turn)

    # Lists and shares

    async def list_conversations(
        self, tenant: str, person: str, filter: ConversationFilter, *, before: str = "", limit: int
    ) -> ConversationList:
        states = self._conversations_of(tenant, person)
        return make_list((s.listed.summary(person) for s in states), filter, before, limit)

    async def change_conversation(
        self, conversation: Conversation, person: str, change: ConversationChange
    ) -> ConversationSummary:
        listed = self._joined(conversation, person).listed
        listed.change(person, change)
        return listed.summary(person)

    async def share(
        self, conversation: Conversation, person: str, share: Share, content: bytes, *, epoch: str
    ) -> None:
        state = self._joined(conversation, person)
        check_share(epoch, state.epoch, share, tuple(state.listed.shares))
        state.listed.shares.setdefault(share.id, (share, content))

    async def shares(self, conversation: Conversation) -> tuple[Share, ...]:
        state = self._conversations.get(str(conversation))
        return tuple(share for share, _ in state.listed.shares.values()) if state else ()

    async def shared_content(self, share: str) -> bytes | None:
        for state in self._conversations.values():
            if share in state.listed.shares:
                return state.listed.shares[share][1]
        return None

    async def revoke_share(self, conversation: Conversation, share: str) -> bool:
        state = self._conversations.get(str(conversation))
        return state is not None and state.listed.shares.pop(share, None) is not None

    def _joined(self, conversation: Conversation, person: str) -> ConversationState:
        """Return a conversation of the person. Raises `NotFound`."""
        state = self._conversations.get(str(conversation))
        if state is None or person not in state.members:
            raise not_in_list(conversation, person)
        return state

    # Records of channels

    async def read_record(self, channel: str, key: str) -> Record | None:
        return self._records.read(channel, key)

    async def write_record(
        self, channel: str, key: str, value: bytes, *, expect: int, due_in: float | None = None
    ) -> Record:
        return self._records.write(channel, key, value, expect, due_in)

    async def claim_record(self, channel: str, lease: float) -> Record | None:
        return self._records.claim(channel, lease)

    async def delete_record(self, channel: str, key: str, *, expect: int) -> None:
        self._records.delete(channel, key, expect)

    async def list_records(
        self, channel: str, prefix: str = "", *, after: str = ""
    ) -> tuple[Record, ...]:
        return self._records.list(channel, prefix, after)

    # Feedback

    async def give_feedback(
        self, conversation: Conversation, person: str, feedback: Feedback
    ) -> FeedbackReceipt:
        state = self._joined(conversation, person)
        return give_feedback(state, person, feedback, self._clock())

    async def withdraw_feedback(self, conversation: Conversation, person: str, turn: str) -> bool:
        state = self._conversations.get(str(conversation))
        return state is not None and state.feedback.pop((person, turn), None) is not None

    async def feedback(self, conversation: Conversation, person: str) -> tuple[Feedback, ...]:
        state = self._conversations.get(str(conversation))
        return feedback_of(state, person) if state else ()

    async def rated_replies(
        self, tenant: str, filter: FeedbackFilter, *, history_bytes: int = HISTORY_BYTES
    ) -> AsyncGenerator[RatedReply, None]:
        for state in tuple(self._conversations.values()):
            if state.conversation.tenant == tenant:
                for rated in rated_replies(state, filter, history_bytes):
                    yield rated

    # People

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        return self._memories.get((tenant, person, key))

    async def count_memories(self, tenant: str, person: str) -> int:
        return len(self._memories_of(tenant, person))

    async def export(self, tenant: str, person: str) -> AsyncGenerator[Export, None]:
        part = ExportPart(tenant, person)
        for name, entry in self._history_of(tenant, person):
            part.add_history(name, entry)
            if part.is_full:
                yield part.take(self._clock())
        for message in self._pending_of(tenant, person):
            part.add_pending(message)
            if part.is_full:
                yield part.take(self._clock())
        for name, title in self._titles_of(tenant, person).items():
            part.add_title(name, title)
        for state in tuple(self._conversations_of(tenant, person)):
            part.add_feedback(state.name, feedback_of(state, person))
            if part.is_full:
                yield part.take(self._clock())
        for key, value in self._memories_of(tenant, person).items():
            part.add_memory(key, value)
        yield part.take(self._clock())

    def _history_of(self, tenant: str, person: str) -> Iterator[tuple[str, HistoryEntry]]:
        """Yield the person's history entries, until they are erased."""
        for state in tuple(self._conversations_of(tenant, person)):
            for owned in tuple(state.history):
                if not self._is_member(state, person):
                    break
                if owned.owner == person:
                    yield state.name, owned.entry

    def _titles_of(self, tenant: str, person: str) -> dict[str, str]:
        titles = {s.name: s.listed.title for s in self._conversations_of(tenant, person)}
        return {name: title for name, title in titles.items() if title}

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
        own = [message for message in waiting if message.person == person]
        return own + self._dead_letters.messages_of(tenant, person)

    async def erase(
        self, tenant: str, person: str, conversation: Conversation | None = None
    ) -> Erasure:
        states = [
            state
            for state in self._conversations_of(tenant, person)
            if conversation in (None, state.conversation)
        ]
        erased = [self._erase_from(state, person) for state in states]
        letters = self._dead_letters.erase(tenant, person, conversation)
        memories = self._memories_of(tenant, person) if conversation is None else {}
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
        self._dead_letters.store(turn.person, letter)

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
        self._records.forget(state.conversation)
        self._ready = deque(ready for ready in self._ready if ready is not state)
        self._timers = [timer for timer in self._timers if timer[2] is not state]
        heapq.heapify(self._timers)


def _first_page(start: int, events: Iterable[Event]) -> Iterator[StoredEvent]:
    """Yield the events with their offsets, which start at ``start``, up to `PAGE_BYTES`."""
    size = 0
    for offset, event in enumerate(events, start):
        size += len(encode(event))
        if size > PAGE_BYTES and offset > start:
            return
        yield StoredEvent(offset, event)
