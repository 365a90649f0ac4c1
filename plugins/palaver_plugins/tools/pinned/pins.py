"""Pins: the definitions that an operator has approved, in the ledger's records."""

from collections.abc import Mapping

import msgspec

from palaver import Conflict, RecordStore, SteadyClock, TooLarge

MAX_PINS = 2_000
"""Approved definitions of one program."""


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """The approved definition of a tool. ``at`` is in seconds since the epoch."""

    digest: str
    at: float


_decode = msgspec.json.Decoder(dict[str, Pin]).decode
_encode = msgspec.json.Encoder().encode


class Pins:
    """The approved definitions of one program, by its own names of the tools."""

    def __init__(self, records: RecordStore, channel: str, program: str) -> None:
        """``channel``: the name under which the source keeps its records."""
        self._records = records
        self._channel = channel
        self._key = f"pins:{program}"
        self._clock = SteadyClock()

    async def read(self) -> dict[str, str]:
        """Return the digests. Raises `LedgerUnavailable`."""
        record = await self._records.read_record(self._channel, self._key)
        pins = _decode(record.value) if record else {}
        return {tool: pin.digest for tool, pin in pins.items()}

    async def approve(self, digests: Mapping[str, str]) -> None:
        """Store digests, in the place of earlier ones. Raises `LedgerUnavailable`, `TooLarge`."""
        new = {tool: Pin(digest=digest, at=self._clock()) for tool, digest in digests.items()}
        while True:
            record = await self._records.read_record(self._channel, self._key)
            pins = (_decode(record.value) if record else {}) | new
            if len(pins) > MAX_PINS:
                raise TooLarge(f"more than {MAX_PINS} tools of a program cannot be approved")
            try:
                await self._records.write_record(
                    self._channel, self._key, _encode(pins), expect=record.version if record else 0
                )
                return
            except Conflict:
                continue
