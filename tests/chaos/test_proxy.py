"""FaultProxy: it relays every byte until a planned or requested disconnect."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from tests.chaos.proxy import Disconnect, FaultProxy


class Server:
    """A server that sends ``greeting`` and records each connection's input and ending."""

    def __init__(self, greeting: bytes) -> None:
        self.greeting = greeting
        self.received: list[bytes] = []
        self.endings: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.address = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.greeting)
        number = len(self.received)
        self.received.append(b"")
        error: Exception | None = None
        try:
            while data := await reader.read(1000):
                self.received[number] += data
        except ConnectionError as broken:
            error = broken
        writer.close()
        self.endings.put_nowait(error)


@contextlib.asynccontextmanager
async def served(greeting: bytes = b"good evening") -> AsyncIterator[Server]:
    server = Server(greeting)
    listener = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    server.address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with asyncio.timeout(5):
        yield server
    listener.close()


async def connect(proxy: FaultProxy, data: bytes = b"") -> tuple[bytes, Exception | None]:
    """Send ``data``, read until the end, and return the input and the error at its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", _port(proxy.address))
    received, error = b"", None
    writer.write(data)
    try:
        while chunk := await reader.read(1000):
            received += chunk
    except ConnectionError as broken:
        error = broken
    writer.close()
    return received, error


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


async def test_every_byte_passes_in_both_directions() -> None:
    greeting = random.Random(1).randbytes(1_000_000)
    async with served(greeting) as server, FaultProxy(server.address) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(proxy.address))
        assert await reader.readexactly(len(greeting)) == greeting
        writer.write(greeting)
        writer.close()
        assert await server.endings.get() is None
        assert server.received == [greeting]
        assert proxy.connection_count == 1


@pytest.mark.parametrize("after", [0, 1, 7])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_is_disconnected_at_the_planned_byte(after: int, reset: bool) -> None:
    async with (
        served() as server,
        FaultProxy(server.address, plan=lambda: Disconnect(after, "client", reset)) as proxy,
    ):
        received, error = await connect(proxy)
        assert received == b"good evening"[:after]
        assert isinstance(error, ConnectionResetError) == reset
        assert (await server.endings.get() is not None) == reset


@pytest.mark.parametrize("after", [0, 1, 7])
async def test_a_server_is_disconnected_at_the_planned_byte(after: int) -> None:
    disconnects: list[tuple[Disconnect, bytes, bytes]] = []
    async with (
        served() as server,
        FaultProxy(
            server.address,
            plan=lambda: Disconnect(after, "server"),
            on_disconnect=lambda *call: disconnects.append(call),
        ) as proxy,
    ):
        await connect(proxy, b"good night")
        await server.endings.get()
        assert server.received == [b"good night"[:after]]
        assert disconnects == [
            (Disconnect(after, "server"), b"good night"[:after], b"good night"[after:])
        ]


async def test_all_connections_break_at_once_and_new_ones_are_refused() -> None:
    async with served(b"") as server, FaultProxy(server.address) as proxy:
        connections = [asyncio.create_task(connect(proxy, b"x")) for _ in range(3)]
        while server.received != [b"x"] * 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        proxy.refuses_connections = True
        proxy.disconnect_all()
        assert all(error is not None for _, error in await asyncio.gather(*connections))
        received, error = await connect(proxy)
        assert received == b""
        assert error is not None
        assert len(server.received) == 3


async def test_new_connections_go_to_another_target() -> None:
    async with served(b"one") as one, served(b"two") as two, FaultProxy(one.address) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(proxy.address))
        assert await reader.readexactly(3) == b"one"
        proxy.target = two.address
        second, other = await asyncio.open_connection("127.0.0.1", _port(proxy.address))
        assert await second.readexactly(3) == b"two"
        for side in (writer, other):
            side.close()


async def test_a_connection_to_an_unavailable_target_is_broken() -> None:
    async with served() as server:
        unavailable = server.address
    async with FaultProxy(unavailable) as proxy:
        received, error = await connect(proxy)
        assert received == b""
        assert error is not None
