"""Transcript: writes one claimed turn, at once to the viewers here and gathered to the ledger."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from palaver.errors import Fenced, IndexConflict, LedgerUnavailable
from palaver.ledger import Claim, Ledger, LogEntry, PendingQuestion, Progress
from palaver.messages import Finished, Message, Text, TextReset
from palaver.streams.subscriptions import Subscriptions

FLUSH_INTERVAL = 0.05
"""Seconds for which entries are gathered before they are written: at most 20 writes a second."""
PUBLISH_INTERVAL = 0.016
"""Seconds between two pieces of live text, one frame of a screen: the first piece of a reply, and
any that comes after a pause, leaves at once; what follows within a frame travels with the next."""
RETRY_INTERVAL = 0.25
"""Seconds between attempts while the ledger is away."""
MAX_HEARTBEAT_INTERVAL = 0.5
"""Seconds between two beats at most: a stop must arrive within a second."""
MAX_UNSTORED_SECONDS = 2.0
"""Seconds for which what a turn puts out is kept while the ledger is away. Beyond that the turn
pauses: what piles up would be lost if this process died, and its memory is not endless."""


def heartbeat_interval(lease: float) -> float:
    """Seconds between two beats of a turn that writes nothing."""
    return min(MAX_HEARTBEAT_INTERVAL, lease / 4)


class TurnWriter:
    """The pen of the worker that holds a claim.

    ``lost`` is called once when another worker owns the turn; ``stopped`` when the ledger says
    that a stop was asked for; ``away`` when something has waited for `HELD` seconds to be stored.
    """

    def __init__(
        self,
        claim: Claim,
        ledger: Ledger,
        streams: Subscriptions,
        *,
        lease: float,
        lost: Callable[[], None],
        stopped: Callable[[], None],
        away: Callable[[], None],
    ) -> None:
        self.claim = claim
        self.length = len(claim.reply)
        self._ledger = ledger
        self._streams = streams
        self._lease = lease
        self._lost = lost
        self._stopped = stopped
        self._away = away
        self._loop = asyncio.get_running_loop()
        self._index = claim.index
        self._pending_text: list[str] = []
        self._published_at = 0.0
        self._entries: list[LogEntry] = []
        self._unacknowledged: list[LogEntry] = []
        self._unstored_since: float | None = None
        self._writing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._written_at = self._loop.time()
        self._live = True
        self._closed = False
        self._steering = len(claim.steering_messages)
        self._taken = 0
        self.steered = asyncio.Event()
        """Set while a message that was handed to the turn has not been taken."""
        self.steering_taken(0)

    def write_text(self, text: str) -> None:
        """The reply goes on."""
        if not self._pending_text:
            self._publish_soon()
        self._pending_text.append(text)

    def _publish_soon(self) -> None:
        wait = self._published_at + PUBLISH_INTERVAL - self._loop.time()
        if wait > 0:
            self._loop.call_later(wait, self._publish)
        else:
            self._loop.call_soon(self._publish)

    def steering_taken(self, count: int) -> None:
        """The skill has taken the first ``count`` of the messages that steer the turn."""
        self._taken = count
        if self._steering > count:
            self.steered.set()
        else:
            self.steered.clear()

    def truncate(self, position: int) -> None:
        """Withdraw what was said from ``position`` on."""
        self._publish()
        self.length = position
        # Live text overtakes recorded events, and nothing may overtake a reset.
        self._live = False
        self.write(TextReset(turn=self.claim.turn, position=position))

    def write(self, entry: LogEntry) -> None:
        """Write an event or a step, soon."""
        self._publish()
        self._entries.append(entry)
        self._check_backlog()
        self._schedule(FLUSH_INTERVAL)

    def _check_backlog(self) -> None:
        """Something waits to be stored."""
        now = self._loop.time()
        if self._unstored_since is None:
            self._unstored_since = now
        elif now - self._unstored_since > MAX_UNSTORED_SECONDS:
            self._away()

    def _publish(self) -> None:
        if not self._pending_text or self._closed:
            return
        text = "".join(self._pending_text)
        self._pending_text.clear()
        self._published_at = self._loop.time()
        claim, position = self.claim, self.length
        self.length += len(text)
        last = self._entries[-1] if self._entries else None
        if isinstance(last, Text):
            self._entries[-1] = Text(turn=claim.turn, position=last.position, text=last.text + text)
        else:
            self._entries.append(Text(turn=claim.turn, position=position, text=text))
            self._schedule(FLUSH_INTERVAL)
        self._check_backlog()
        if self._live:
            self._streams.publish_live(
                claim.conversation, claim.turn, claim.attempt, position, text
            )

    def _schedule(self, delay: float) -> None:
        if self._timer is None and self._flushing is None and not self._closed:
            self._timer = self._loop.call_later(delay, self._flush_soon)

    def _flush_soon(self) -> None:
        self._timer = None
        self._flushing = asyncio.create_task(self._flush_in_background())

    async def _flush_in_background(self) -> None:
        delay = FLUSH_INTERVAL
        try:
            await self.flush()
        except LedgerUnavailable:
            delay = RETRY_INTERVAL
        except (Fenced, IndexConflict):
            self._abandon()
        finally:
            self._flushing = None
            if self._entries or self._unacknowledged:
                self._schedule(delay)

    def _abandon(self) -> None:
        if not self._closed:
            self.close()
            self._lost()

    async def flush(self) -> None:
        """Write everything gathered so far; when this returns it is stored.

        A batch whose outcome is unknown is repeated as it was, with the index it had: the ledger
        applies it once. Raises `LedgerUnavailable`, `Fenced`, `IndexConflict`.
        """
        async with self._writing:
            self._publish()
            await self._repeat_unacknowledged()
            taken_at = self._loop.time()
            if self._entries:
                self._unacknowledged, self._entries = self._entries, []
                await self._repeat_unacknowledged()
            self._unstored_since = taken_at if self._entries else None

    async def _repeat_unacknowledged(self) -> None:
        if self._unacknowledged:
            self._advance(await self._append(self._unacknowledged))
            self._unacknowledged = []

    async def _append(self, entries: Sequence[LogEntry]) -> Progress:
        return await self._ledger.append(self.claim, entries, expect=self._index, lease=self._lease)

    def _advance(self, progress: Progress) -> None:
        self._index = progress.index
        self._written_at = self._loop.time()
        self._steering = max(self._steering, progress.steering_count)
        self.steering_taken(self._taken)
        if progress.stop_requested and not self._closed:
            self._stopped()

    async def heartbeat(self) -> None:
        """Renew the lease, unless a write does so, and learn what the ledger has to tell."""
        if (
            self._writing.locked()
            or self._loop.time() - self._written_at < heartbeat_interval(self._lease) / 2
        ):
            return
        await self.sync()

    async def sync(self) -> None:
        """Learn at once of a stop, of messages that steer the turn, and of its loss."""
        try:
            if self._entries or self._unacknowledged:
                await self.flush()
                return
            async with self._writing:
                if not self._closed:
                    self._advance(await self._append(()))
        except LedgerUnavailable:
            pass  # the turn goes on; the flush timer retries
        except (Fenced, IndexConflict):
            self._abandon()

    async def settle(
        self,
        finished: Finished,
        pending_question: PendingQuestion | None = None,
        *,
        steered: Sequence[Message] = (),
        dead_letter_reason: str = "",
    ) -> None:
        """Write the rest and close the turn, in one step. ``finished`` gets the reply's length;
        the rest is as for `Ledger.settle`.

        Waits for as long as the store is away. Raises `Fenced` when another worker owns the turn.
        """

        async def write() -> None:
            await self._repeat_unacknowledged()
            await self._ledger.settle(
                self.claim,
                self._entries,
                expect=self._index,
                pending_question=pending_question,
                taken_steering=steered,
                dead_letter_reason=dead_letter_reason,
            )

        async with self._writing:
            self._publish()
            self._entries.append(msgspec.structs.replace(finished, length=self.length))
            await _retry_until_available(write)
            self._entries = []
            self.close()

    async def release(self) -> None:
        """Store what was said and hand the turn to another worker. Waits for as long as the store
        is away."""

        async def write() -> None:
            await self.flush()
            await self._ledger.release(self.claim)

        try:
            await _retry_until_available(write)
        except (Fenced, IndexConflict):
            pass  # it is another's already
        self.close()

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _retry_until_available(write: Callable[[], Awaitable[None]]) -> None:
    """Do it when the store is there."""
    while True:
        try:
            return await write()
        except LedgerUnavailable:
            await asyncio.sleep(RETRY_INTERVAL)
