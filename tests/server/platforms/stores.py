"""Stores of records with faults, and with other tasks between their steps."""

import asyncio

from palaver.errors import LedgerUnavailable
from palaver.records import Record, RecordStore
from palaver.testing import MemoryLedger


class SteppedRecords:
    """Records whose every step lets other tasks run first.

    ``is_away``: every step fails. ``is_hanging``: no write ends.
    """

    def __init__(self, records: RecordStore | None = None) -> None:
        self._records = records or ledger_in_loop_time()
        self.is_away = False
        self.is_hanging = False
        self.writes = 0

    async def read_record(self, channel: str, key: str) -> Record | None:
        await self._step()
        return await self._records.read_record(channel, key)

    async def write_record(
        self, channel: str, key: str, value: bytes, *, expect: int, due_in: float | None = None
    ) -> Record:
        await self._step()
        if self.is_hanging:
            await asyncio.Event().wait()
        self.writes += 1
        return await self._records.write_record(channel, key, value, expect=expect, due_in=due_in)

    async def claim_record(self, channel: str, lease: float) -> Record | None:
        await self._step()
        return await self._records.claim_record(channel, lease)

    async def delete_record(self, channel: str, key: str, *, expect: int) -> None:
        await self._step()
        await self._records.delete_record(channel, key, expect=expect)

    async def list_records(
        self, channel: str, prefix: str = "", *, after: str = ""
    ) -> tuple[Record, ...]:
        await self._step()
        return await self._records.list_records(channel, prefix, after=after)

    async def _step(self) -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise LedgerUnavailable("the ledger is away")


def ledger_in_loop_time() -> MemoryLedger:
    """Return a ledger on the clock of the running loop."""
    clock = asyncio.get_running_loop().time
    return MemoryLedger(clock=clock, monotonic=clock)
