"""Event queue: the events that wait for one event stream."""

import asyncio
from collections import deque
from collections.abc import Callable

from palaver.web.connection import PIECE_BYTES, Connection

PING_INTERVAL = 15.0
"""Seconds of silence after which a comment keeps the connection open."""
PING = b": ping\n\n"


class EventQueue:
    """Parts of an event stream. ``on_overflow`` is called when the client has not taken more than
    ``limit`` bytes.

    A snapshot or a page of stored events may be larger than that. After each of them `drain` waits
    for the client; meanwhile the limit holds for what comes in addition.
    """

    def __init__(self, connection: Connection, limit: int, on_overflow: Callable[[], None]) -> None:
        self._connection = connection
        self._limit = limit
        self._on_overflow = on_overflow
        self._call_soon = asyncio.get_running_loop().call_soon
        self._parts: deque[bytes] = deque()
        self._position = 0
        """How much of the first part is written."""
        self._waiting_bytes = 0
        self._written_bytes = 0
        self._page_bytes = 0
        self._has_parts = asyncio.Event()
        self._is_taken = asyncio.Event()
        self._is_taken.set()
        self._is_check_due = False
        self.is_over = False

    def put(self, part: bytes) -> None:
        if self.is_over:
            return
        if not self._is_check_due:
            self._is_check_due = True
            self._call_soon(self._check)  # after all parts of a page
        self._parts.append(part)
        self._waiting_bytes += len(part)
        self._is_taken.clear()
        self._has_parts.set()

    def ping(self) -> None:
        self.put(PING)

    def end(self) -> None:
        """Let `next` return what waits, and nothing after that."""
        self.is_over = True
        self._has_parts.set()

    def clear(self) -> None:
        """Drop what waits."""
        self._parts.clear()
        self._position = 0
        self._waiting_bytes = self._connection.waiting_bytes = 0

    async def next(self) -> bytes:
        """Wait for parts and return them; return a comment after `PING_INTERVAL`, and nothing at
        the end."""
        self._written_bytes = 0
        if not self._parts:
            self._is_taken.set()
        try:
            async with asyncio.timeout(PING_INTERVAL):
                await self._has_parts.wait()
        except TimeoutError:
            return PING
        data = self._take()
        self._written_bytes = len(data)
        if not self._parts and not self.is_over:
            self._has_parts.clear()
        return data

    def _take(self) -> bytes:
        """Return the next parts, or a piece of the next one: more would only wait elsewhere."""
        taken: list[bytes | memoryview] = []
        room = PIECE_BYTES
        while self._parts and room:
            part = memoryview(self._parts[0])[self._position : self._position + room]
            taken.append(part)
            room -= len(part)
            self._position += len(part)
            if self._position == len(self._parts[0]):
                self._waiting_bytes -= len(self._parts.popleft())
                self._position = 0
        self._connection.waiting_bytes = self._waiting_bytes
        return b"".join(taken)

    async def drain(self) -> None:
        """Wait until the client has taken everything."""
        self._page_bytes = self._waiting_bytes + self._written_bytes
        await self._is_taken.wait()
        self._page_bytes = 0

    def _check(self) -> None:
        self._is_check_due = False
        self._connection.waiting_bytes = self._waiting_bytes
        if not self._connection.writable.is_set():
            self._connection.count_buffered()
        unsent = self._waiting_bytes + self._written_bytes
        if not self.is_over and unsent > self._limit + self._page_bytes:
            self._on_overflow()
