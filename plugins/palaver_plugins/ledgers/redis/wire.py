"""Wire: one connection to Redis, used by many callers at once.

Commands of one turn of the event loop leave in one write, and replies come back in the order of
the commands. redis-py's pool costs 110 µs of CPU for a script call where this costs under 20, and
has another rule to keep: a connection abandoned in the middle of a command must never be used
again. Here no caller ever reads: a cancelled one leaves a cancelled future in the row, and its
reply is thrown away when its place comes up.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import hiredis

IDLE = 10.0
"""Seconds of silence after which the connection is tried, so that a dead one is noticed."""

Reply = Any  # what the RESP3 protocol can say: bytes, int, None, lists, dicts, errors
Push = Callable[[bytes, bytes], None]
"""Called with the channel and the payload of a published message."""
Doubt = Callable[[], Awaitable[str]]
"""Returns why what replicas have may be lost all the same, or nothing."""
Held = list[tuple[asyncio.Future[Reply], Reply]]
"""Replies that nobody has yet been given."""


class Lost(NamedTuple):
    """In place of a reply: the connection went away, and whether the command ran is unknown."""

    why: str


class Wire(asyncio.Protocol):
    """One connection's life: commands out, replies matched to them by order alone."""

    def __init__(self, push: Push, ended: Callable[["Wire"], None], timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._push = push
        self._ended = ended
        self._timeout = timeout
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._waiting: deque[asyncio.Future[Reply] | None] = deque()  # None: the reply to WAIT
        self._held: Held = []
        self._replicas = 0
        self._confirm = b""
        self._doubt: Doubt | None = None
        self._doubting: set[asyncio.Task[None]] = set()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._heard = self._loop.time()
        self._tick: asyncio.TimerHandle | None = None
        self.lost = self._loop.create_future()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        reader = self._reader
        reader.feed(data)
        while (reply := reader.gets()) is not Ellipsis:
            # The pushes that answer SUBSCRIBE stand in the row like any reply.
            if type(reply) is hiredis.PushNotification and reply[0] == b"message":
                self._push(reply[1], reply[2])
                continue
            future = self._waiting.popleft()
            if future is None:
                self._confirmed(reply)
            elif self._replicas:
                self._held.append((future, reply))
            elif not future.done():
                future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(str(error or "the server closed the connection"))

    # Called by the link

    def send(self, command: bytes) -> asyncio.Future[Reply]:
        """Queue a packed command. The future gets its reply, a `hiredis.ReplyError` or `Lost`."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self.lost.done():
            future.set_result(Lost(self.lost.result()))
            return future
        if not self._waiting:
            self._heard = self._loop.time()
        self._waiting.append(future)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(command)
        return future

    def await_replicas(self, replicas: int, doubt: Doubt | None = None) -> None:
        """From now on hold replies back until so many replicas have what was written before, and
        ``doubt``, asked after that, finds no reason to doubt it."""
        self._replicas = replicas
        self._confirm = pack("WAIT", replicas, round(self._timeout * 500))
        self._doubt = doubt

    def _confirmed(self, reply: Reply) -> None:
        held, self._held = self._held, []
        if not isinstance(reply, int):
            _answer(held, str(reply))
        elif reply < self._replicas:
            _answer(held, f"{reply} of {self._replicas} replicas have it")
        elif self._doubt is None:
            _answer(held, "")
        else:
            task = self._loop.create_task(self._ask(self._doubt, held))
            self._doubting.add(task)
            task.add_done_callback(self._doubting.discard)

    async def _ask(self, doubt: Doubt, held: Held) -> None:
        try:
            _answer(held, await doubt())
        except asyncio.CancelledError:
            _lose(held, self.lost.result())
            raise

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def close(self, why: str) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    def _flush(self) -> None:
        if self._replicas:
            self._out.append(self._confirm)
            self._waiting.append(None)
        if self._transport is not None and not self.lost.done():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _watch(self) -> None:
        """Give up on a server that answers nothing, and try one that has long been silent."""
        silent = self._loop.time() - self._heard
        if self._waiting and silent > self._timeout:
            self.close(f"no answer for {self._timeout:g} s")
            return
        if not self._waiting and silent > IDLE:
            self.send(b"*1\r\n$4\r\nPING\r\n")
        self._tick = self._loop.call_later(min(self._timeout, IDLE) / 4, self._watch)

    def _end(self, why: str) -> None:
        if self.lost.done():
            return
        if self._tick is not None:
            self._tick.cancel()
        self.lost.set_result(why)
        self._ended(self)
        for task in self._doubting:
            task.cancel()
        _lose(self._held, why)
        _lose([(future, None) for future in self._waiting if future is not None], why)
        self._held.clear()
        self._waiting.clear()


def _answer(held: Held, doubt: str) -> None:
    """Give the replies, unless there is a ``doubt``; errors are given in any case."""
    doubted = hiredis.ReplyError(f"NOREPLICAS {doubt}")
    for future, reply in held:
        if not future.done():
            refused = isinstance(reply, hiredis.ReplyError)
            future.set_result(doubted if doubt and not refused else reply)


def _lose(held: Held, why: str) -> None:
    for future, _ in held:
        if not future.done():
            future.set_result(Lost(why))


def pack(*words: str | bytes | int | float) -> bytes:
    """A command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # any number of words
    return packed
