"""The events of one conversation, as the owner of its outbox delivers them."""

import asyncio
import contextlib
import hashlib
import logging
from datetime import UTC, datetime

from palaver import (
    Conflict,
    Conversation,
    ConversationService,
    Cursor,
    Event,
    Finished,
    HistoryEntry,
    InvalidInput,
    OutboundError,
    OutboundResponse,
    RecordStore,
    Snapshot,
)
from palaver.platforms import ParkedConversations, Times
from palaver.platforms.outbox import OpenTurn, Outbox
from palaver.platforms.turns import ConversationReplies
from palaver_plugins.channels.webhooks.deliveries import Deliveries, Delivery, read_delivery
from palaver_plugins.channels.webhooks.endpoint import CHANNEL, Endpoint, read_retry_after
from palaver_plugins.channels.webhooks.events import find_reply, fit, make_event

RETRIES = f"{CHANNEL}.retries"
"""Scope of the records that wake outboxes. Their keys are digests of the conversations' names."""
DISABLED = f"{CHANNEL}.disabled"
"""Scope of the records of endpoints whose receivers have answered 410 Gone; a record's value is a
digest of the callback."""
WATCH_SECONDS = 4.0
"""Seconds between two looks at a conversation that tells nothing new."""
GONE = 410

log = logging.getLogger(__name__)


class LedgerClock:
    """The ledger's clock, which was at ``at`` when this was made."""

    def __init__(self, at: float) -> None:
        self._offset = at - asyncio.get_running_loop().time()

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self._offset


class ConversationEvents:
    """Delivers the events of one conversation until none is due."""

    def __init__(
        self,
        service: ConversationService,
        endpoint: Endpoint,
        outbox: Outbox,
        clock: LedgerClock,
        times: Times,
    ) -> None:
        self._service = service
        self._endpoint = endpoint
        self._outbox = outbox
        self._clock = clock
        self._conversation = outbox.conversation
        self._deliveries = Deliveries(outbox.content, times.retries)

    async def run(self) -> None:
        self._deliveries.revive(self._clock())
        turns = _EndingTurns(await self._start(), self._deliveries)
        subscription = await self._service.subscribe(self._conversation, turns, turns.cursor)
        try:
            await self._outbox.keep_during(self._deliver_all(turns))
        finally:
            self._service.unsubscribe(subscription)

    async def _start(self) -> Cursor:
        """Return the place in the stream after which turns are to be noted."""
        if self._outbox.content.cursor:
            return Cursor.parse(self._outbox.content.cursor)
        latest = await self._service.latest(self._conversation)
        return Cursor(latest.epoch, 0)

    async def _deliver_all(self, turns: "_EndingTurns") -> None:
        while True:
            turns.changed.clear()
            if turns.note(self._clock()):
                self._note_cursor(turns)
                await self._outbox.save()
            if due := self._deliveries.due(self._clock()):
                await self._deliver(due)
            elif not turns.turns and await self._is_complete(turns):
                await self._give_up(turns)
                return
            elif turns.is_shut_down:
                await self._outbox.finish(retry_in=0.0)
                return
            else:
                await self._wait(turns)

    async def _is_complete(self, turns: "_EndingTurns") -> bool:
        """Return whether every event that is stored has been seen."""
        latest = await self._service.latest(self._conversation)
        return latest.offset == 0 or latest == turns.cursor

    def _note_cursor(self, turns: "_EndingTurns") -> None:
        """Note the place from which the next owner reads: only where no turn is open."""
        if not turns.turns:
            self._outbox.content.cursor = str(turns.cursor)

    async def _give_up(self, turns: "_EndingTurns") -> None:
        self._note_cursor(turns)
        due_in = self._deliveries.next_due_in(self._clock())
        if due_in is not None:
            await schedule_retry(self._service.records, self._conversation, max(0.0, due_in))
        await self._outbox.finish()

    async def _wait(self, turns: "_EndingTurns") -> None:
        due_in = self._deliveries.next_due_in(self._clock())
        seconds = WATCH_SECONDS if due_in is None else min(WATCH_SECONDS, due_in)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await turns.changed.wait()

    # One event

    async def _deliver(self, turn: OpenTurn) -> None:
        """Make one attempt to deliver the event of a turn, and note what came of it."""
        try:
            reply = await find_reply(self._service, self._conversation, turn.turn)
        except InvalidInput as error:
            await self._park(turn, str(error))
        else:
            if reply is None:
                log.info("a reply of %s is erased: no event tells of it", self._conversation)
                self._outbox.close_turn(turn.turn)
            else:
                await self._attempt(turn, reply)
        await self._outbox.save()

    async def _attempt(self, turn: OpenTurn, reply: HistoryEntry) -> None:
        delivery = read_delivery(turn)
        if not delivery.is_forced and await self._is_disabled():
            await self._park(turn, f"the endpoint {self._endpoint.name!r} is disabled")
            return
        if not self._deliveries.begin_attempt(turn, self._clock()):
            await self._park(turn, "none of its attempts came to an end")
            return
        await self._outbox.save()  # proves that the outbox is still owned here
        event = make_event(
            self._endpoint.name,
            self._conversation,
            reply,
            messages=delivery.messages.split(),
            cursor=delivery.cursor,
        )
        try:
            response = await self._endpoint.call(turn.posts[0].id, fit(event))
        except OutboundError as error:
            await self._fail(turn, str(error))
        else:
            await self._settle(turn, delivery, response)

    async def _settle(self, turn: OpenTurn, delivery: Delivery, response: OutboundResponse) -> None:
        if 200 <= response.status < 300:
            if delivery.is_forced:
                await enable(self._service.records, self._endpoint)
            self._outbox.close_turn(turn.turn)
        elif response.status == GONE:
            await self._disable(turn)
        else:
            retry_after = read_retry_after(response.headers)
            await self._fail(turn, f"it answered {response.status}", retry_after)

    async def _fail(self, turn: OpenTurn, problem: str, retry_after: float = 0.0) -> None:
        problem = f"the callback of the endpoint {self._endpoint.name!r} failed: {problem}"
        if self._deliveries.postpone(turn, self._clock(), retry_after):
            log.info("an event of %s waits: %s", self._conversation, problem)
        else:
            await self._park(turn, f"{problem}; it was the last of the attempts")

    async def _park(self, turn: OpenTurn, problem: str) -> None:
        """Keep a delivery for an operator to repeat or discard."""
        log.warning("an event of %s is not delivered: %s", self._conversation, problem)
        records = self._service.records
        parked = ParkedConversations(records, self._conversation.channel, clock=self._clock)
        await parked.add(self._conversation)
        self._deliveries.park(turn, problem)

    async def _disable(self, turn: OpenTurn) -> None:
        at = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%d %H:%M UTC")
        problem = (
            f"the endpoint {self._endpoint.name!r} is disabled: its receiver answered 410 Gone at "
            f"{at}; another callback enables it, or a repeated delivery that it takes"
        )
        await disable(self._service.records, self._endpoint)
        await self._park(turn, problem)

    async def _is_disabled(self) -> bool:
        record = await self._service.records.read_record(DISABLED, self._endpoint.name)
        return record is not None and record.value == _digest(self._endpoint.callback)


