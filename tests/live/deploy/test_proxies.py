"""The examples for reverse proxies in config/, with the real nginx and Caddy."""

import contextlib
import copy
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from tests.live.deploy.programs import caddy, nginx
from tests.live.deploy.replies import check_takeover, write_counting
from tests.live.serve_processes import running_processes
from tests.plugins.ledgers.redis_server import redis_server
from tests.ports import free_port
from tests.server.web.live_server import LiveServer, open_live_server
from tests.server.web.test_api import MESSAGES, reading

from palaver.config.settings import ConnectionSettings

pytestmark = [pytest.mark.live, pytest.mark.slow]

Proxy = Callable[[Path, list[str]], contextlib.AbstractAsyncContextManager[str]]
PROXIES = {"nginx": nginx, "caddy": caddy}
BEHIND = ConnectionSettings(trusted_proxies=("127.0.0.1",), per_address=2)


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest) -> Proxy:
    return PROXIES[request.param]


def host(server: LiveServer) -> str:
    return server.address.removeprefix("http://")


@contextlib.asynccontextmanager
async def client_of(
    server: LiveServer, address: str, client: str = "127.0.0.1", **headers: str
) -> AsyncIterator[LiveServer]:
    """Yield the server as a client sees it that has an address of its own, behind a proxy."""
    connector = aiohttp.TCPConnector(ssl=False, local_addr=(client, 0))
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        seen = copy.copy(server)
        seen.session, seen.address = session, address
        yield seen


@pytest.fixture
async def server() -> AsyncIterator[LiveServer]:
    async with open_live_server(connections=BEHIND) as live_server:
        yield live_server


async def test_websockets_and_event_streams_arrive_while_they_are_written(
    proxy: Proxy, server: LiveServer, tmp_path: Path
) -> None:
    async with (
        proxy(tmp_path, [host(server)] * 2) as address,
        client_of(server, address) as client,
        client.connect("t") as socket,
    ):
        turn = await socket.send_message("/scripted x")
        async with reading(client, "/v1/conversations/t/events?person=ada") as reader:
            for piece in ("first", "second"):
                server.scripted.emit(piece, end=False)
                await socket.wait_for_text(turn, piece)
                while piece not in str(await reader.next()):
                    pass
        server.scripted.emit()
        assert await socket.wait_for_reply(turn) == "firstsecond"


async def test_the_limits_hold_for_each_client_of_the_proxy(
    proxy: Proxy, server: LiveServer, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(proxy(tmp_path, [host(server)] * 2))
        forged = {"X-Forwarded-For": "203.0.113.9"}
        first = await stack.enter_async_context(client_of(server, address, "127.0.0.2"))
        again = await stack.enter_async_context(client_of(server, address, "127.0.0.2", **forged))
        other = await stack.enter_async_context(client_of(server, address, "127.0.0.3"))
        for thread in ("a", "b"):
            await stack.enter_async_context(first.connect(thread))
        for client in (first, again):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await stack.enter_async_context(client.connect("c"))
            assert refused.value.status == 429
        await stack.enter_async_context(other.connect("c"))


async def test_a_server_that_is_gone_is_left_out(
    proxy: Proxy, server: LiveServer, tmp_path: Path
) -> None:
    gone = f"127.0.0.1:{free_port()}"
    async with (
        proxy(tmp_path, [gone, host(server)]) as address,
        client_of(server, address) as client,
    ):
        for number in range(6):
            body = {"text": f"hello {number}", "person": "ada"}
            assert (await client.post(MESSAGES + "?wait=true", body))[0] == 200


@pytest.mark.redis
@pytest.mark.openvino
async def test_a_reply_goes_on_when_its_server_is_killed(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino_genai")
    monkeypatch.setenv(
        "PYTHONPATH", f"{write_counting(tmp_path / 'plugin')}:{os.environ.get('PYTHONPATH', '')}"
    )
    async with (
        redis_server() as redis,
        running_processes(2, redis, tmp_path) as servers,
        proxy(
            tmp_path, [re.sub(r"^http://|/$", "", server.address) for server in servers]
        ) as address,
    ):
        first, second = servers
        await check_takeover(f"{address}/", (first, second))
