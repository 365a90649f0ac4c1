"""Clients that read slowly or not at all: their memory is bounded, and they are disconnected."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from tests.server.web.live_server import (
    TIMEOUT_SECONDS,
    LiveServer,
    WebSocketClient,
    eventually,
    open_live_server,
)
from tests.server.web.raw_client import RawClient, raw_connection

from palaver.config.settings import ConnectionSettings, LedgerSettings

pytestmark = pytest.mark.slow

GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
CONVERSATION = "/v1/conversations/t"


def metric(live_server: LiveServer, name: str) -> float:
    """Return the value of a metric; 0 when it has none yet."""
    for line in live_server.server.metrics.exposition().decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    return 0.0


def limit_metric(live_server: LiveServer, limit: str) -> float:
    return metric(live_server, f'palaver_limits_total{{limit="{limit}"}}')


async def fill(live_server: LiveServer, messages: int, size: int) -> None:
    """Store messages of ``size`` bytes with short replies."""
    for _ in range(messages):
        status, _ = await live_server.post(
            f"{CONVERSATION}/messages?wait=true&person=ada", {"text": "/scholar " + "x" * size}
        )
        assert status == 200


@contextlib.asynccontextmanager
async def unread(live_server: LiveServer, path: str) -> AsyncIterator[RawClient]:
    """Ask for ``path`` and read nothing."""
    async with raw_connection(live_server.address) as client:
        client.stop_reading()
        await client.send(GET % path.encode())
        yield client


def set_reading(client: WebSocketClient, is_reading: bool) -> None:
    """Let a client read, or leave what comes to the system's buffers."""
    protocol = client.socket._response.connection.protocol  # type: ignore[union-attr]
    if is_reading:
        protocol.resume_reading()  # type: ignore[union-attr]
    else:
        protocol.pause_reading()  # type: ignore[union-attr]


def abandon(client: WebSocketClient) -> None:
    """End a client that does not read, without a closing handshake."""
    client.socket._response.connection.transport.abort()  # type: ignore[union-attr]


@contextlib.contextmanager
def watching_buffered_bytes(live_server: LiveServer) -> Iterator[list[float]]:
    """Yield the values of ``palaver_buffered_bytes`` during the block."""
    values: list[float] = []

    async def watch() -> None:
        while True:
            values.append(metric(live_server, "palaver_buffered_bytes"))
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        yield values
    finally:
        watching.cancel()


@pytest.mark.parametrize("path", ["/v1/conversations/t/events", "/v1/export"])
async def test_a_client_that_reads_nothing_is_disconnected(path: str) -> None:
    settings = ConnectionSettings(write_timeout=0.2)
    async with open_live_server(connections=settings) as live_server:
        await fill(live_server, 8, 900_000)
        async with unread(live_server, f"{path}?person=ada&since=start"):
            await eventually(lambda: limit_metric(live_server, "write_timeout") == 1)
            await eventually(lambda: metric(live_server, "palaver_connections") == 1)
            assert metric(live_server, "palaver_buffered_bytes") == 0
        assert metric(live_server, "palaver_slow_readers_total") == 1


async def test_a_client_that_reads_a_little_now_and_then_is_disconnected() -> None:
    settings = ConnectionSettings(write_timeout=0.3)
    async with open_live_server(connections=settings) as live_server:
        await fill(live_server, 8, 900_000)
        reading = asyncio.create_task(_read_slowly(live_server))
        try:
            await eventually(lambda: limit_metric(live_server, "write_timeout") == 1)
            await eventually(lambda: metric(live_server, "palaver_buffered_bytes") == 0)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _read_slowly(live_server: LiveServer) -> None:
    loop = asyncio.get_running_loop()
    host, port = live_server.address.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, (host, int(port)))
        path = f"{CONVERSATION}/events?person=ada&since=start"
        await loop.sock_sendall(client, GET % path.encode())
        while await loop.sock_recv(client, 1000):  # noqa: ASYNC110 - it is slow on purpose
            await asyncio.sleep(0.05)


