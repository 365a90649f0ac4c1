"""Every phase of a connection has a deadline, and a client that has ended its sending is served."""

import asyncio
import json

import pytest
from tests.server.web.live_server import LiveServer, eventually, open_live_server
from tests.server.web.raw_client import RawClient, raw_connection

from palaver.config.settings import ConnectionSettings
from palaver.web import connection as connection_module
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/conversations/t/messages%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n%s"


def message(body: object, query: bytes = b"", path: bytes = b"") -> bytes:
    encoded = json.dumps(body).encode()
    sent = POST % (query, b"Content-Length: %d\r\n" % len(encoded), encoded)
    return sent.replace(b"/v1/conversations/t/messages", path) if path else sent


def has_metric(live_server: LiveServer, line: str) -> bool:
    return line.encode() in live_server.server.metrics.exposition()


async def until_reached(live_server: LiveServer, limit: str) -> None:
    await eventually(
        lambda: has_metric(live_server, f'palaver_limits_total{{limit="{limit}"}} 1.0')
    )


async def is_being_served(live_server: LiveServer) -> None:
    await eventually(lambda: has_metric(live_server, "palaver_connections 1.0"))
    await eventually(lambda: has_metric(live_server, "palaver_connections_pending 0.0"))


# Requests that are never complete


@pytest.mark.parametrize(
    "begun", [b"", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b", GET[:-1]]
)
async def test_a_request_that_is_never_complete_is_ended(begun: bytes) -> None:
    async with open_live_server(connections=ConnectionSettings(head_timeout=0.1)) as live_server:
        async with raw_connection(live_server.address) as client:
            await client.send(begun)
            response = await client.response()
            assert response is None if not begun else response is not None
            if response is not None:
                assert (response.status, response.code) == (408, "request_timeout")
            assert await client.rest() == b""
        await until_reached(live_server, "head_timeout")


async def test_the_deadline_of_a_request_does_not_move_with_each_byte() -> None:
    async with open_live_server(connections=ConnectionSettings(head_timeout=0.2)) as live_server:
        async with raw_connection(live_server.address) as client:
            ended = asyncio.create_task(client.rest())
            for byte in b"GET /" + b"a" * 2000:
                await client.send(bytes([byte]))
                if (await asyncio.wait([ended], timeout=0.01))[0]:
                    break
            assert (await ended).startswith(b"HTTP/1.1 408 ")


async def test_a_further_request_has_the_same_deadline() -> None:
    async with open_live_server(connections=ConnectionSettings(head_timeout=0.2)) as live_server:
        async with raw_connection(live_server.address) as client:
            await client.send(GET)
            assert (await client.response()) is not None
            await client.send(GET[:20])
            response = await client.response()
            assert response is not None
            assert response.status == 408


async def test_a_connection_without_a_further_request_is_closed() -> None:
    settings = ConnectionSettings(keep_alive_timeout=0.1)
    async with open_live_server(connections=settings) as live_server:
        async with raw_connection(live_server.address) as client:
            await client.send(GET)
            assert (await client.response()) is not None
            assert await client.rest() == b""


@pytest.mark.parametrize(
    "lines",
    [b"Content-Length: 50\r\n", b"Transfer-Encoding: chunked\r\n"],
    ids=["length", "chunks"],
)
@pytest.mark.parametrize("path", [b"/v1/conversations/t/messages", b"/v1/chat/completions"])
async def test_a_body_that_is_never_complete_is_ended(lines: bytes, path: bytes) -> None:
    settings = ConnectionSettings(body_timeout=0.1)
    async with open_live_server(channels=(OpenAIChannel(),), connections=settings) as live_server:
        async with raw_connection(live_server.address) as client:
            begun = POST % (b"", lines, b"1\r\n{\r\n")
            await client.send(begun.replace(b"/v1/conversations/t/messages", path))
            response = await client.response()
            assert response is not None
            assert (response.status, response.code) == (408, "request_timeout")
            assert await client.rest() == b""
        await until_reached(live_server, "body_timeout")


async def test_a_wrong_chunk_is_refused_as_soon_as_it_comes(live_server: LiveServer) -> None:
    async with raw_connection(live_server.address) as client:
        await client.send(POST % (b"", b"Transfer-Encoding: chunked\r\n", b"1\r\n{\r\n"))
        await is_being_served(live_server)
        await client.send(b"not a number\r\n")
        response = await client.response()
        assert response is not None
        assert (response.status, response.code) == (400, "invalid_input")


async def test_a_head_that_is_too_large_is_refused_before_its_end(live_server: LiveServer) -> None:
    async with raw_connection(live_server.address) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        sending = asyncio.create_task(_send_lines(client))
        response = await client.response()
        sending.cancel()
        assert response is not None
        assert (response.status, response.code) == (431, "too_large")


async def _send_lines(client: RawClient) -> None:
    for number in range(100_000):
        await client.send(b"a%d: %b\r\n" % (number, b"b" * 4000))
        await asyncio.sleep(0)


async def test_the_rest_of_a_body_that_was_refused_is_no_request() -> None:
    async with open_live_server(max_message_bytes=1_000) as live_server:
        async with raw_connection(live_server.address) as client:
            await client.send(POST % (b"", b"Content-Length: 400000\r\n", b"x" * 2_000))
            response = await client.response()
            assert response is not None
            assert (response.status, response.code) == (413, "too_large")
            for _ in range(4):
                await client.send(b"x" * 99_500)
                await asyncio.sleep(0)
            await client.send(GET)
            response = await client.response()
            assert response is not None
            assert response.body == b'{"status":"alive"}'


# A client that has ended its sending


async def test_a_client_that_has_ended_its_sending_gets_its_response(
    live_server: LiveServer,
) -> None:
    async with raw_connection(live_server.address) as client:
        await client.send(GET)
        client.writer.write_eof()
        assert (await client.rest()).endswith(b'{"status":"alive"}')


async def test_two_requests_before_the_end_of_sending_get_two_responses(
    live_server: LiveServer,
) -> None:
    async with raw_connection(live_server.address) as client:
        await client.send(GET + GET)
        client.writer.write_eof()
        assert (await client.rest()).count(b'{"status":"alive"}') == 2


@pytest.mark.parametrize("is_openai", [False, True])
async def test_a_client_that_has_ended_its_sending_gets_the_reply_it_waits_for(
    is_openai: bool,
) -> None:
    async with open_live_server(channels=(OpenAIChannel(),)) as live_server:
        async with raw_connection(live_server.address) as client:
            if is_openai:
                body = {"model": "scripted", "messages": [{"role": "user", "content": "go"}]}
                sent = message(body, path=b"/v1/chat/completions")
            else:
                sent = message({"text": "/scripted x"}, b"?wait=true")
            await client.send(sent)
            client.writer.write_eof()
            await eventually(lambda: live_server.server._dispatcher.running == 1)
            live_server.scripted.emit("the whole reply")
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"the whole reply" in answer


async def test_a_client_that_has_ended_its_sending_gets_the_events(live_server: LiveServer) -> None:
    async with raw_connection(live_server.address) as client:
        await live_server.post("/v1/conversations/t/messages", {"text": "/scripted x"})
        await client.send(
            b"GET /v1/conversations/t/events?until=finished HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        client.writer.write_eof()
        await eventually(lambda: has_metric(live_server, "palaver_event_streams 1.0"))
        live_server.scripted.emit("the whole reply")
        answer = await client.rest()
        assert b"the whole reply" in answer
        assert answer.endswith(b"0\r\n\r\n")


async def test_a_client_that_ends_its_sending_within_a_request_is_disconnected(
    live_server: LiveServer,
) -> None:
    for begun in (b"", GET[:-2], POST % (b"", b"Content-Length: 9\r\n", b"{")):
        async with raw_connection(live_server.address) as client:
            await client.send(begun)
            client.writer.write_eof()
            assert await client.rest() == b""


@pytest.mark.parametrize("kind", ["wait", "events"])
async def test_a_client_that_is_gone_is_noticed_while_nothing_happens(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(connection_module), "PROBE_DELAY", 0.05)
    monkeypatch.setitem(vars(connection_module), "PROBE_INTERVAL", 0.05)
    async with open_live_server() as live_server:
        async with raw_connection(live_server.address) as client:
            events = b"GET /v1/conversations/t/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
            wait = message({"text": "/scripted x"}, b"?wait=true")
            await client.send(events if kind == "events" else wait)
            await is_being_served(live_server)
            client.writer.close()
            await eventually(lambda: has_metric(live_server, "palaver_connections 0.0"))
