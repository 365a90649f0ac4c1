"""The kit's proxy: it passes everything on, until it cuts where it was told to."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from tests.chaos.proxy import Disconnect, FaultProxy


class Server:
    """Greets with ``greeting``, and keeps what each client said and how it left."""

    def __init__(self, greeting: bytes) -> None:
        self.greeting = greeting
        self.heard: list[bytes] = []
        self.left: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.address = ""

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.greeting)
        number = len(self.heard)
        self.heard.append(b"")
        error: Exception | None = None
        try:
            while data := await reader.read(1000):
                self.heard[number] += data
        except ConnectionError as broken:
            error = broken
        writer.close()
        self.left.put_nowait(error)


@contextlib.asynccontextmanager
async def served(greeting: bytes = b"good evening") -> AsyncIterator[Server]:
    server = Server(greeting)
    listener = await asyncio.start_server(server.meet, "127.0.0.1", 0)
    server.address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with asyncio.timeout(5):
        yield server
    listener.close()


async def visit(proxy: FaultProxy, words: bytes = b"") -> tuple[bytes, Exception | None]:
    """What a client hears until the connection ends, and the error that it ends with."""
    reader, writer = await asyncio.open_connection("127.0.0.1", _port(proxy.address))
    heard, error = b"", None
    writer.write(words)
    try:
        while data := await reader.read(1000):
            heard += data
    except ConnectionError as broken:
        error = broken
    writer.close()
    return heard, error


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


async def test_everything_passes_in_both_directions() -> None:
    greeting = random.Random(1).randbytes(1_000_000)
    async with served(greeting) as server, FaultProxy(server.address) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(proxy.address))
        assert await reader.readexactly(len(greeting)) == greeting
        writer.write(greeting)
        writer.close()
        assert await server.left.get() is None
        assert server.heard == [greeting]
        assert proxy.connection_count == 1


@pytest.mark.parametrize("after", [0, 1, 7])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_is_cut_off_at_the_byte(after: int, reset: bool) -> None:
    async with (
        served() as server,
        FaultProxy(server.address, plan=lambda: Disconnect(after, "client", reset)) as proxy,
    ):
        heard, error = await visit(proxy)
        assert heard == b"good evening"[:after]
        assert isinstance(error, ConnectionResetError) == reset
        assert (await server.left.get() is not None) == reset


@pytest.mark.parametrize("after", [0, 1, 7])
async def test_a_server_is_cut_off_at_the_byte(after: int) -> None:
    cuts: list[tuple[Disconnect, bytes, bytes]] = []
    async with (
        served() as server,
        FaultProxy(
            server.address,
            plan=lambda: Disconnect(after, "server"),
            on_disconnect=lambda *seen: cuts.append(seen),
        ) as proxy,
    ):
        await visit(proxy, b"good night")
        await server.left.get()
        assert server.heard == [b"good night"[:after]]
        assert cuts == [(Disconnect(after, "server"), b"good night"[:after], b"good night"[after:])]


async def test_all_connections_break_at_once_and_new_ones_are_refused() -> None:
    async with served(b"") as server, FaultProxy(server.address) as proxy:
        visits = [asyncio.create_task(visit(proxy, b"x")) for _ in range(3)]
        while server.heard != [b"x"] * 3:  # noqa: ASYNC110  the server tells nobody
            await asyncio.sleep(0.001)
        proxy.refuses_connections = True
        proxy.disconnect_all()
        assert all(error is not None for _, error in await asyncio.gather(*visits))
        heard, error = await visit(proxy)
        assert heard == b""
        assert error is not None
        assert len(server.heard) == 3


async def test_new_connections_go_to_another_target() -> None:
    async with served(b"one") as one, served(b"two") as two, FaultProxy(one.address) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(proxy.address))
        assert await reader.readexactly(3) == b"one"
        proxy.target = two.address
        second, other = await asyncio.open_connection("127.0.0.1", _port(proxy.address))
        assert await second.readexactly(3) == b"two"
        for side in (writer, other):
            side.close()


async def test_a_target_that_is_away_breaks_the_connection() -> None:
    async with served() as server:
        away = server.address
    async with FaultProxy(away) as proxy:
        heard, error = await visit(proxy)
        assert heard == b""
        assert error is not None
