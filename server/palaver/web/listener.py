"""HTTP listener: serves a started server at its address."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator

from aiohttp import web

from palaver.authentication import check_bind
from palaver.config.settings import ServerSettings
from palaver.errors import ConfigurationError, Overloaded, PalaverError, ServerError
from palaver.server import Server
from palaver.web.acceptor import Acceptor
from palaver.web.application import LONG_REQUESTS, make_application
from palaver.web.connection import Connection, raw_response
from palaver.web.connections import Connections
from palaver.web.cross_origin import CrossOriginAccess
from palaver.web.ingress import Ingress

CONNECTION_CLOSE_TIMEOUT = 1.0
"""Seconds that open connections have to end after the graceful shutdown."""
USER_TIMEOUT_MARGIN = 5.0
"""Seconds beyond ``connections.write_timeout`` after which the system itself ends a connection
whose peer takes nothing."""
REFUSAL = raw_response(Overloaded("too many connections are open; try again"))


@contextlib.asynccontextmanager
async def listening(server: Server) -> AsyncIterator[str]:
    """Serve the web interface of a started server; yield its address. Leaving the block shuts the
    server down gracefully.

    Raises `ServerError` when another process uses the port, `ConfigurationError` when the address
    cannot be used for another reason.
    """
    check_bind(server.settings)
    listener = HttpListener(server)
    try:
        yield await listener.start()
    finally:
        try:
            await server.shut_down(listener)
        finally:
            await listener.close()


class HttpListener:
    """The listening sockets and open connections of one server."""

    def __init__(self, server: Server) -> None:
        self._settings = server.settings.server
        self._timeouts = server.settings.connections
        self._application = make_application(server)
        self._runner = web.AppRunner(
            self._application, handle_signals=False, shutdown_timeout=CONNECTION_CLOSE_TIMEOUT
        )
        self._connections = Connections(
            server.settings.connections,
            server.metrics,
            server.client_addresses,
            tenants=len(server.settings.tenants()),
        )
        self._acceptor = Acceptor(
            self._connect,
            lambda: server.metrics.limit_reached("open_files"),
            self._connections.must_wait,
        )
        self._cross_origin = CrossOriginAccess(server.authenticator)
        self._connecting: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Listen, and return the address. Raises as `listening` does."""
        host = self._settings.host
        await self._runner.setup()
        assert self._runner.server is not None
        Ingress(self._runner.server, self._connections, self._cross_origin)
        user_timeout = self._timeouts.write_timeout + USER_TIMEOUT_MARGIN
        try:
            await self._acceptor.listen(host, self._settings.port, user_timeout=user_timeout)
        except OSError as error:
            raise _address_error(host, self._settings.port, error) from error
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._acceptor.port}/"

    def _connect(self, client: socket.socket, peer: str) -> None:
        """Serve an accepted connection, if the limits leave room for it."""
        connections = self._connections
        address = (
            "" if connections.addresses.is_proxy(peer) else connections.addresses.resolve(peer)
        )
        if self._runner.server is None or not connections.has_room(address):
            with client, contextlib.suppress(OSError):
                client.send(REFUSAL)
            return
        connection = Connection(
            self._runner.server, connections, address, is_reserve=connections.is_full
        )
        connections.add(connection)
        connecting = asyncio.create_task(self._open(connection, client))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    async def _open(self, connection: Connection, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, client)
        except BaseException:
            self._connections.remove(connection)
            client.close()
            raise

    async def stop_listening(self) -> None:
        """Accept no new connections, and no further requests on open ones."""
        self._acceptor.close()
        await asyncio.sleep(0)  # lets received requests start: their connections are not idle
        self._connections.close_idle()

    def open_requests(self) -> int:
        """Return the number of requests that are being answered, without websockets and event
        streams."""
        return self._connections.answering - self._application[LONG_REQUESTS]()

    async def close(self) -> None:
        self._acceptor.close()
        await self._runner.cleanup()


def check_address(server: ServerSettings) -> None:
    """Check that the server can listen at its address now. Raises as `listening` does."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        raise _address_error(server.host, server.port, error) from error


def _address_error(host: str, port: int, error: OSError) -> PalaverError:
    # Another process may stop soon, so a supervisor should try that again.
    kind = ServerError if error.errno == errno.EADDRINUSE else ConfigurationError
    return kind(f"cannot listen on {host}:{port}: {error.strerror}")