class _EndingTurns(ConversationReplies):
    """The turns of a conversation, until deliveries are noted for them."""

    def __init__(self, since: Cursor, deliveries: Deliveries) -> None:
        super().__init__(since, posted=())
        self._deliveries = deliveries
        self._ends: dict[str, Cursor] = {}

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if isinstance(event, Finished) and cursor is not None:
            self._ends[event.turn] = cursor
        super().on_event(event, cursor)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        super().on_snapshot(snapshot)
        turns = list(self.turns)
        known = [self._deliveries.knows(turn) for turn in turns]
        if True in known:  # those before it were delivered long ago
            for turn in turns[: known.index(True)]:
                del self.turns[turn]

    def note(self, now: float) -> bool:
        """Note a delivery for each turn that has ended; return whether there are any."""
        ended = [reply for reply in self.turns.values() if reply.outcome]
        for reply in ended:
            del self.turns[reply.turn]
            end = self._ends.pop(reply.turn, self.cursor)
            if not self._deliveries.knows(reply.turn):
                self._deliveries.add(reply, end, now)
        return bool(ended)


async def schedule_retry(records: RecordStore, conversation: Conversation, due_in: float) -> None:
    """Have the outbox of a conversation woken after some seconds."""
    name = str(conversation).encode()
    key = hashlib.sha256(name).hexdigest()
    while True:
        record = await records.read_record(RETRIES, key)
        version = record.version if record else 0
        try:
            await records.write_record(RETRIES, key, name, expect=version, due_in=due_in)
        except Conflict:
            continue  # the record has just woken this outbox, and is changed or deleted for that
        return


async def disable(records: RecordStore, endpoint: Endpoint) -> None:
    """Post no further events to the endpoint's callback."""
    record = await records.read_record(DISABLED, endpoint.name)
    version = record.version if record else 0
    with contextlib.suppress(Conflict):  # another process does the same
        await records.write_record(
            DISABLED, endpoint.name, _digest(endpoint.callback), expect=version
        )


async def enable(records: RecordStore, endpoint: Endpoint) -> None:
    if record := await records.read_record(DISABLED, endpoint.name):
        with contextlib.suppress(Conflict):
            await records.delete_record(DISABLED, endpoint.name, expect=record.version)


def _digest(callback: str) -> bytes:
    return hashlib.sha256(callback.encode()).hexdigest().encode()
