"""HTTP listener: serves a started server at its address."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator

from aiohttp import web

from palaver.authentication import check_bind
from palaver.config.settings import ServerSettings
from palaver.errors import ConfigurationError, PalaverError, ServerError
from palaver.server import Server
from palaver.web.application import ACTIVE_REQUESTS, make_application

CONNECTION_CLOSE_TIMEOUT = 1.0
"""Seconds that open connections have to end after the graceful shutdown."""


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
        self._application = make_application(server)
        self._runner = web.AppRunner(
            self._application,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=CONNECTION_CLOSE_TIMEOUT,
        )

    async def start(self) -> str:
        """Listen, and return the address. Raises as `listening` does."""
        host = self._settings.host
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, self._settings.port).start()
        except OSError as error:
            raise _address_error(host, self._settings.port, error) from error
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._runner.addresses[0][1]}/"

    async def stop_listening(self) -> None:
        """Accept no new connections, and no further requests on open ones."""
        for site in list(self._runner.sites):
            await site.stop()
        await asyncio.sleep(0)  # lets received requests start: their connections are not idle
        if self._runner.server is not None:
            self._application[ACTIVE_REQUESTS].close_idle(self._runner.server)

    def open_requests(self) -> int:
        """Return the number of requests that are being answered, without websockets and event
        streams."""
        return self._application[ACTIVE_REQUESTS].count

    async def close(self) -> None:
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
