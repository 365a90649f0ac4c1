"""Acceptor: the listening sockets, and the connections that they accept."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that the system keeps until they are accepted."""
BATCH = 8
"""Connections accepted in one iteration of the event loop."""
WAIT_SECONDS = 0.05
"""Seconds without accepting while a further connection must wait."""
PAUSE_SECONDS = 0.5
"""Seconds without accepting after an error, such as too many open files."""
LOG_INTERVAL = 10.0
"""Least seconds between two records about such errors."""
BUFFER_BYTES = 131_072
"""Bytes of a socket's send buffer and of its receive buffer; Linux doubles them."""


class Acceptor:
    """Accepts connections and hands each one, with its peer's address, to ``on_connection``.

    While ``must_wait`` returns True, connections wait in the system's queue.
    """

    def __init__(
        self,
        on_connection: Callable[[socket.socket, str], None],
        on_error: Callable[[], None],
        must_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        self._on_connection = on_connection
        self._must_wait = must_wait
        self._on_error = on_error
        self._sockets: list[socket.socket] = []
        self._loop = asyncio.get_running_loop()
        self._errors = 0
        self._logged_at = float("-inf")

    @property
    def port(self) -> int:
        port: int = self._sockets[0].getsockname()[1]
        return port

    async def listen(self, host: str, port: int, *, user_timeout: float) -> None:
        """Listen at every address of ``host``. Raises `OSError`.

        The system ends a connection whose peer leaves data unacknowledged for ``user_timeout``
        seconds.
        """
        bound: list[socket.socket] = []
        try:
            for family, address in await _resolve(host, port, self._loop):
                if _is_supported(family):
                    bound.append(_bind(family, address, user_timeout))
        except OSError:
            for listening in bound:
                listening.close()
            raise
        for listening in bound:
            self.add(listening)

    def add(self, listening: socket.socket) -> None:
        """Accept the connections of a listening socket, and own it."""
        self._sockets.append(listening)
        self._resume(listening)

    def close(self) -> None:
        """Accept no more connections."""
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BATCH):
            if self._must_wait():
                self._stop_for(listening, WAIT_SECONDS)
                return
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listening, error)
                return
            connection.setblocking(False)
            self._on_connection(connection, str(address[0]) if address else "")

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Stop accepting for a while: the next attempt would fail at once."""
        self._on_error()
        self._errors += 1
        now = self._loop.time()
        if now - self._logged_at >= LOG_INTERVAL:
            self._logged_at = now
            log.error("cannot accept connections (%d times): %s", self._errors, error.strerror)
            self._errors = 0
        self._stop_for(listening, PAUSE_SECONDS)

    def _stop_for(self, listening: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listening)
        self._loop.call_later(seconds, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)


async def _resolve(
    host: str, port: int, loop: asyncio.AbstractEventLoop
) -> Iterable[tuple[int, tuple[object, ...]]]:
    found = await loop.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return dict.fromkeys((family, address) for family, _, _, _, address in found)


def _is_supported(family: int) -> bool:
    """Return whether this system has the address family; ``localhost`` may name others."""
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError as error:
        return error.errno != errno.EAFNOSUPPORT
    return True


def _bind(family: int, address: tuple[object, ...], user_timeout: float) -> socket.socket:
    """Return a listening socket. Accepted sockets inherit its options."""
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listening.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout * 1000)
            )
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
