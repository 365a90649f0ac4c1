"""Subscriptions: bring a conversation's events to the clients of this process.

A subscriber gets every stored event in offset order, without a gap. The text of a turn that this
process runs arrives live, ahead of the ledger. Positions reconcile the two: text that was delivered
live is dropped from the stored copy. See docs/protocol.md.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

import msgspec

from palaver.errors import LedgerUnavailable, Overloaded, TooMany
from palaver.ledger import HISTORY_BYTES, Ledger, Page, Snapshot
from palaver.messages import (
    Conversation,
    Cursor,
    Event,
    Finished,
    Received,
    Started,
    StoredEvent,
    Text,
    TextReset,
)
from palaver.streams.pending_events import add_pending_events

log = logging.getLogger(__name__)

PAGE_SIZE = 500
"""Events read from the ledger at once while a subscription catches up."""
READERS = 4
"""Pages that are read at once by subscriptions that begin or catch up."""
SILENT_SECONDS = 25.0
"""Seconds without an event after which a subscription's position is compared with the ledger."""
CLOSE_BATCH = 200
"""Subscriptions that a stopping server closes at once, so that clients do not all reconnect at the
same moment …"""
CLOSE_BATCH_INTERVAL = 0.05
"""… seconds between two batches …"""
MAX_CLOSE_BATCHES = 20
"""… and the most batches: with more subscriptions than fit, they are larger."""


class Subscriber(Protocol):
    """A client of a conversation. Plain calls in the event loop; must not block."""

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        """Receive an event and its position in the stream; live text has none yet."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Receive the whole conversation: events before it are not available any more."""

    def on_shutdown(self) -> None:
        """End: the server shuts down, and other replicas continue the turns."""


Drain = Callable[[], Awaitable[None]]
"""Waits until a client has taken everything that was sent to it."""


class DeliveredText(msgspec.Struct):
    """The text of a turn that a subscriber has: its ``attempt`` and ``length`` in code points."""

    attempt: int
    length: int


