"""Turn writer: writes a claimed turn, live to the subscriptions here, buffered to the ledger."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from palaver.errors import Fenced, IndexConflict, LedgerUnavailable
from palaver.ledger import Claim, Ledger, LogEntry, PendingQuestion, Progress
from palaver.messages import NO_PARTS, Finished, Message, ReplyParts, Text, TextReset
from palaver.streams.subscriptions import Subscriptions
from palaver.turns.interruption import Interruption

FLUSH_INTERVAL = 0.05
"""Seconds for which entries are buffered before they are written: at most 20 writes a second."""
PUBLISH_INTERVAL = 0.016
"""Seconds between two pieces of live text, one frame of a screen. The first piece of a reply, and
any after a pause, is published at once; text that follows within a frame is published together."""
RETRY_INTERVAL = 0.25
"""Seconds between two attempts to write while the ledger is unavailable."""
MAX_HEARTBEAT_INTERVAL = 0.5
"""Seconds between two heartbeats at most: a stop must arrive within a second."""
MAX_UNSTORED_SECONDS = 2.0
"""Seconds for which a turn buffers its output while the ledger is unavailable; then it pauses. The
buffer would be lost if this process died, and its memory is bounded."""


def heartbeat_interval(lease: float) -> float:
    """Return the seconds between two heartbeats of a turn that writes nothing."""
    return min(MAX_HEARTBEAT_INTERVAL, lease / 4)


class TurnWriter:
    """Buffered, fenced writer of one turn's events and steps.

    It requests an interruption when another worker owns the turn, when the ledger reports a stop,
    and when entries have waited for `MAX_UNSTORED_SECONDS` to be stored.
    """

    def __init__(
        self,
        claim: Claim,
        ledger: Ledger,
        subscriptions: Subscriptions,
        interruption: Interruption,
        *,
        lease: float,
    ) -> None:
        self.claim = claim
        self.length = len(claim.reply)
        self._ledger = ledger
        self._subscriptions = subscriptions
        self.interruption = interruption
        self._lease = lease
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
        self._steering_count = len(claim.steering_messages)
        self._taken_count = 0
        self.steered = asyncio.Event()
        """Set while a message that was handed to the turn has not been taken."""
        self.record_taken_steering(0)

    def write_text(self, text: str) -> None:
        """Add ``text`` to the reply."""
        if not self._pending_text:
            self._publish_soon()
        self._pending_text.append(text)

    def _publish_soon(self) -> None:
        wait = self._published_at + PUBLISH_INTERVAL - self._loop.time()
        if wait > 0:
            self._loop.call_later(wait, self._publish)
        else:
            self._loop.call_soon(self._publish)

    def record_taken_steering(self, count: int) -> None:
        """Record that the skill has taken the first ``count`` of the messages that steer the
        turn."""
        self._taken_count = count
        if self._steering_count > count:
            self.steered.set()
        else:
            self.steered.clear()

    def truncate(self, position: int) -> None:
        """Withdraw the text from ``position`` on."""
        self._publish()
        self.length = position
        # Live text arrives before stored events, and no text may arrive before a reset.
        self._live = False
        self.write(TextReset(turn=self.claim.turn, position=position))

    def write(self, entry: LogEntry) -> None:
        """Add an event or a step, to be flushed soon."""
        self._publish()
        self._entries.append(entry)
        self._check_backlog()
        self._schedule(FLUSH_INTERVAL)

    def _check_backlog(self) -> None:
        """Pause the turn when entries have waited too long to be stored."""
        now = self._loop.time()
        if self._unstored_since is None:
            self._unstored_since = now
        elif now - self._unstored_since > MAX_UNSTORED_SECONDS:
            self.interruption.pause()

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
            self._subscriptions.publish_live(
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
            self.interruption.fence()

    async def flush(self) -> None:
        """Write everything buffered so far; when this returns it is stored.

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
        self._steering_count = max(self._steering_count, progress.steering_count)
        self.record_taken_steering(self._taken_count)
        if progress.stop_requested and not self._closed:
            self.interruption.stop()

    async def heartbeat(self) -> None:
        """Renew the lease, unless a write has just done so."""
        if (
            self._writing.locked()
            or self._loop.time() - self._written_at < heartbeat_interval(self._lease) / 2
        ):
            return
        await self.sync()

    async def sync(self) -> None:
        """Ask the ledger at once for a stop, for messages that steer the turn, and for its
        owner."""
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
        parts: ReplyParts = NO_PARTS,
    ) -> None:
        """Write the rest and close the turn, in one step. ``finished`` gets the reply's length;
        the rest is as for `Ledger.settle`.

        Waits for as long as the ledger is unavailable. Raises `Fenced` when another worker owns the
        turn.
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
                parts=parts,
            )

        async with self._writing:
            self._publish()
            self._entries.append(msgspec.structs.replace(finished, length=self.length))
            await _retry_until_available(write)
            self._entries = []
            self.close()

    async def release(self) -> None:
        """Flush, and give the turn back to the ledger for another worker. Waits for as long as the
        ledger is unavailable."""

        async def write() -> None:
            await self.flush()
            await self._ledger.release(self.claim)

        try:
            await _retry_until_available(write)
        except (Fenced, IndexConflict):
            pass  # another worker owns it already
        self.close()

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _retry_until_available(write: Callable[[], Awaitable[None]]) -> None:
    """Call ``write`` until the ledger is available."""
    while True:
        try:
            return await write()
        except LedgerUnavailable:
            await asyncio.sleep(RETRY_INTERVAL)
