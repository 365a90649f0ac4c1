"""Leases: one owner among all servers, such as for a connection that must exist once."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from palaver.errors import Conflict, LedgerUnavailable, describe_error
from palaver.records import Record, RecordStore

log = logging.getLogger(__name__)


class Lease:
    """A lease with a name; the ledger's clock decides when it ends.

    `run` is what to use. `acquire` waits until this server owns the lease, `keep` renews it and
    returns when it is lost, in time to stop what this server did as its owner.
    """

    def __init__(
        self, records: RecordStore, channel: str, name: str, *, seconds: float = 15.0
    ) -> None:
        self._records = records
        self._scope = f"{channel}.lease.{name}"  # a scope of its own: `claim_record` finds only it
        self._seconds = seconds
        self._record: Record | None = None
        self._held_until = 0.0
        """When it ends unless it is renewed, by the loop's clock."""

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Acquire the lease and await ``work()``, which is cancelled when the lease is lost."""
        await self.acquire()
        tasks = [asyncio.ensure_future(work()), asyncio.create_task(self.keep())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.release()

    async def acquire(self) -> None:
        while not await self.try_acquire():  # noqa: ASYNC110  other servers set no event
            await asyncio.sleep(self._seconds / 5)

    async def try_acquire(self) -> bool:
        """Return whether this server owns the lease now."""
        try:
            if await self._records.read_record(self._scope, "lease") is None:
                with contextlib.suppress(Conflict):
                    await self._records.write_record(
                        self._scope, "lease", b"", expect=0, due_in=0.0
                    )
            self._held_until = asyncio.get_running_loop().time() + self._seconds
            self._record = await self._records.claim_record(self._scope, self._seconds)
        except LedgerUnavailable as error:
            log.info("the lease %s cannot be acquired: %s", self._scope, describe_error(error))
            return False
        return self._record is not None

    async def keep(self) -> None:
        """Renew the lease until it is lost, or could be lost within a fifth of its time."""
        loop = asyncio.get_running_loop()
        step = pause = self._seconds / 5
        while (left := self._held_until - step - loop.time()) > 0:
            await asyncio.sleep(min(pause, left))
            asked_at = loop.time()
            try:
                async with asyncio.timeout_at(min(asked_at + step, self._held_until - step)):
                    await self._renew(self._seconds)
                self._held_until = asked_at + self._seconds
                pause = step
            except Conflict:
                return
            except (LedgerUnavailable, TimeoutError) as error:
                log.info("the lease %s is not renewed: %s", self._scope, describe_error(error))
                pause = step / 5

    async def release(self) -> None:
        """Let another server have the lease at once."""
        if self._record is not None:
            with contextlib.suppress(Conflict, LedgerUnavailable):
                await self._renew(0.0)
            self._record = None

    async def _renew(self, seconds: float) -> None:
        assert self._record is not None
        self._record = await self._records.write_record(
            self._scope, "lease", b"", expect=self._record.version, due_in=seconds
        )
