"""Records of calls that another replica may need: those that a session may cancel, and questions
that a person has declined. They are deleted after a day."""

import asyncio
import contextlib
import hashlib

from palaver import Conflict, LedgerError, RecordStore
from palaver_plugins.channels.mcp.protocol import RequestId
from palaver_plugins.channels.mcp.settings import NAME

SCOPE = f"{NAME}.calls"
KEEP_SECONDS = 86_400.0
"""Seconds for which a record is kept: as long as the conversation of its call."""
SWEEP_SECONDS = 600.0
"""Seconds between two sweeps of what is older."""
LEASE_SECONDS = 60.0


class CallRecords:
    """The records, by what they are about."""

    def __init__(self, records: RecordStore) -> None:
        self._records = records

    async def note_call(self, session: str, id: RequestId, call: str) -> None:
        """Note which call a request of a session has made."""
        await self._write(_call_key(session, id), call)

    async def find_call(self, session: str, id: RequestId) -> str:
        """Return the call that a request of a session has made; empty: it is over, or unknown."""
        return await self._read(_call_key(session, id))

    async def forget_call(self, session: str, id: RequestId) -> None:
        await self._delete(_call_key(session, id))

    async def note_declined(self, message: str, number: int, how: str) -> None:
        """Note that a person has declined or left a question of a call."""
        await self._write(f"declined:{message}:{number}", how)

    async def find_declined(self, message: str, number: int) -> str:
        """Return how a question of a call was declined; empty: it was not."""
        return await self._read(f"declined:{message}:{number}")

    async def sweep_forever(self) -> None:
        while True:
            with contextlib.suppress(LedgerError):
                await self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Delete the records that are due."""
        while record := await self._records.claim_record(SCOPE, LEASE_SECONDS):
            with contextlib.suppress(Conflict):
                await self._records.delete_record(SCOPE, record.key, expect=record.version)

    async def _write(self, key: str, value: str) -> None:
        record = await self._records.read_record(SCOPE, key)
        version = record.version if record else 0
        with contextlib.suppress(Conflict):  # a repeated request has just written the same
            await self._records.write_record(
                SCOPE, key, value.encode(), expect=version, due_in=KEEP_SECONDS
            )

    async def _read(self, key: str) -> str:
        record = await self._records.read_record(SCOPE, key)
        return "" if record is None else record.value.decode()

    async def _delete(self, key: str) -> None:
        if record := await self._records.read_record(SCOPE, key):
            with contextlib.suppress(Conflict):
                await self._records.delete_record(SCOPE, key, expect=record.version)


def _call_key(session: str, id: RequestId) -> str:
    digest = hashlib.sha256(f"{session}\0{id!r}".encode(errors="surrogatepass")).hexdigest()
    return f"call:{digest}"
