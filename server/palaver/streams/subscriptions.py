"""Streams: brings a conversation's events to the viewers in this process.

A viewer gets every recorded event in offset order, without a gap; and the text of a turn that this
process runs at once, ahead of the ledger. Text heals itself by position: what was heard already is
dropped, so the recorded copy of live text is not shown twice. See docs/protocol.md.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from palaver.errors import LedgerUnavailable, Overloaded
from palaver.ledger import Ledger, Page, Snapshot
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

log = logging.getLogger(__name__)

PAGE = 500
"""Events read from the ledger at once while a viewer catches up."""
SILENCE = 25.0
"""Seconds without news after which a viewer's place is compared with the ledger."""
BATCH = 200
"""Viewers that are dismissed at once, so that they do not all come back at the same moment …"""
BETWEEN_BATCHES = 0.05
"""… seconds between two batches …"""
BATCHES = 20
"""… and the most batches: with more viewers than fit, they are larger."""


class Subscriber(Protocol):
    """What a channel gives to `Streams.open`. Plain calls in the event loop; must not block."""

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        """An event, with its place in the stream; live text has none yet."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Events were lost for this viewer: show the conversation anew from ``snapshot``."""

    def on_shutdown(self) -> None:
        """The server stops, and nothing more comes here; other replicas go on."""


class Delivered(msgspec.Struct):
    """How far a viewer has heard a turn: its ``attempt`` and the reply's ``length`` so far."""

    attempt: int
    length: int


class Subscription:
    """One viewer's place in one conversation."""

    def __init__(
        self, conversation: Conversation, ledger: Ledger, subscriber: Subscriber, history: int
    ) -> None:
        self.conversation = conversation
        self.recovered = False
        self.shut_down = False
        self.closing_when_idle = False
        """Whether it is dismissed as soon as it follows no turn."""
        self._ledger = ledger
        self._subscriber = subscriber
        self._history = history
        self._epoch = ""
        self._offset = 0
        self._delivered: dict[str, Delivered] = {}
        self._open = False
        self._stale = False
        self._catching_up: asyncio.Task[None] | None = None
        self.unwatch: Callable[[], None] = lambda: None
        self.quiet_since = 0.0

    @property
    def cursor(self) -> Cursor:
        return Cursor(self._epoch, self._offset)

    @property
    def has_open_turn(self) -> bool:
        """Whether a turn that the viewer has heard of has not ended, or may be heard of while the
        view is being opened."""
        return bool(self._delivered) or not self._open

    def shutdown(self) -> None:
        if not self.shut_down:
            self.shut_down = True
            self._subscriber.on_shutdown()

    async def start(self, since: Cursor | None) -> None:
        """Resume after ``since``, or start with a snapshot when that cannot be done."""
        page = await self._ledger.read(self.conversation, since.offset if since else 0, PAGE)
        self.recovered = since is not None and _continues(page, since)
        if since is not None and self.recovered:
            self._epoch, self._offset = since.epoch, since.offset
            self._deliver(page.events)
        else:
            await self._send_snapshot()
        # News that comes meanwhile only sets `_stale`: two who catch up at once would mistake each
        # other's progress for a loss.
        await self._catch_up()
        self._open = True

    async def _send_snapshot(self) -> None:
        snapshot = await self._ledger.snapshot(self.conversation, self._history)
        self._epoch, self._offset = snapshot.cursor.epoch, snapshot.cursor.offset
        # The attempt is not known: live text waits until the ledger tells it.
        self._delivered = {turn.turn: Delivered(0, len(turn.reply)) for turn in snapshot.pending}
        self._subscriber.on_snapshot(snapshot)

    def close(self) -> None:
        self._open = False
        self.unwatch()
        if self._catching_up is not None:
            self._catching_up.cancel()

    def on_live_text(self, turn: str, attempt: int, position: int, text: str) -> None:
        """Text that this process generates now. What does not continue what was heard is left
        to the ledger."""
        if not self._open:
            return
        heard = self._delivered.get(turn)
        # A turn not heard of may have begun, and have been taken over, before the viewer came.
        if heard is not None and heard.attempt == attempt and heard.length == position:
            heard.length += len(text)
            self._subscriber.on_event(Text(turn=turn, position=position, text=text), None)

    def on_change(self, recorded: Sequence[StoredEvent]) -> None:
        """News from the ledger: apply what continues, read what is missing."""
        if not self._open:
            self._stale = True
            return
        fresh = [item for item in recorded if item.offset > self._offset]
        begins = bool(recorded) and recorded[0].offset == 1  # perhaps another life than was read
        follows = bool(fresh) and fresh[0].offset == self._offset + 1
        if follows and not begins and self._catching_up is None:
            self._deliver(fresh)
        elif fresh or begins or not recorded:
            self.check()

    def check(self) -> None:
        """Compare with the ledger, in the background."""
        self._stale = True
        if self._catching_up is None:
            self._catching_up = asyncio.create_task(self._check())

    async def _check(self) -> None:
        try:
            await self._catch_up()
        except LedgerUnavailable as error:
            log.warning("cannot read %s: %s", self.conversation, error)
            self.quiet_since = 0.0  # soon again
        finally:
            self._catching_up = None

    async def _catch_up(self) -> None:
        more = True
        while more or self._stale:
            self._stale = False
            page = await self._ledger.read(self.conversation, self._offset, PAGE)
            if not _continues(page, self.cursor):
                await (
                    self._send_snapshot()
                )  # and read on: what came meanwhile has had its hint already
                continue
            self._deliver(page.events)
            more = self._offset < page.last

    def _deliver(self, recorded: Sequence[StoredEvent]) -> None:
        self.quiet_since = asyncio.get_running_loop().time()
        for item in recorded:
            if item.offset != self._offset + 1:
                continue
            self._offset = item.offset
            event = self._undelivered(item.event)
            if event is not None:
                self._subscriber.on_event(event, Cursor(self._epoch, item.offset))
        if self.closing_when_idle and not self.has_open_turn:
            self.shutdown()

    def _undelivered(self, event: Event) -> Event | None:
        """The part of a recorded event that the viewer has not had live."""
        if isinstance(event, Text):
            return self._undelivered_text(event)
        if isinstance(event, Received):
            self._delivered.setdefault(event.turn, Delivered(1, 0))
        elif isinstance(event, Started):
            heard = self._delivered.setdefault(event.turn, Delivered(event.attempt, event.position))
            if event.attempt > heard.attempt:
                heard.attempt, heard.length = event.attempt, event.position
        elif isinstance(event, TextReset):
            self._delivered.setdefault(event.turn, Delivered(0, 0)).length = event.position
        elif isinstance(event, Finished):
            self._delivered.pop(event.turn, None)
        return event

    def _undelivered_text(self, event: Text) -> Text | None:
        heard = self._delivered.setdefault(event.turn, Delivered(0, event.position))
        if heard.length >= event.end:
            return None
        missing = event.text[max(0, heard.length - event.position) :]
        position = max(heard.length, event.position)
        heard.length = event.end
        return Text(turn=event.turn, position=position, text=missing)