class Subscription:
    """A subscriber's position in one conversation."""

    def __init__(
        self,
        conversation: Conversation,
        ledger: Ledger,
        subscriber: Subscriber,
        history: int,
        history_bytes: int,
        readers: asyncio.Semaphore,
        *,
        stored_only: bool = False,
    ) -> None:
        self.conversation = conversation
        self._stored_only = stored_only
        self.drain: Drain | None = None
        """Awaited after a snapshot and between two pages."""
        self.owner: tuple[str, str] | None = None
        """Tenant and person that it is counted for."""
        self.recovered = False
        self.is_shut_down = False
        self.closing_when_idle = False
        """Whether it is shut down as soon as it has no open turn."""
        self._ledger = ledger
        self._subscriber = subscriber
        self._history = history
        self._history_bytes = history_bytes
        self._readers = readers
        self._epoch = ""
        self._offset = 0
        self._delivered: dict[str, DeliveredText] = {}
        self._started = False
        self._recheck = False
        self._is_held = False
        self._catch_up_task: asyncio.Task[None] | None = None
        self.unwatch: Callable[[], None] = lambda: None
        self.last_event_at = 0.0

    @property
    def cursor(self) -> Cursor:
        return Cursor(self._epoch, self._offset)

    @property
    def has_open_turn(self) -> bool:
        """Return whether the subscriber has a turn that began and has not ended, or the
        subscription has not started."""
        return bool(self._delivered) or not self._started

    def shutdown(self) -> None:
        if not self.is_shut_down:
            self.is_shut_down = True
            self._subscriber.on_shutdown()

    async def start(self, since: Cursor | None) -> None:
        """Resume after ``since``, or start with a snapshot when that cannot be done."""
        page = await self._read(since.offset if since else 0)
        self.recovered = since is not None and _continues(page, since)
        if since is not None and self.recovered:
            self._epoch, self._offset = since.epoch, since.offset
            self._deliver(page.events)
        else:
            await self._send_snapshot()
        # Before `_started`, and while the task runs, `check` and `on_change` only set `_recheck`:
        # two concurrent catch-ups would take each other's progress for a loss.
        if self.drain is None:
            await self._catch_up()
        else:
            self._catch_up_task = asyncio.create_task(self._check(more=self._offset < page.last))
        self._started = True

    async def _send_snapshot(self) -> None:
        snapshot = await self._ledger.snapshot(
            self.conversation, self._history, self._history_bytes
        )
        snapshot = await add_pending_events(snapshot, self._read)
        self._epoch, self._offset = snapshot.cursor.epoch, snapshot.cursor.offset
        # The attempt is not known: live text waits until the ledger tells it.
        self._delivered = {
            turn.turn: DeliveredText(0, len(turn.reply)) for turn in snapshot.pending
        }
        self._subscriber.on_snapshot(snapshot)

    def close(self) -> None:
        self._started = False
        self.unwatch()
        if self._catch_up_task is not None:
            self._catch_up_task.cancel()

    def on_live_text(self, turn: str, attempt: int, position: int, text: str) -> None:
        """Deliver text that this process generates now. Text that does not continue what was
        delivered is left to the ledger."""
        if not self._started or self._is_held or self._stored_only:
            return
        delivered = self._delivered.get(turn)
        # An unknown turn may have begun, and have been taken over, before the subscription started.
        if delivered is not None and delivered.attempt == attempt and delivered.length == position:
            delivered.length += len(text)
            self._subscriber.on_event(Text(turn=turn, position=position, text=text), None)

    def on_change(self, stored: Sequence[StoredEvent]) -> None:
        """Deliver the events of a notification that continue the stream, and read missing ones."""
        if not self._started:
            self._recheck = True
            return
        fresh = [item for item in stored if item.offset > self._offset]
        begins = bool(stored) and stored[0].offset == 1  # perhaps of another epoch
        follows = bool(fresh) and fresh[0].offset == self._offset + 1
        if follows and not begins and self._catch_up_task is None:
            self._deliver(fresh)
        elif fresh or begins or not stored:
            self.check()

    def check(self) -> None:
        """Compare the position with the ledger, in the background; a subscription that starts does
        so itself."""
        self._recheck = True
        if self._started and self._catch_up_task is None:
            self._catch_up_task = asyncio.create_task(self._check(more=False))

    async def _check(self, *, more: bool) -> None:
        try:
            await self._catch_up(more)
        except LedgerUnavailable as error:
            log.warning("cannot read %s: %s", self.conversation, error)
            self.last_event_at = 0.0  # check again soon
        finally:
            self._catch_up_task = None

    async def _catch_up(self, more: bool = True) -> None:
        while await self._has_room() and (more or self._recheck):
            more = await self._deliver_page(is_large=more)

    async def _deliver_page(self, *, is_large: bool) -> bool:
        """Deliver the next page, or a snapshot; return whether there is more."""
        self._recheck = False
        if is_large:
            page = await self._read(self._offset)
        else:
            page = await self._ledger.read(self.conversation, self._offset, PAGE_SIZE)
        if not _continues(page, self.cursor):
            await self._send_snapshot()  # events stored since then have been notified already
            return True
        self._deliver(page.events)
        return self._offset < page.last

    async def _read(self, after: int) -> Page:
        """Return a page that may be large; a few of them at a time, for memory and the loop."""
        async with self._readers:
            page = await self._ledger.read(self.conversation, after, PAGE_SIZE)
            if page.events:
                await asyncio.sleep(0)
        return page

    async def _has_room(self) -> Literal[True]:
        """Wait until the subscriber can take a page. Events that come meanwhile are read later."""
        if self.drain is not None:
            self._is_held = True
            await self.drain()
            self._is_held = False
        return True

    def _deliver(self, stored: Sequence[StoredEvent]) -> None:
        self.last_event_at = asyncio.get_running_loop().time()
        for item in stored:
            if item.offset != self._offset + 1:
                continue
            self._offset = item.offset
            event = self._undelivered(item.event)
            if event is not None:
                self._subscriber.on_event(event, Cursor(self._epoch, item.offset))
        if self.closing_when_idle and not self.has_open_turn:
            self.shutdown()

    def _undelivered(self, event: Event) -> Event | None:
        """Return the part of a stored event that was not delivered live; None when all was."""
        if isinstance(event, Text):
            return self._undelivered_text(event)
        if isinstance(event, Received):
            self._delivered.setdefault(event.turn, DeliveredText(1, 0))
        elif isinstance(event, Started):
            delivered = self._delivered.setdefault(
                event.turn, DeliveredText(event.attempt, event.position)
            )
            if event.attempt > delivered.attempt:
                delivered.attempt, delivered.length = event.attempt, event.position
        elif isinstance(event, TextReset):
            self._delivered.setdefault(event.turn, DeliveredText(0, 0)).length = event.position
        elif isinstance(event, Finished):
            self._delivered.pop(event.turn, None)
        return event

    def _undelivered_text(self, event: Text) -> Text | None:
        delivered = self._delivered.setdefault(event.turn, DeliveredText(0, event.position))
        if delivered.length >= event.end:
            return None
        missing = event.text[max(0, delivered.length - event.position) :]
        position = max(delivered.length, event.position)
        delivered.length = event.end
        return Text(turn=event.turn, position=position, text=missing)


def _continues(page: Page, cursor: Cursor) -> bool:
    """Return whether reading from ``cursor`` on misses nothing."""
    return page.epoch == cursor.epoch and page.first - 1 <= cursor.offset <= page.last


