"""FaultProxy: a TCP relay that breaks connections, at a chosen byte or at once."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Literal, NamedTuple, Self
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536
_NO_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 seconds: closing sends RST and drops unsent data."""


class Disconnect(NamedTuple):
    """Planned end of a connection: after this many bytes in one direction, by RST or by FIN."""

    after_bytes: int
    to: Literal["client", "server"] = "client"
    reset: bool = False


DisconnectPlan = Callable[[], Disconnect | None]
OnDisconnect = Callable[[Disconnect, bytes, bytes], None]
"""Called for each planned disconnect with the bytes that passed in its direction, and with the
withheld rest of the chunk in which it fell."""


class FaultProxy:
    """A relay from a loopback port to ``target``, the URL of a server::

        async with FaultProxy(url, plan=lambda: Disconnect(rng.randrange(3_000))) as proxy:
            ...  # connect to proxy.address

    ``plan`` is called once per connection; None means no disconnect. ``target``, ``plan`` and
    ``refuses_connections`` may be changed at any time and apply to new connections.
    """

    def __init__(
        self,
        target: str,
        *,
        plan: DisconnectPlan = lambda: None,
        on_disconnect: OnDisconnect = lambda disconnect, passed, rest: None,
    ) -> None:
        self.target = target
        self.plan = plan
        self.refuses_connections = False
        self.address = ""
        self.connection_count = 0
        self._on_disconnect = on_disconnect
        self._relays: dict[asyncio.Task[None], _Relay] = {}
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.address = urlsplit(self.target)._replace(netloc=f"127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *problem: object) -> None:
        self._server.close()
        self.disconnect_all()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def disconnect_all(self, *, reset: bool = True) -> None:
        """Break every open connection now."""
        for relay in self._relays.values():
            relay.close(reset=reset)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connection_count += 1
        relay = self._relays[task] = _Relay(writer, self._on_disconnect)
        try:
            if not self.refuses_connections:
                await relay.run(reader, self.target, self.plan())
        except OSError:
            pass  # the target refuses connections
        finally:
            relay.close(reset=True)
            del self._relays[task]


class _Relay:
    """One connection."""

    def __init__(self, client: asyncio.StreamWriter, on_disconnect: OnDisconnect) -> None:
        self._writers = [client]
        self._on_disconnect = on_disconnect
        self._closed = False

    async def run(
        self, reader: asyncio.StreamReader, target: str, disconnect: Disconnect | None
    ) -> None:
        """Relay until either side closes or the planned disconnect is reached.

        Raises `OSError` when the target refuses the connection.
        """
        url = urlsplit(target)
        server_reader, server = await asyncio.open_connection(url.hostname, url.port)
        (client,) = self._writers
        self._writers.append(server)
        if self._closed:
            self._close(server, reset=True)
        to_client = disconnect if disconnect and disconnect.to == "client" else None
        to_server = disconnect if disconnect and disconnect.to == "server" else None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, server, to_server))
                group.create_task(self._pump(server_reader, client, to_client))
        except* OSError:
            pass  # one side broke the connection, so the task group ends both

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        disconnect: Disconnect | None,
    ) -> None:
        passed = b""  # kept only for connections with a planned disconnect
        while data := await source.read(CHUNK_BYTES):
            rest = b""
            if disconnect is not None:
                remaining = disconnect.after_bytes - len(passed)
                data, rest = data[:remaining], data[remaining:]
                passed += data
            sink.write(data)
            await sink.drain()
            if disconnect is not None and len(passed) == disconnect.after_bytes:
                self._on_disconnect(disconnect, passed, rest)
                self.close(reset=disconnect.reset)
                return
        sink.close()

    def close(self, *, reset: bool) -> None:
        """Close both sides; only the first call has an effect."""
        if not self._closed:
            self._closed = True
            for writer in self._writers:
                self._close(writer, reset=reset)

    def _close(self, writer: asyncio.StreamWriter, *, reset: bool) -> None:
        if not reset:
            writer.close()
            return
        connection = writer.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        writer.transport.abort()