def _continues(page: Page, cursor: Cursor) -> bool:
    """Whether reading on from ``cursor`` misses nothing."""
    return page.epoch == cursor.epoch and page.first - 1 <= cursor.offset <= page.last


class Subscriptions:
    """All the subscriptions of this process, by conversation."""

    def __init__(self, ledger: Ledger, *, history: int) -> None:
        self._ledger = ledger
        self._history = history
        self._subscriptions: dict[Conversation, list[Subscription]] = {}
        self._closing_when_idle = False
        self._closed = False

    @property
    def count(self) -> int:
        return sum(map(len, self._subscriptions.values()))

    async def subscribe(
        self, conversation: Conversation, subscriber: Subscriber, since: Cursor | None = None
    ) -> Subscription:
        """Bring the conversation to ``viewer`` from ``since`` on, until `close`.

        When the events after ``since`` are not all held any more, the viewer gets a snapshot
        first and the subscription's ``recovered`` is False. Raises `Overloaded` once all viewers
        have been dismissed.
        """
        if self._closed:
            raise Overloaded("the server stops; try again", retry_after=1.0)
        subscription = Subscription(conversation, self._ledger, subscriber, self._history)
        subscription.closing_when_idle = self._closing_when_idle
        subscription.unwatch = await self._ledger.watch(conversation, subscription.on_change)
        self._subscriptions.setdefault(conversation, []).append(subscription)
        try:
            await subscription.start(since)
        except BaseException:
            self.unsubscribe(subscription)
            raise
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Idempotent."""
        subscription.close()
        held = self._subscriptions.get(subscription.conversation, [])
        if subscription in held:
            held.remove(subscription)
        if not held:
            self._subscriptions.pop(subscription.conversation, None)

    def publish_live(
        self, conversation: Conversation, turn: str, attempt: int, position: int, text: str
    ) -> None:
        for subscription in self._subscriptions.get(conversation, ()):
            subscription.on_live_text(turn, attempt, position, text)

    def open_subscriptions(self) -> list[Subscription]:
        """The subscriptions that are not dismissed."""
        return [one for held in self._subscriptions.values() for one in held if not one.shut_down]

    def close_when_idle(self) -> None:
        """From now on dismiss every viewer at the end of the last turn that it follows: the next
        one is not to begin here."""
        self._closing_when_idle = True
        for subscription in self.open_subscriptions():
            subscription.closing_when_idle = True

    async def close_all(self) -> None:
        """Dismiss every viewer, in batches, and let in no others."""
        self._closed = True
        waiting = self.open_subscriptions()
        size = max(BATCH, math.ceil(len(waiting) / BATCHES))
        for start in range(0, len(waiting), size):
            if start:
                await asyncio.sleep(BETWEEN_BATCHES)
            for subscription in waiting[start : start + size]:
                subscription.shutdown()

    async def check_silent_forever(self) -> None:
        """Compare silent viewers' places with the ledger, forever: a hint may be lost."""
        while True:
            await asyncio.sleep(SILENCE / 5)
            self.check_silent(asyncio.get_running_loop().time() - SILENCE)

    def check_silent(self, since: float) -> None:
        """Compare the places of those who have had no news since the loop's time ``since``."""
        now = asyncio.get_running_loop().time()
        for held in self._subscriptions.values():
            for subscription in held:
                if subscription.quiet_since < since:
                    subscription.quiet_since = now
                    subscription.check()