async def test_a_client_that_reads_steadily_gets_everything() -> None:
    settings = ConnectionSettings(write_timeout=1.0)
    async with open_live_server(connections=settings, send_queue_bytes=10_000) as live_server:
        await fill(live_server, 3, 900_000)
        url = f"{CONVERSATION}/events?until=finished&person=ada&since=start"
        received = bytearray()
        async with live_server.session.get(live_server.url(url)) as response:
            async for chunk in response.content.iter_chunked(50_000):
                received += chunk
                await asyncio.sleep(0.01)
        assert received.count(b"x" * 900_000) == 3
        assert received.count(b'"type":"finished"') == 3
        assert metric(live_server, "palaver_slow_readers_total") == 0


# Websockets


async def test_a_websocket_that_stalls_gets_4429_where_it_still_reads() -> None:
    settings = ConnectionSettings(write_timeout=0.2)
    async with open_live_server(connections=settings) as live_server:
        await fill(live_server, 8, 900_000)
        async with live_server.open_websocket() as client:
            set_reading(client, False)
            hello = {"type": "hello", "thread": "t", "person": "ada", "since": "start"}
            await client.send(hello)
            await eventually(lambda: limit_metric(live_server, "write_timeout") == 1)
            set_reading(client, True)
            assert await client.close_code() == 4429
        assert metric(live_server, "palaver_slow_readers_total") == 1


async def test_a_websocket_that_stays_stalled_is_freed() -> None:
    settings = ConnectionSettings(write_timeout=0.2)
    async with open_live_server(connections=settings) as live_server:
        await fill(live_server, 8, 900_000)
        async with live_server.open_websocket() as client:
            set_reading(client, False)
            hello = {"type": "hello", "thread": "t", "person": "ada", "since": "start"}
            await client.send(hello)
            await eventually(lambda: metric(live_server, "palaver_buffered_bytes") > 0)
            await eventually(lambda: metric(live_server, "palaver_buffered_bytes") == 0)
            await eventually(lambda: metric(live_server, "palaver_websockets") == 0)
            abandon(client)


async def test_what_happens_while_a_snapshot_is_read_follows_it() -> None:
    """Events of a turn that runs while the client does not read come later, from the ledger."""
    async with open_live_server(send_queue_bytes=10_000) as live_server:
        await fill(live_server, 4, 900_000)
        async with live_server.open_websocket() as client:
            set_reading(client, False)
            hello = {"type": "hello", "thread": "t", "person": "ada", "since": "start"}
            await client.send(hello)
            await eventually(lambda: metric(live_server, "palaver_buffered_bytes") > 0)
            before = metric(live_server, "palaver_buffered_bytes")
            body = {"text": "/scripted x", "person": "ada"}
            _, receipt = await live_server.post(f"{CONVERSATION}/messages", body)
            expected = [f"{number} " * 1000 for number in range(30)]
            live_server.scripted.emit(*expected)
            await eventually(lambda: live_server.server._dispatcher.running == 0)
            assert metric(live_server, "palaver_buffered_bytes") <= before
            set_reading(client, True)
            assert await client.wait_for_reply(receipt["turn"]) == "".join(expected)
        assert metric(live_server, "palaver_slow_readers_total") == 0


async def test_frames_beside_a_snapshot_that_is_not_read_are_limited() -> None:
    async with open_live_server(send_queue_bytes=10_000) as live_server:
        await fill(live_server, 4, 900_000)
        async with live_server.open_websocket() as client:
            set_reading(client, False)
            hello = {"type": "hello", "thread": "t", "person": "ada", "since": "start"}
            await client.send(hello)
            await eventually(lambda: metric(live_server, "palaver_buffered_bytes") > 0)
            before = metric(live_server, "palaver_buffered_bytes")
            refused = {"type": "send", "id": "i" * 200, "text": "x", "skill": "s" * 2000}
            with watching_buffered_bytes(live_server) as values:
                with contextlib.suppress(aiohttp.ClientError):
                    async with asyncio.timeout(TIMEOUT_SECONDS):
                        while not metric(live_server, "palaver_slow_readers_total"):
                            for _ in range(100):
                                await client.send(refused)
                            await asyncio.sleep(0)
            assert max(values) <= before + 300_000  # the limit, and what the system has taken
            abandon(client)


# All clients together


