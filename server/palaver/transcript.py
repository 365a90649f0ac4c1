"""Transcript: writes one claimed turn, at once to the viewers here and gathered to the ledger."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from palaver.errors import Fenced, IndexConflict, LedgerUnavailable
from palaver.ledger import Claim, Entry, Ledger, Progress, Waiting
from palaver.messages import Finished, Message, Text, TextReset
from palaver.streams import Streams

GATHER = 0.05
"""Seconds for which entries are gathered before they are written: at most 20 writes a second."""
FRAME = 0.016
"""Seconds between two pieces of live text, one frame of a screen: the first piece of a reply, and
any that comes after a pause, leaves at once; what follows within a frame travels with the next."""
RETRY = 0.25
"""Seconds between attempts while the ledger is away."""
BEAT = 0.5
"""Seconds between two beats at most: a stop must arrive within a second."""
HELD = 2.0
"""Seconds for which what a turn puts out is kept while the ledger is away. Beyond that the turn
pauses: what piles up would be lost if this process died, and its memory is not endless."""


def rhythm(lease: float) -> float:
    """Seconds between two beats of a turn that writes nothing."""
    return min(BEAT, lease / 4)


class Transcript:
    """The pen of the worker that holds a claim.

    ``lost`` is called once when another worker owns the turn; ``stopped`` when the ledger says
    that a stop was asked for; ``away`` when something has waited for `HELD` seconds to be stored.
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
        self._fresh: list[str] = []
        self._published_at = 0.0
        self._entries: list[Entry] = []
        self._unacknowledged: list[Entry] = []
        self._held_since: float | None = None
        self._writing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._written_at = self._loop.time()
        self._live = True
        self._closed = False
        self._steering = len(claim.steering)
        self._taken = 0
        self.steered = asyncio.Event()
        """Set while a message that was handed to the turn has not been taken."""
        self.took(0)

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

    def took(self, count: int) -> None:
        """The skill has taken the first ``count`` of the messages that steer the turn."""
        self._taken = count
        if self._steering > count:
            self.steered.set()
        else:
            self.steered.clear()

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
        self._hold()
        self._schedule(GATHER)

    def _hold(self) -> None:
        """Something waits to be stored."""
        now = self._loop.time()
        if self._held_since is None:
            self._held_since = now
        elif now - self._held_since > HELD:
            self._away()

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
        self._hold()
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
            taken_at = self._loop.time()
            if self._entries:
                self._unacknowledged, self._entries = self._entries, []
                await self._repeat_unacknowledged()
            self._held_since = taken_at if self._entries else None

    async def _repeat_unacknowledged(self) -> None:
        if self._unacknowledged:
            self._advance(await self._append(self._unacknowledged))
            self._unacknowledged = []

    async def _append(self, entries: Sequence[Entry]) -> Progress:
        return await self._ledger.append(self.claim, entries, expect=self._index, lease=self._lease)

    def _advance(self, progress: Progress) -> None:
        self._index = progress.index
        self._written_at = self._loop.time()
        self._steering = max(self._steering, progress.steering)
        self.took(self._taken)
        if progress.stop and not self._closed:
            self._stopped()

    async def beat(self) -> None:
        """Renew the lease, unless a write does so, and learn what the ledger has to tell."""
        if self._writing.locked() or self._loop.time() - self._written_at < rhythm(self._lease) / 2:
            return
        await self.look()

    async def look(self) -> None:
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
        waiting: Waiting | None = None,
        *,
        steered: Sequence[Message] = (),
        dead: str = "",
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
                waiting=waiting,
                steered=steered,
                dead=dead,
            )

        async with self._writing:
            self._publish()
            self._entries.append(msgspec.structs.replace(finished, length=self.length))
            await _insist(write)
            self._entries = []
            self.close()

    async def release(self) -> None:
        """Store what was said and hand the turn to another worker. Waits for as long as the store
        is away."""

        async def write() -> None:
            await self.flush()
            await self._ledger.release(self.claim)

        try:
            await _insist(write)
        except (Fenced, IndexConflict):
            pass  # it is another's already
        self.close()

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _insist(write: Callable[[], Awaitable[None]]) -> None:
    """Do it when the store is there."""
    while True:
        try:
            return await write()
        except LedgerUnavailable:
            await asyncio.sleep(RETRY)
