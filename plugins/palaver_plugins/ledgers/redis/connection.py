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

IDLE_SECONDS = 10.0
"""Seconds of silence after which the connection is tried, so that a dead one is noticed."""

RedisReply = Any  # what the RESP3 protocol can say: bytes, int, None, lists, dicts, errors
OnPublish = Callable[[bytes, bytes], None]
"""Called with the channel and the payload of a published message."""
ConfirmMaster = Callable[[], Awaitable[str]]
"""Returns why what replicas have may be lost all the same, or nothing."""
Unconfirmed = list[tuple[asyncio.Future[RedisReply], RedisReply]]
"""Replies that nobody has yet been given."""


class ConnectionLost(NamedTuple):
    """In place of a reply: the connection went away, and whether the command ran is unknown."""

    reason: str


class Connection(asyncio.Protocol):
    """One connection's life: commands out, replies matched to them by order alone."""

    def __init__(
        self, push: OnPublish, ended: Callable[["Connection"], None], timeout: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_publish = push
        self._on_lost = ended
        self._timeout = timeout
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._pending: deque[asyncio.Future[RedisReply] | None] = deque()  # None: the reply to WAIT
        self._unconfirmed: Unconfirmed = []
        self._replicas = 0
        self._wait_command = b""
        self._confirm_master: ConfirmMaster | None = None
        self._confirmations: set[asyncio.Task[None]] = set()
        self._output: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._received_at = self._loop.time()
        self._check_timer: asyncio.TimerHandle | None = None
        self.lost = self._loop.create_future()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._check_liveness()

    def data_received(self, data: bytes) -> None:
        self._received_at = self._loop.time()
        reader = self._reader
        reader.feed(data)
        while (reply := reader.gets()) is not Ellipsis:
            # The pushes that answer SUBSCRIBE stand in the row like any reply.
            if type(reply) is hiredis.PushNotification and reply[0] == b"message":
                self._on_publish(reply[1], reply[2])
                continue
            future = self._pending.popleft()
            if future is None:
                self._on_wait_reply(reply)
            elif self._replicas:
                self._unconfirmed.append((future, reply))
            elif not future.done():
                future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(str(error or "the server closed the connection"))

    # Called by the link

    def send(self, command: bytes) -> asyncio.Future[RedisReply]:
        """Queue a packed command. The future gets its reply, a `hiredis.ReplyError` or `Lost`."""
        future: asyncio.Future[RedisReply] = self._loop.create_future()
        if self.lost.done():
            future.set_result(ConnectionLost(self.lost.result()))
            return future
        if not self._pending:
            self._received_at = self._loop.time()
        self._pending.append(future)
        if not self._output:
            self._loop.call_soon(self._flush)
        self._output.append(command)
        return future

    def await_replicas(self, replicas: int, doubt: ConfirmMaster | None = None) -> None:
        """From now on hold replies back until so many replicas have what was written before, and
        ``doubt``, asked after that, finds no reason to doubt it."""
        self._replicas = replicas
        self._wait_command = pack("WAIT", replicas, round(self._timeout * 500))
        self._confirm_master = doubt

    def _on_wait_reply(self, reply: RedisReply) -> None:
        held, self._unconfirmed = self._unconfirmed, []
        if not isinstance(reply, int):
            _release(held, str(reply))
        elif reply < self._replicas:
            _release(held, f"{reply} of {self._replicas} replicas have it")
        elif self._confirm_master is None:
            _release(held, "")
        else:
            task = self._loop.create_task(self._release_when_confirmed(self._confirm_master, held))
            self._confirmations.add(task)
            task.add_done_callback(self._confirmations.discard)

    async def _release_when_confirmed(self, doubt: ConfirmMaster, held: Unconfirmed) -> None:
        try:
            _release(held, await doubt())
        except asyncio.CancelledError:
            _fail_all(held, self.lost.result())
            raise

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    def close(self, why: str) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    def _flush(self) -> None:
        if self._replicas:
            self._output.append(self._wait_command)
            self._pending.append(None)
        if self._transport is not None and not self.lost.done():
            self._transport.write(b"".join(self._output))
        self._output.clear()

    def _check_liveness(self) -> None:
        """Give up on a server that answers nothing, and try one that has long been silent."""
        silent = self._loop.time() - self._received_at
        if self._pending and silent > self._timeout:
            self.close(f"no answer for {self._timeout:g} s")
            return
        if not self._pending and silent > IDLE_SECONDS:
            self.send(b"*1\r\n$4\r\nPING\r\n")
        self._check_timer = self._loop.call_later(
            min(self._timeout, IDLE_SECONDS) / 4, self._check_liveness
        )

    def _end(self, why: str) -> None:
        if self.lost.done():
            return
        if self._check_timer is not None:
            self._check_timer.cancel()
        self.lost.set_result(why)
        self._on_lost(self)
        for task in self._confirmations:
            task.cancel()
        _fail_all(self._unconfirmed, why)
        _fail_all([(future, None) for future in self._pending if future is not None], why)
        self._unconfirmed.clear()
        self._pending.clear()


def _release(held: Unconfirmed, doubt: str) -> None:
    """Give the replies, unless there is a ``doubt``; errors are given in any case."""
    doubted = hiredis.ReplyError(f"NOREPLICAS {doubt}")
    for future, reply in held:
        if not future.done():
            refused = isinstance(reply, hiredis.ReplyError)
            future.set_result(doubted if doubt and not refused else reply)


def _fail_all(held: Unconfirmed, why: str) -> None:
    for future, _ in held:
        if not future.done():
            future.set_result(ConnectionLost(why))


def pack(*words: str | bytes | int | float) -> bytes:
    """A command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # any number of words
    return packed