class Subscriptions:
    """All the subscriptions of this process, by conversation."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        history: int,
        history_bytes: int = HISTORY_BYTES,
        per_person: float = math.inf,
    ) -> None:
        self._ledger = ledger
        self._history = history
        self._history_bytes = history_bytes
        self._per_person = per_person
        self._readers = asyncio.Semaphore(READERS)
        self._of_person: Counter[tuple[str, str]] = Counter()
        self._subscriptions: dict[Conversation, list[Subscription]] = {}
        self._closing_when_idle = False
        self._closed = False

    @property
    def count(self) -> int:
        return sum(map(len, self._subscriptions.values()))

    async def subscribe(
        self,
        conversation: Conversation,
        subscriber: Subscriber,
        since: Cursor | None = None,
        *,
        person: str = "",
        drain: Drain | None = None,
        stored_only: bool = False,
    ) -> Subscription:
        """Deliver the conversation's events from ``since`` on, until `unsubscribe`.

        When the events after ``since`` are not all available any more, the subscriber gets a
        snapshot first, and the subscription's ``recovered`` is False. Raises `Overloaded` when the
        server has closed all subscriptions, and `TooMany` when ``person`` has too many of them.

        With ``drain``, a subscriber gets stored events as fast as it can take them: the first page,
        or the snapshot, before this returns, and each further page after ``drain``.
        ``stored_only``: without live text, so that the events are the ledger's and in its order.
        """
        if self._closed:
            raise Overloaded("the server is shutting down; try again", retry_after=1.0)
        owner = (conversation.tenant, person) if person else None
        if owner is not None:
            self.check_person(*owner)
            self._of_person[owner] += 1
        subscription = Subscription(
            conversation,
            self._ledger,
            subscriber,
            self._history,
            self._history_bytes,
            self._readers,
            stored_only=stored_only,
        )
        subscription.owner, subscription.drain = owner, drain
        subscription.closing_when_idle = self._closing_when_idle
        self._subscriptions.setdefault(conversation, []).append(subscription)
        try:
            subscription.unwatch = await self._ledger.watch(conversation, subscription.on_change)
            await subscription.start(since)
        except BaseException:
            self.unsubscribe(subscription)
            raise
        return subscription

    def check_person(self, tenant: str, person: str) -> None:
        """Raise `TooMany` when a person has too many subscriptions for a further one."""
        if self._of_person.get((tenant, person), 0) >= self._per_person:
            raise TooMany(f"the person {person!r} has {self._per_person} connections; close some")

    def unsubscribe(self, subscription: Subscription) -> None:
        """Idempotent."""
        subscription.close()
        owner, subscription.owner = subscription.owner, None
        if owner is not None:
            self._of_person[owner] -= 1
            if not self._of_person[owner]:
                del self._of_person[owner]
        open_here = self._subscriptions.get(subscription.conversation, [])
        if subscription in open_here:
            open_here.remove(subscription)
        if not open_here:
            self._subscriptions.pop(subscription.conversation, None)

    def publish_live(
        self, conversation: Conversation, turn: str, attempt: int, position: int, text: str
    ) -> None:
        for subscription in self._subscriptions.get(conversation, ()):
            subscription.on_live_text(turn, attempt, position, text)

    def open_subscriptions(self) -> list[Subscription]:
        """Return the subscriptions that are not shut down."""
        return [it for each in self._subscriptions.values() for it in each if not it.is_shut_down]

    def close_when_idle(self) -> None:
        """From now on shut down every subscription at the end of its last open turn: the next turn
        is not to begin here."""
        self._closing_when_idle = True
        for subscription in self.open_subscriptions():
            subscription.closing_when_idle = True

    async def close_all(self) -> None:
        """Shut down every subscription, in batches, and refuse new ones."""
        self._closed = True
        waiting = self.open_subscriptions()
        size = max(CLOSE_BATCH, math.ceil(len(waiting) / MAX_CLOSE_BATCHES))
        for start in range(0, len(waiting), size):
            if start:
                await asyncio.sleep(CLOSE_BATCH_INTERVAL)
            for subscription in waiting[start : start + size]:
                subscription.shutdown()

    async def check_silent_forever(self) -> None:
        """Compare the position of silent subscriptions with the ledger, forever: a notification may
        be lost."""
        while True:
            await asyncio.sleep(SILENT_SECONDS / 5)
            self.check_silent(asyncio.get_running_loop().time() - SILENT_SECONDS)

    def check_silent(self, since: float) -> None:
        """Compare the subscriptions that have had no event since the loop's time ``since``."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                if subscription.last_event_at < since:
                    subscription.check()