async def test_all_clients_together_leave_no_more_unread_than_set() -> None:
    settings = ConnectionSettings(buffer_bytes=1_500_000)
    async with open_live_server(connections=settings) as live_server:
        await fill(live_server, 2, 500_000)
        async with contextlib.AsyncExitStack() as stack, live_server.connect("other") as other:
            with watching_buffered_bytes(live_server) as values:
                path = f"{CONVERSATION}/events?person=ada&since=start"
                for _ in range(10):
                    await stack.enter_async_context(unread(live_server, path))
                await eventually(lambda: limit_metric(live_server, "buffer_bytes") >= 5)
                turn = await other.send_message("still here")
                assert await other.wait_for_reply(turn) == "still here "
            assert max(values) <= 1_500_000
        await eventually(lambda: metric(live_server, "palaver_buffered_bytes") == 0)


async def test_many_streams_that_are_never_read_end_at_the_deadline() -> None:
    settings = ConnectionSettings(write_timeout=1.0, buffer_bytes=10_000_000)
    async with open_live_server(connections=settings) as live_server:
        await fill(live_server, 20, 900_000)
        async with contextlib.AsyncExitStack() as stack:
            with watching_buffered_bytes(live_server) as values:
                path = f"{CONVERSATION}/events?person=ada&since=start"
                for _ in range(40):
                    await stack.enter_async_context(unread(live_server, path))
                await eventually(lambda: limit_metric(live_server, "write_timeout") >= 1)
                await eventually(lambda: metric(live_server, "palaver_event_streams") == 0)
            assert max(values) <= 10_000_000
            assert metric(live_server, "palaver_buffered_bytes") == 0
            assert metric(live_server, "palaver_subscriptions") == 0


async def test_bodies_and_frames_that_are_never_complete_count_too() -> None:
    settings = ConnectionSettings(buffer_bytes=1_500_000)
    head = b"POST /v1/conversations/t/messages HTTP/1.1\r\nHost: localhost\r\n"
    body = head + b"Content-Length: 900000\r\n\r\n" + b"x" * 600_000
    async with open_live_server(connections=settings) as live_server:
        async with contextlib.AsyncExitStack() as stack, live_server.connect("other") as other:
            await other.send_message("x" * 200_000)  # is complete: it counts no more
            for _ in range(2):
                client = await stack.enter_async_context(raw_connection(live_server.address))
                await client.send(body)
            await eventually(lambda: metric(live_server, "palaver_buffered_bytes") > 1_000_000)
            assert limit_metric(live_server, "buffer_bytes") == 0
            frame = await stack.enter_async_context(live_server.open_websocket())
            await frame.hello("frame")
            connection = frame.socket._response.connection
            assert connection is not None
            assert connection.transport is not None
            connection.transport.write(b"\x81\xff" + (900_000).to_bytes(8, "big") + b"x" * 600_000)
            await eventually(lambda: limit_metric(live_server, "buffer_bytes") == 1)
            assert metric(live_server, "palaver_buffered_bytes") <= 1_500_000
            turn = await other.send_message("still here")
            assert await other.wait_for_reply(turn) == "still here "
            abandon(frame)
        await eventually(lambda: metric(live_server, "palaver_buffered_bytes") == 0)


async def test_a_large_response_waits_for_its_client_and_is_complete() -> None:
    settings = ConnectionSettings(buffer_bytes=1_500_000)
    limits = LedgerSettings(history_bytes=8_000_000)
    async with open_live_server(connections=settings, ledger_settings=limits) as live_server:
        await fill(live_server, 8, 900_000)
        url = live_server.url(f"{CONVERSATION}?person=ada")
        async with live_server.session.get(url) as response:
            snapshot = (await response.json())["snapshot"]
            assert int(response.headers["Content-Length"]) > 7_200_000
        texts = [entry["text"] for entry in snapshot["history"] if entry["role"] == "user"]
        assert texts == ["/scholar " + "x" * 900_000] * 8
        assert limit_metric(live_server, "buffer_bytes") == 0


async def test_a_client_that_reads_gets_everything_beside_those_that_do_not() -> None:
    settings = ConnectionSettings(buffer_bytes=3_000_000)
    async with open_live_server(connections=settings) as live_server:
        await fill(live_server, 12, 900_000)
        path = f"{CONVERSATION}/events?person=ada&since=start"
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(10):
                await stack.enter_async_context(unread(live_server, path))
            await eventually(lambda: metric(live_server, "palaver_buffered_bytes") > 2_000_000)
            ended = limit_metric(live_server, "buffer_bytes")
            async with live_server.session.get(
                live_server.url(f"{path}&until=finished")
            ) as response:
                assert len(await response.read()) > 10_800_000
            assert limit_metric(live_server, "buffer_bytes") > ended
