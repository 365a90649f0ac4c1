"""Due records: a channel's records that somebody has to work on, each claimed by one server."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from palaver.errors import LedgerUnavailable, describe_error
from palaver.platforms.calls import Times
from palaver.records import Record, RecordStore

log = logging.getLogger(__name__)


class DueRecords:
    """Claims due records and lets ``work`` work on each, in a task of its own, until it is closed.

    ``scope`` is the channel of the records; of ``times``, ``lease`` and ``poll`` count. ``limit``
    is the number of records at once. `wake` makes it look at once. ``work`` must not raise.
    """

    def __init__(
        self,
        records: RecordStore,
        scope: str,
        work: Callable[[Record], Awaitable[None]],
        *,
        times: Times,
        limit: int,
    ) -> None:
        self._records = records
        self._scope = scope
        self._work = work
        self._times = times
        self._wake = asyncio.Event()
        self._limit = limit
        self._slots = asyncio.Semaphore(limit)
        self._tasks: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None] | None = None
        self._claims = True

    @property
    def is_full(self) -> bool:
        """Return whether there is no room for another record."""
        return len(self._tasks) >= self._limit

    def start(self) -> None:
        self._main = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop the work. Other servers continue, or this one after its next start."""
        tasks = [*self._tasks, *([self._main] if self._main else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop_claiming(self) -> None:
        """Leave what is due from now on to other servers: this one shuts down."""
        self._claims = False

    def wake(self) -> None:
        """Look for due records."""
        self._wake.set()

    async def _run(self) -> None:
        while self._claims:
            await self._slots.acquire()
            record = await self._claim()
            if record is not None:
                self._own(record)
                continue
            self._slots.release()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._times.poll):
                    await self._wake.wait()
            self._wake.clear()

    async def _claim(self) -> Record | None:
        try:
            return await self._records.claim_record(self._scope, self._times.lease)
        except LedgerUnavailable:
            return None
        except Exception as error:  # noqa: BLE001  the barrier of a channel's work
            log.error("cannot claim a record of %s: %s", self._scope, describe_error(error))
            return None

    def _own(self, record: Record) -> None:
        task = asyncio.ensure_future(self._work(record))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._slots.release())
