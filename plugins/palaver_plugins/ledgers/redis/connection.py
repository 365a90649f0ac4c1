"""Connection to Redis that many callers share, with pipelined commands.

Commands that are sent in one iteration of the event loop go out in one write, and replies arrive in
the order of the commands. redis-py's pool needs 110 µs of CPU for a script call, this less than 20.
A pooled connection also must not be reused after a command was cancelled. Here callers do not read:
a cancelled call leaves a cancelled future in the queue, and its reply is discarded."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import hiredis

IDLE_SECONDS = 10.0
"""Seconds of silence after which a PING checks whether the connection is alive."""

RedisReply = Any  # a RESP3 value: bytes, int, None, lists, dicts, errors
OnPublish = Callable[[bytes, bytes], None]
"""Callback with the channel and the payload of a published message."""
ConfirmMaster = Callable[[], Awaitable[str]]
"""Returns why replicated writes may be lost nevertheless; empty when the master is confirmed."""
Unconfirmed = list[tuple[asyncio.Future[RedisReply], RedisReply]]
"""Replies that wait for replication."""


class ConnectionLost(NamedTuple):
    """Substitute for a reply: the connection ended, and the command may or may not have run."""

    reason: str


class Connection(asyncio.Protocol):
    """Connection that matches replies to commands by their order."""

    def __init__(
        self, on_publish: OnPublish, on_lost: Callable[["Connection"], None], timeout: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_publish = on_publish
        self._on_lost = on_lost
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
            # Pushes that answer SUBSCRIBE are in the order of the commands, like any reply.
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

    # Called by the node client

    def send(self, command: bytes) -> asyncio.Future[RedisReply]:
        """Queue a packed command. Its future gets the reply, a `hiredis.ReplyError` or
        `ConnectionLost`."""
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

    def await_replicas(self, replicas: int, confirm_master: ConfirmMaster | None = None) -> None:
        """Deliver replies only after so many replicas have all earlier writes, and
        ``confirm_master``, called after that, confirms the master."""
        self._replicas = replicas
        self._wait_command = pack("WAIT", replicas, round(self._timeout * 500))
        self._confirm_master = confirm_master

    def _on_wait_reply(self, reply: RedisReply) -> None:
        replies, self._unconfirmed = self._unconfirmed, []
        if not isinstance(reply, int):
            _deliver(replies, str(reply))
        elif reply < self._replicas:
            _deliver(replies, f"{reply} of {self._replicas} replicas have it")
        elif self._confirm_master is None:
            _deliver(replies, "")
        else:
            task = self._loop.create_task(self._deliver_confirmed(self._confirm_master, replies))
            self._confirmations.add(task)
            task.add_done_callback(self._confirmations.discard)

    async def _deliver_confirmed(self, confirm_master: ConfirmMaster, replies: Unconfirmed) -> None:
        try:
            _deliver(replies, await confirm_master())
        except asyncio.CancelledError:
            _fail_all(replies, self.lost.result())
            raise

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    def close(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._end(reason)

    def _flush(self) -> None:
        if self._replicas:
            self._output.append(self._wait_command)
            self._pending.append(None)
        if self._transport is not None and not self.lost.done():
            self._transport.write(b"".join(self._output))
        self._output.clear()

    def _check_liveness(self) -> None:
        """Close the connection after a timeout, and PING the server after a silence."""
        silent = self._loop.time() - self._received_at
        if self._pending and silent > self._timeout:
            self.close(f"no answer for {self._timeout:g} s")
            return
        if not self._pending and silent > IDLE_SECONDS:
            self.send(b"*1\r\n$4\r\nPING\r\n")
        interval = min(self._timeout, IDLE_SECONDS) / 4
        self._check_timer = self._loop.call_later(interval, self._check_liveness)

    def _end(self, reason: str) -> None:
        if self.lost.done():
            return
        if self._check_timer is not None:
            self._check_timer.cancel()
        self.lost.set_result(reason)
        self._on_lost(self)
        for task in self._confirmations:
            task.cancel()
        _fail_all(self._unconfirmed, reason)
        _fail_all([(future, None) for future in self._pending if future is not None], reason)
        self._unconfirmed.clear()
        self._pending.clear()


def _deliver(replies: Unconfirmed, problem: str) -> None:
    """Deliver the replies; a ``problem`` replaces those that are no errors."""
    unreplicated = hiredis.ReplyError(f"NOREPLICAS {problem}")
    for future, reply in replies:
        if not future.done():
            is_error = isinstance(reply, hiredis.ReplyError)
            future.set_result(unreplicated if problem and not is_error else reply)


def _fail_all(replies: Unconfirmed, reason: str) -> None:
    for future, _ in replies:
        if not future.done():
            future.set_result(ConnectionLost(reason))


def pack(*words: str | bytes | int | float) -> bytes:
    """Encode a command for the connection."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # any number of words
    return packed
