"""Limits on the number of connections: in total, by address, by person, and before a hello."""

import asyncio
import contextlib
import errno
import json
import logging
import resource
import socket
import sys
import types
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from tests.ports import free_port
from tests.server.web.live_server import LiveServer, WebSocketClient, eventually, open_live_server
from tests.server.web.raw_client import RawClient, raw_connection
from tests.server.web.test_shutdown import serving

from palaver.channels import ConversationAccess
from palaver.config.settings import AuthKey, ConnectionSettings, Secret
from palaver.web import acceptor as acceptor_module
from palaver.web import connections as connections_module
from palaver.web import websocket as websocket_module
from palaver.web.acceptor import Acceptor
from palaver.web.connections import raise_open_files_limit, room_for_connections
from palaver.web.conversations import open_conversation
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow

GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
EVENTS = b"/v1/conversations/t/events"


def has_metric(live_server: LiveServer, line: str) -> bool:
    return line.encode() in live_server.server.metrics.exposition()


@contextlib.asynccontextmanager
async def idle_connections(live_server: LiveServer, count: int) -> AsyncIterator[list[RawClient]]:
    """Open connections that send nothing."""
    async with contextlib.AsyncExitStack() as stack:
        opening = (raw_connection(live_server.address) for _ in range(count))
        yield [await stack.enter_async_context(each) for each in opening]


@contextlib.asynccontextmanager
async def served_websockets(
    live_server: LiveServer, count: int, person: str = "ada"
) -> AsyncIterator[list[WebSocketClient]]:
    """Open websockets and say hello."""
    async with contextlib.AsyncExitStack() as stack:
        opening = (live_server.connect(f"{person}-{n}", person=person) for n in range(count))
        yield [await stack.enter_async_context(each) for each in opening]


async def is_served(client: WebSocketClient) -> bool:
    return await client.wait_for_reply(await client.send_message("still here")) == "still here "


async def get(live_server: LiveServer, path: bytes, *lines: bytes) -> tuple[int, str]:
    """Ask over a connection of its own; return the status and the code of an error."""
    async with raw_connection(live_server.address) as client:
        await client.send(GET % (path, b"".join(line + b"\r\n" for line in lines)))
        response = await client.response()
        assert response is not None
        return response.status, response.code if response.status >= 400 else ""


# In total


async def test_a_full_server_still_answers_health_and_metrics() -> None:
    settings = ConnectionSettings(total=4, per_address=100)
    async with open_live_server(connections=settings) as live_server:
        async with served_websockets(live_server, 4) as clients:
            for path in (b"/healthz", b"/readyz", b"/metrics", b"/openapi.json"):
                async with raw_connection(live_server.address) as client:
                    await client.send(GET % (path, b""))
                    response = await client.response()
                    assert response is not None
                    assert (response.status, response.headers["connection"]) == (200, "close")
            for path in (b"/v1/skills", b"/", b"/ws", b"/nothing"):
                assert await get(live_server, path) == (503, "overloaded")
            assert all([await is_served(client) for client in clients])
            assert has_metric(live_server, "palaver_connections ")
        assert await get(live_server, b"/v1/skills") == (200, "")


async def test_above_the_reserve_connections_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(connections_module), "RESERVE", 0)
    settings = ConnectionSettings(total=2, per_address=100)
    async with open_live_server(connections=settings) as live_server:
        async with served_websockets(live_server, 2) as clients:
            async with raw_connection(live_server.address) as client:
                response = await client.response()  # before a request
                assert response is not None
                assert (response.status, response.code) == (503, "overloaded")
                assert response.headers["retry-after"] == "2"
            assert has_metric(live_server, 'palaver_limits_total{limit="total"}')
            assert all([await is_served(client) for client in clients])


async def test_idle_connections_make_room_for_new_ones() -> None:
    settings = ConnectionSettings(total=10, per_address=100, pending=100)
    async with open_live_server(connections=settings) as live_server:
        async with (
            live_server.connect("before") as before,
            idle_connections(live_server, 50) as idle,
            live_server.connect("after") as after,
        ):
            assert await is_served(before)
            assert await is_served(after)
            assert await idle[0].rest() == b""
            await eventually(lambda: has_metric(live_server, "palaver_connections 10.0"))
            await idle[-1].send(GET % (b"/v1/skills", b""))
            assert (await idle[-1].response()) is not None


async def test_a_connection_between_two_requests_makes_room() -> None:
    settings = ConnectionSettings(total=2, per_address=100, pending=100)
    async with open_live_server(connections=settings) as live_server:
        async with raw_connection(live_server.address) as first:
            await first.send(GET % (b"/v1/skills", b""))
            assert (await first.response()) is not None
            async with idle_connections(live_server, 2):
                assert await first.rest() == b""


# By address


