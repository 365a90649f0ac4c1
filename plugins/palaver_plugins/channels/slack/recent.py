"""Recent ids: what was received last, for all servers."""

import msgspec

from palaver import Conflict, RecordStore

MAX_RECENT = 50
"""Ids that are remembered in one place."""

_decode = msgspec.json.Decoder(dict[str, str]).decode
_encode = msgspec.json.Encoder().encode


class RecentIds:
    """Ids with their owners; the first owner of an id keeps it."""

    def __init__(self, records: RecordStore, channel: str) -> None:
        self._records = records
        self._channel = channel

    async def claim(self, place: str, id: str, owner: str) -> bool:
        """Return whether ``id`` belongs to ``owner``, who may claim it again. Raises
        `LedgerUnavailable`."""
        key = f"recent:{place}"
        while True:
            record = await self._records.read_record(self._channel, key)
            owners = _decode(record.value) if record else {}
            if id in owners:
                return owners[id] == owner
            kept = list(owners.items())[-(MAX_RECENT - 1) :]
            try:
                await self._records.write_record(
                    self._channel,
                    key,
                    _encode(dict([*kept, (id, owner)])),
                    expect=record.version if record else 0,
                )
            except Conflict:
                continue
            return True
