"""Clients that read slowly or not at all: their memory is bounded, and they are disconnected."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.server.web.live_server import LiveServer, eventually, open_live_server
from tests.server.web.raw_client import RawClient, raw_connection

from palaver.config.settings import ConnectionSettings

GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
CONVERSATION = "/v1/conversations/t"


def has_metric(live_server: LiveServer, line: str) -> bool:
    return line.encode() in live_server.server.metrics.exposition()


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


@pytest.mark.parametrize(
    "path", ["/v1/conversations/t", "/v1/conversations/t/events", "/v1/export"]
)
async def test_a_client_that_reads_nothing_is_disconnected(path: str) -> None:
    settings = ConnectionSettings(write_timeout=0.2)
    async with open_live_server(connections=settings) as live_server:
        await fill(live_server, 8, 900_000)
        async with unread(live_server, f"{path}?person=ada"):
            await eventually(
                lambda: has_metric(live_server, 'palaver_limits_total{limit="write_timeout"} 1.0')
            )
            await eventually(lambda: not has_metric(live_server, "palaver_connections 2.0"))
        assert has_metric(live_server, "palaver_slow_readers_total 1.0")