async def test_one_address_has_no_more_connections_than_set() -> None:
    settings = ConnectionSettings(total=100, per_address=3)
    async with open_live_server(connections=settings) as live_server:
        async with served_websockets(live_server, 3) as clients:
            async with raw_connection(live_server.address) as fourth:
                response = await fourth.response()
                assert response is None or response.code == "overloaded"
            assert has_metric(live_server, 'palaver_limits_total{limit="per_address"} 1.0')
            connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
            async with aiohttp.ClientSession(connector=connector) as session:
                async with session.get(live_server.url("/v1/skills")) as other:
                    assert other.status == 200
            assert all([await is_served(client) for client in clients])


async def test_idle_connections_of_an_address_make_room_for_its_new_ones() -> None:
    settings = ConnectionSettings(total=100, per_address=3, pending=100)
    async with open_live_server(connections=settings) as live_server:
        async with idle_connections(live_server, 3) as idle:
            assert await get(live_server, b"/v1/skills") == (200, "")
            assert await idle[0].rest() == b""


async def test_behind_a_proxy_the_limit_is_that_of_its_clients() -> None:
    settings = ConnectionSettings(total=100, per_address=2, trusted_proxies=("127.0.0.1",))
    async with open_live_server(connections=settings) as live_server:
        async with contextlib.AsyncExitStack() as stack:
            for address in (b"192.0.2.1", b"192.0.2.1", b"192.0.2.2"):
                client = await stack.enter_async_context(raw_connection(live_server.address))
                await client.send(GET % (EVENTS, b"X-Forwarded-For: " + address + b"\r\n"))
                assert (await client.response()) is not None
            first, second = b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-For: 192.0.2.2"
            assert await get(live_server, b"/v1/skills", first) == (429, "too_many")
            assert await get(live_server, b"/v1/skills", second) == (200, "")
            assert has_metric(live_server, 'palaver_limits_total{limit="per_address"} 1.0')
        await eventually(lambda: has_metric(live_server, "palaver_connections 0.0"))
        assert await get(live_server, b"/v1/skills", first) == (200, "")


# Before a request or a hello


async def test_more_pending_connections_than_set_close_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(connections_module), "LEAST_PENDING_SECONDS", 0.0)
    settings = ConnectionSettings(total=100, per_address=100, pending=3)
    async with open_live_server(connections=settings) as live_server:
        async with live_server.connect("t") as served, contextlib.AsyncExitStack() as stack:
            silent = [
                await stack.enter_async_context(live_server.open_websocket()) for _ in range(3)
            ]
            async with idle_connections(live_server, 3):
                for client in silent:
                    message = await asyncio.wait_for(client.socket.receive(), 5)
                    assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
                assert await is_served(served)
        assert has_metric(live_server, 'palaver_limits_total{limit="pending"} 3.0')


async def test_a_burst_waits_until_the_others_had_the_time_for_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(connections_module), "LEAST_PENDING_SECONDS", 60.0)
    settings = ConnectionSettings(total=100, per_address=100, pending=3)
    async with open_live_server(connections=settings) as live_server:
        async with idle_connections(live_server, 2), live_server.open_websocket() as early:
            async with idle_connections(live_server, 20):
                await early.hello("t")  # is not closed, and then leaves its place to one of them
                assert await is_served(early)
                assert not has_metric(live_server, 'palaver_limits_total{limit="pending"}')


async def test_a_hello_that_the_server_is_slow_to_answer_is_not_pending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(connections_module), "LEAST_PENDING_SECONDS", 0.0)
    is_opening, may_open = asyncio.Event(), asyncio.Event()

    async def open_slowly(*arguments: Any, **options: Any) -> ConversationAccess:
        is_opening.set()
        await may_open.wait()
        return await open_conversation(*arguments, **options)

    monkeypatch.setattr(websocket_module, "open_conversation", open_slowly)
    settings = ConnectionSettings(total=100, per_address=100, pending=3)
    async with (
        open_live_server(connections=settings) as live_server,
        live_server.open_websocket() as client,
    ):
        welcome = asyncio.create_task(client.hello("t"))
        await is_opening.wait()
        async with idle_connections(live_server, 20):
            await eventually(
                lambda: has_metric(live_server, 'palaver_limits_total{limit="pending"} 17.0')
            )
            may_open.set()
            await welcome
            assert await is_served(client)


# By person


async def test_one_person_has_no_more_connections_than_set() -> None:
    settings = ConnectionSettings(per_person=2)
    channels = (OpenAIChannel(),)
    async with open_live_server(connections=settings, channels=channels) as live_server:
        async with served_websockets(live_server, 2) as clients:
            async with live_server.open_websocket() as third:
                await third.send({"type": "hello", "thread": "t", "person": "ada"})
                assert (await third.wait_for("error"))["code"] == "too_many"
                assert await third.close_code() == 1013
            path = "/v1/conversations/t"
            status, answer = await live_server.get(f"{path}/events?person=ada")
            assert (status, answer["error"]["code"]) == (429, "too_many")
            body = {"text": "hello", "person": "ada"}
            status, answer = await live_server.post(f"{path}/messages?wait=true", body)
            assert (status, answer["error"]["code"]) == (429, "too_many")
            chat = {"model": "auto", "messages": [{"role": "user", "content": "x"}], "user": "ada"}
            status, answer = await live_server.post("/v1/chat/completions", chat)
            assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")  # OpenAI's
            _, stored = await live_server.get(f"{path}?person=ada")
            assert stored["snapshot"] == {"history": [], "pending": []}
            assert has_metric(live_server, 'palaver_limits_total{limit="per_person"} 4.0')
            async with live_server.connect("t", person="eve") as other:
                assert await is_served(other)
            assert all([await is_served(client) for client in clients])
        async with served_websockets(live_server, 2):
            pass


