"""CuttingProxy: a TCP relay that breaks connections, at a byte of your choice or at once."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Literal, NamedTuple, Self
from urllib.parse import urlsplit

CHUNK = 65_536
_NO_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER for 0 seconds: closing sends RST, and what waits unsent is dropped."""


class Disconnect(NamedTuple):
    """Where a connection ends: after so many bytes to one side; with RST, else with FIN."""

    after_bytes: int
    to: Literal["client", "server"] = "client"
    reset: bool = False


DisconnectPlan = Callable[[], Disconnect | None]
OnDisconnect = Callable[[Disconnect, bytes, bytes], None]
"""Told of each planned cut: what had passed in its direction, and what was held back of the piece
in which it fell."""


class FaultProxy:
    """A relay on a loopback port of its own to ``target``, the address of a server as a URL::

        async with CuttingProxy(address, plan=lambda: Cut(chance.randrange(3_000))) as proxy:
            ...  # connect to proxy.address

    ``plan`` is asked once for each connection where to cut it; None lets it be. ``target``,
    ``plan`` and ``refuse`` may be changed at any time and hold for connections from then on.
    """

    def __init__(
        self,
        target: str,
        *,
        plan: DisconnectPlan = lambda: None,
        on_disconnect: OnDisconnect = lambda cut, passed, rest: None,
    ) -> None:
        self.target = target
        self.plan = plan
        self.refuses_connections = False
        """Break new connections at once."""
        self.address = ""
        self.connection_count = 0
        """So many were made."""
        self._observer = on_disconnect
        self._relays: dict[asyncio.Task[None], _Relay] = {}
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.address = urlsplit(self.target)._replace(netloc=f"127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *problem: object) -> None:
        self._server.close()
        self.disconnect_all()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def disconnect_all(self, *, reset: bool = True) -> None:
        """Break every connection now."""
        for relay in self._relays.values():
            relay.end(reset=reset)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connection_count += 1
        relay = self._relays[task] = _Relay(writer, self._observer)
        try:
            if not self.refuses_connections:
                await relay.run(reader, self.target, self.plan())
        except OSError:
            pass  # nobody listens there
        finally:
            relay.end(reset=True)
            del self._relays[task]


class _Relay:
    """One connection."""

    def __init__(self, client: asyncio.StreamWriter, observer: OnDisconnect) -> None:
        self._writers = [client]
        self._observer = observer
        self._ended = False

    async def run(self, reader: asyncio.StreamReader, target: str, cut: Disconnect | None) -> None:
        """Relay until a side ends it or the cut comes. Raises `OSError` without a server."""
        place = urlsplit(target)
        answers, server = await asyncio.open_connection(place.hostname, place.port)
        (client,) = self._writers
        self._writers.append(server)
        if self._ended:
            self._close(server, reset=True)
        to_client = cut if cut and cut.to == "client" else None
        to_server = cut if cut and cut.to == "server" else None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, server, to_server))
                group.create_task(self._pump(answers, client, to_client))
        except* OSError:
            pass  # a side has broken off: so does the other

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, cut: Disconnect | None
    ) -> None:
        passed = b""  # kept only as far as the cut
        while data := await source.read(CHUNK):
            rest = b""
            if cut is not None:
                left = cut.after_bytes - len(passed)
                data, rest = data[:left], data[left:]
                passed += data
            sink.write(data)
            await sink.drain()
            if cut is not None and len(passed) == cut.after_bytes:
                self._observer(cut, passed, rest)
                self.end(reset=cut.reset)
                return
        sink.close()

    def end(self, *, reset: bool) -> None:
        """Break both sides off. What comes later finds it done."""
        if not self._ended:
            self._ended = True
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
