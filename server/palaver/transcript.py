"""Transcript: writes one claimed turn, at once to the viewers here and gathered to the ledger."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from palaver.errors import Fenced, IndexConflict, LedgerUnavailable
from palaver.ledger import Claim, Entry, Ledger, Progress, Waiting
from palaver.messages import Finished, Text, TextReset
from palaver.streams import Streams

GATHER = 0.05
"""Seconds for which entries are gathered before they are written: at most 20 writes a second."""
FRAME = 0.016
"""Seconds between two pieces of live text, one frame of a screen: the first piece of a reply, and
any that comes after a pause, leaves at once; what follows within a frame travels with the next."""
RETRY = 0.25
"""Seconds between attempts while the ledger is away."""


class Transcript:
    """The pen of the worker that holds a claim.

    ``lost`` is called once when another worker owns the turn; ``stopped`` when the ledger says
    that a stop was asked for.
    """

    def __init__(
        self,
        claim: Claim,
        ledger: Ledger,
        streams: Streams,
        *,
        lease: float,
        lost: Callable[[], None],
        stopped: Callable[[], None],
    ) -> None:
        self.claim = claim
        self.length = len(claim.reply)
        self._ledger = ledger
        self._streams = streams
        self._lease = lease
        self._lost = lost
        self._stopped = stopped
        self._loop = asyncio.get_running_loop()
        self._index = claim.index
        self._fresh: list[str] = []
        self._published_at = 0.0
        self._entries: list[Entry] = []
        self._unacknowledged: list[Entry] = []
        self._writing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._written_at = self._loop.time()
        self._live = True
        self._closed = False

    def say(self, text: str) -> None:
        """The reply goes on."""
        if not self._fresh:
            self._publish_soon()
        self._fresh.append(text)

    def _publish_soon(self) -> None:
        wait = self._published_at + FRAME - self._loop.time()
        if wait > 0:
            self._loop.call_later(wait, self._publish)
        else:
            self._loop.call_soon(self._publish)

    def reset(self, position: int) -> None:
        """Withdraw what was said from ``position`` on."""
        self._publish()
        self.length = position
        # Live text overtakes recorded events, and nothing may overtake a reset.
        self._live = False
        self.put(TextReset(turn=self.claim.turn, position=position))

    def put(self, entry: Entry) -> None:
        """Write an event or a step, soon."""
        self._publish()
        self._entries.append(entry)
        self._schedule(GATHER)

    def _publish(self) -> None:
        if not self._fresh or self._closed:
            return
        text = "".join(self._fresh)
        self._fresh.clear()
        self._published_at = self._loop.time()
        claim, position = self.claim, self.length
        self.length += len(text)
        last = self._entries[-1] if self._entries else None
        if isinstance(last, Text):
            self._entries[-1] = Text(turn=claim.turn, position=last.position, text=last.text + text)
        else:
            self._entries.append(Text(turn=claim.turn, position=position, text=text))
            self._schedule(GATHER)
        if self._live:
            self._streams.live(claim.conversation, claim.turn, claim.attempt, position, text)

    def _schedule(self, delay: float) -> None:
        if self._timer is None and self._flushing is None and not self._closed:
            self._timer = self._loop.call_later(delay, self._flush_soon)

    def _flush_soon(self) -> None:
        self._timer = None
        self._flushing = asyncio.create_task(self._flush_in_background())

    async def _flush_in_background(self) -> None:
        delay = GATHER
        try:
            await self.flush()
        except LedgerUnavailable:
            delay = RETRY
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
            if self._entries:
                self._unacknowledged, self._entries = self._entries, []
                await self._repeat_unacknowledged()

    async def _repeat_unacknowledged(self) -> None:
        if self._unacknowledged:
            self._advance(await self._append(self._unacknowledged))
            self._unacknowledged = []

    async def _append(self, entries: Sequence[Entry]) -> Progress:
        return await self._ledger.append(self.claim, entries, expect=self._index, lease=self._lease)

    def _advance(self, progress: Progress) -> None:
        self._index = progress.index
        self._written_at = self._loop.time()
        if progress.stop and not self._closed:
            self._stopped()

    async def beat(self) -> None:
        """Renew the lease when no write has done so lately, and learn of a stop."""
        if self._closed or self._loop.time() - self._written_at < self._lease / 4:
            return
        try:
            if self._entries or self._unacknowledged:
                await self.flush()
            else:
                async with self._writing:
                    self._advance(await self._append(()))
        except LedgerUnavailable:
            pass  # the turn goes on; the flush timer retries
        except (Fenced, IndexConflict):
            self._abandon()

    async def settle(self, finished: Finished, waiting: Waiting | None = None) -> None:
        """Write the rest and close the turn, in one step. ``finished`` gets the reply's length.

        Raises `Fenced` when another worker owns the turn, and `LedgerUnavailable` when the store
        stays away for longer than the lease.
        """
        async with self._writing:
            self._publish()
            self._entries.append(msgspec.structs.replace(finished, length=self.length))
            deadline = self._loop.time() + self._lease
            while not await self._settled(waiting):
                if self._loop.time() > deadline:
                    raise LedgerUnavailable("the store stayed away for longer than the lease")
                await asyncio.sleep(RETRY)
            self.close()

    async def _settled(self, waiting: Waiting | None) -> bool:
        try:
            await self._repeat_unacknowledged()
            await self._ledger.settle(
                self.claim, self._entries, expect=self._index, waiting=waiting
            )
        except LedgerUnavailable:
            return False
        self._entries = []
        return True

    async def release(self) -> None:
        """Store what was said and hand the turn to another worker."""
        try:
            await self.flush()
            await self._ledger.release(self.claim)
        except (Fenced, IndexConflict, LedgerUnavailable):
            pass  # it is another's already, or its lease will lapse
        self.close()

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