# By tenant


KEYS = {
    name: AuthKey(
        secret=Secret(f"env:KEY_{name}"), tenant=name, rights=("talk", "read", "impersonate")
    )
    for name in ("acme", "globex")
}


async def test_one_tenant_leaves_connections_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {name: f"the secret of the key {name}" for name in KEYS}
    for name, token in tokens.items():
        monkeypatch.setenv(f"KEY_{name}", token)
    headers = {name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()}
    settings = ConnectionSettings(total=4, per_address=100)
    async with (
        open_live_server(keys=KEYS, connections=settings) as live_server,
        live_server.connect("1", token=tokens["acme"], person="ada") as first,
        live_server.session.get(
            live_server.url("/v1/conversations/2/events"), headers=headers["acme"]
        ) as second,
    ):
        assert second.status == 200
        async with live_server.open_websocket() as third:
            await third.send({"type": "hello", "thread": "3", "token": tokens["acme"]})
            assert (await third.wait_for("error"))["code"] == "too_many"
            assert await third.close_code() == 1013
        for path in ("/v1/skills", "/v1/conversations/4/events"):
            status, answer = await live_server.get(path, headers=headers["acme"])
            assert (status, answer["error"]["code"]) == (429, "too_many")
        assert has_metric(live_server, 'palaver_limits_total{limit="per_tenant"} 3.0')
        async with live_server.connect("5", token=tokens["globex"]) as other:
            assert await is_served(other)
        second.close()
        await eventually(lambda: has_metric(live_server, "palaver_event_streams 0.0"))
        for _ in range(3):  # a connection that is idle again is not counted
            status, _ = await live_server.get("/v1/skills", headers=headers["acme"])
            assert status == 200
        assert await is_served(first)


async def test_a_tenant_has_no_more_connections_than_set() -> None:
    settings = ConnectionSettings(per_tenant=2)
    async with open_live_server(connections=settings) as live_server:
        async with served_websockets(live_server, 2):
            status, answer = await live_server.get("/v1/skills")
            assert (status, answer["error"]["code"]) == (429, "too_many")
            for path in ("/healthz", "/metrics"):
                assert (await live_server.get(path))[0] == 200
        await eventually(lambda: has_metric(live_server, "palaver_websockets 0.0"))
        assert (await live_server.get("/v1/skills"))[0] == 200


# Descriptors


def test_the_limit_on_open_files_leaves_some_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for open_files, expected in ((1024, 896), (256, 192), (1_000_000, 875_000), (-1, sys.maxsize)):
        fake = types.SimpleNamespace(
            getrlimit=lambda _, soft=open_files: (soft, soft), RLIMIT_NOFILE=0, RLIM_INFINITY=-1
        )
        monkeypatch.setitem(vars(connections_module), "resource", fake)
        assert room_for_connections() == expected, open_files


def test_the_limit_on_open_files_is_raised() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        raise_open_files_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Exhausted(socket.socket):
    """A listening socket of a process that has too many open files."""

    is_exhausted = True

    def accept(self) -> tuple[socket.socket, object]:
        if self.is_exhausted:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_errors_of_accepting_are_logged_once_and_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(vars(acceptor_module), "PAUSE_SECONDS", 0.01)
    errors: list[None] = []
    accepted: list[str] = []

    def on_connection(client: socket.socket, peer: str) -> None:
        client.close()
        accepted.append(peer)

    listening = Exhausted()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    listening.setblocking(False)
    acceptor = Acceptor(on_connection, lambda: errors.append(None))
    acceptor.add(listening)
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", acceptor.port)
        await eventually(lambda: len(errors) >= 10)
        records = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [record.getMessage() for record in records] == [
            "cannot accept connections (1 times): Too many open files"
        ]
        listening.is_exhausted = False
        await eventually(lambda: accepted == ["127.0.0.1"])
        writer.close()
    finally:
        acceptor.close()


@contextlib.contextmanager
def idle_sockets(port: int, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        yield


def test_more_idle_sockets_than_descriptors_stop_nobody() -> None:
    port = free_port()
    with serving(f"--port={port}", "--open-files=256"):
        with idle_sockets(port, 600):
            body = json.dumps({"text": "hello"}).encode()
            url = f"http://127.0.0.1:{port}/v1/conversations/t/messages?wait=true"
            with urllib.request.urlopen(url, body, timeout=5) as response:
                assert json.load(response)["text"] == "polly"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
                metrics = response.read().decode()
        assert 'limit="open_files"' not in metrics
        assert 'palaver_limits_total{limit="pending"}' in metrics
