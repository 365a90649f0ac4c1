"""Pace: how fast the messages of a server are read, so that a flood leaves time for others."""

import asyncio

MESSAGE_BYTES = 4_096
"""What a line costs beside its bytes: parsing has a price of its own."""


class Pace:
    """Delays the reader of a stream which brings more than ``bytes_per_second`` on average."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._paid_until = 0.0

    async def spend(self, piece: bytes) -> None:
        """Return when a piece that has been read may be used. The first second is free."""
        now = asyncio.get_running_loop().time()
        cost = len(piece) + MESSAGE_BYTES * piece.count(b"\n")
        self._paid_until = max(self._paid_until, now - 1.0) + cost / self._rate
        await asyncio.sleep(max(0.0, self._paid_until - now))
