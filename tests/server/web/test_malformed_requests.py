"""Bytes that are not what a request should hold get an error of the API, on every route."""

import itertools
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from tests.proof_settings import IS_LONG_RUN
from tests.server.web.live_server import LiveServer, open_live_server
from tests.server.web.raw_client import RawResponse, raw_connection

from palaver.authentication import public
from palaver.channels import Channel, ConversationService
from palaver.config.settings import AuthKey, ConnectionSettings, Secret, Settings
from palaver.errors import PalaverError
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine
from palaver.web import make_application
from palaver.web.connection import Connection, connection_of
from palaver_plugins.channels.a2a.channel import A2AChannel
from palaver_plugins.channels.a2a.settings import Settings as A2ASettings
from palaver_plugins.channels.agui.channel import AguiChannel
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
KEY = "a secret of twenty characters"
TIMEOUTS = ConnectionSettings(body_timeout=0.3)

HEADERS = (
    "Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Encoding",
    "Content-Length", "Content-Type", "Cookie", "Expect", "Forwarded", "Host", "Idempotency-Key",
    "If-Modified-Since", "If-None-Match", "Last-Event-ID", "Origin", "Range", "Sec-Fetch-Site",
    "Sec-WebSocket-Extensions", "Sec-WebSocket-Key", "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version", "TE", "Transfer-Encoding", "Upgrade", "X-Forwarded-For",
    "X-Forwarded-Proto", "X-Palaver-Thread", "X-Signature-Ed25519", "X-Signature-Timestamp",
    "X-Slack-Request-Timestamp", "X-Slack-Retry-Num", "X-Slack-Signature", "traceparent",
    "X-Unknown",
)  # fmt: skip
VALUES = (
    b"", b" ", b"\t", b"\x01", b"\x7f", b"\x1b[2J", b"a\x00b", b"\r", b"a\r\n b", b"\xff",
    b"\x80\x81", b"\xed\xa0\x80", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"http://[", b"[x]", b"[", b"]",
    b"%", b"%ff", b"%00", b"-1", b"1e9", b"99", b"9" * 5000, b"a" * 8000, b"a" * 9000, b'"' * 3000,
    b"," * 4000, b";" * 4000, b"\\" * 100, b"=", b"a=b;" * 1000, b"Bearer \xff", b"Bearer",
    b"bearer  x  y", b"Basic \xff", b"gzip", b"gzip, br", b"identity, gzip", b"x-gzip", b"chunked",
    b"chunked, chunked", b"bytes=0-", b'W/"', b"websocket", b"h2c", b"upgrade, \xff", b"null",
    b"epoch:99999999999999999999", b"application/json; charset=\xff", b"text/plain; charset=utf-7",
    b"100-continue", b"200-ok", b"cross-site", b"a/b", b"{}",
)  # fmt: skip
PATHS = (
    b"/v1/conversations/%ff", b"/v1/conversations/%00", b"/v1/conversations/%0a",
    b"/v1/conversations/%ed%a0%80", b"/v1/conversations/..%2f..", b"/v1/conversations/%",
    b"/v1/conversations/%zz", b"/v1/conversations/\xff", b"/v1/conversations/\xc3\xa9",
    b"/v1/conversations/" + b"a" * 300, b"//", b"/;", b"/%2e%2e/", b"/static/%00", b"/static/%ff",
    b"/static/..%2findex.html", b"/v1/skills?person=%ff", b"/v1/conversations/t?person=%ff",
    b"/v1/conversations/t?person=%00", b"/v1/conversations/t?person=%ed%a0%80",
    b"/v1/conversations/t?person=" + b"a" * 300, b"/v1/conversations/t/events?since=%ff",
    b"/v1/conversations/t/events?since=epoch:%c2%b2", b"/v1/conversations/t/events?until=%0a",
    b"/v1/conversations/t/events?until=%ff", b"/v1/models/%ff", b"/v1/models/%00", b"/?a=%",
    b"/v1/export?person=%1b%5b2J", b"/" + b"a" * 9000, b"*", b"x", b"http://[", b"http://",
    b"http://a/", b"/#\xff", b"/?" + b"&" * 5000,
)  # fmt: skip
REQUESTS = (
    b"\x00\x01\x02\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", b"GET\r\n\r\n",
    b"GET /\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n", b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"G\xffT / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"get / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\xff: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 100 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    b"GET http://xn--zzzzzzz---/v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://xn--a\x80/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET //xn--zzzzzzz---/v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT xn--zzzzzzz---:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT \xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
)  # fmt: skip
BAD_BODIES = (
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"te\xff\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"tex", b"Transfer-Encoding: chunked\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n", b"Content-Length: 50\r\n\r\n{",
    b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 5000, b"Content-Length: 2\r\n\r\n\xff\xfe",
    b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    b"Content-Encoding: deflate\r\nContent-Length: 2\r\n\r\n\xff\xff",
    b"Content-Encoding: zstd\r\nContent-Length: 2\r\n\r\n{}",
    b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
)  # fmt: skip


def error_codes() -> set[str]:
    kinds = [PalaverError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.code for kind in kinds}


def channels() -> tuple[Channel, ...]:
    return (A2AChannel(A2ASettings()), AguiChannel(), OpenAIChannel())


def routes() -> list[tuple[str, str]]:
    """Return the method and the path of every route, those of channels included."""
    server = Server(
        Settings(),
        ledger=MemoryLedger(),
        engine=ScriptedEngine(),
        knowledge=ListKnowledge(),
        skills={},
        channels={str(number): channel for number, channel in enumerate(channels())},
    )
    return sorted(
        (
            route.method,
            resource.canonical.replace("{thread}", "t").replace("{", "").replace("}", ""),
        )
        for resource in make_application(server).router.resources()
        for route in resource
    )


def request(method: str, path: bytes, lines: list[bytes]) -> bytes:
    """Return a request that is well-formed without ``lines``; those replace its own headers."""
    replaced = {line.partition(b":")[0].lower() for line in lines}
    own = [b"Host: localhost"]
    if path == b"/ws":
        own += [b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13"]
        own += [b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    body = b'{"text": "x", "model": "auto", "messages": []}' if method == "POST" else b""
    own += [b"Content-Length: %d" % len(body)] if body else []
    own = [line for line in own if line.partition(b":")[0].lower() not in replaced]
    head = [method.encode() + b" " + path + b" HTTP/1.1", *own, *lines]
    return b"\r\n".join([*head, b"", b""]) + body


def check(response: RawResponse | None, sent: bytes) -> None:
    about = sent[:300]
    assert response is not None, about
    assert response.status < 500, (response, about)
    if response.status >= 400 and not sent.startswith(b"HEAD"):
        assert response.headers["content-type"] == "application/json; charset=utf-8" or (
            response.headers["content-type"] == "application/json"
        ), (response, about)
        is_json_rpc = response.code.startswith("-32")
        assert is_json_rpc or response.code in error_codes(), (response, about)


async def ask(live_server: LiveServer, sent: bytes) -> RawResponse | None:
    async with raw_connection(live_server.address) as client:
        await client.send(sent)
        has_body = not sent.startswith(b"HEAD")
        response = await client.response(has_body=has_body)
        while response is not None and response.status == 100:
            response = await client.response(has_body=has_body)
        return response


@pytest.fixture(autouse=True)
def nothing_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    records = caplog.get_records("call")  # `records` are those of the teardown
    assert [record for record in records if record.levelno >= logging.ERROR] == []


def header_cases() -> Iterator[tuple[str, str, str, bytes]]:
    """Yield method, path, header and value: every route with every header, and every header with
    every value; in the long form every route with both."""
    rotation = itertools.cycle(VALUES)
    for method, path in routes():
        for header in HEADERS:
            values = VALUES if IS_LONG_RUN else [next(rotation) for _ in range(3)]
            for value in values:
                yield method, path, header, value


@pytest.mark.slow
@pytest.mark.parametrize("is_authenticated", [False, True])
async def test_no_header_makes_a_server_error(
    is_authenticated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", KEY)
    keys = {"app": AuthKey(secret=Secret("env:KEY"))}
    statuses = set()
    async with open_live_server(
        keys=keys, channels=channels(), connections=TIMEOUTS
    ) as live_server:
        for method, path, header, value in header_cases():
            lines = [header.encode() + b": " + value]
            if is_authenticated and header != "Authorization":
                lines.append(b"Authorization: Bearer " + KEY.encode())
            sent = request(method, path.encode(), lines)
            response = await ask(live_server, sent)
            check(response, sent)
            assert response is not None
            statuses.add(response.status)
    assert {400, 404, 405, 415} - {405, 404} <= statuses
    assert 401 in statuses if not is_authenticated else 200 in statuses


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE", "PATCH", "OPTIONS"])
async def test_no_address_makes_a_server_error(method: str) -> None:
    async with open_live_server(channels=channels(), connections=TIMEOUTS) as live_server:
        for path in PATHS:
            sent = request(method, path, [])
            check(await ask(live_server, sent), sent)


async def test_what_is_no_request_gets_an_error_of_the_api() -> None:
    async with open_live_server(connections=TIMEOUTS) as live_server:
        for sent in REQUESTS:
            response = await ask(live_server, sent)
            check(response, sent)
            assert response is not None
            assert response.status >= 400, sent


@pytest.mark.slow
async def test_a_body_that_is_malformed_gets_an_error_of_the_api() -> None:
    async with open_live_server(channels=channels(), connections=TIMEOUTS) as live_server:
        paths = ("/v1/conversations/t/messages", "/v1/conversations/t/stop", "/v1/chat/completions")
        for path, body in itertools.product(paths, BAD_BODIES):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
            response = await ask(live_server, head + body)
            check(response, head + body)
            assert response is not None
            assert response.status >= 400, body


class UnreadBodyChannel:
    """A channel whose route answers without reading the body, and keeps the connection."""

    connection: Connection

    async def start(self, service: ConversationService) -> None: ...

    async def close(self) -> None: ...

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.post("/unread", self._answer),)

    @public
    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.connection = connection_of(request)
        return web.Response(text="done")


@pytest.mark.parametrize(
    "start", [b"Content-Length: 50\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"]
)
async def test_a_connection_that_ends_while_a_body_is_dropped_is_no_error(start: bytes) -> None:
    channel = UnreadBodyChannel()
    async with open_live_server(channels=(channel,)) as live_server:
        async with raw_connection(live_server.address) as client:
            await client.send(b"POST /unread HTTP/1.1\r\nHost: localhost\r\n" + start)
            response = await client.response()
            assert response is not None
            assert response.status == 200
            channel.connection.abort()
            channel.connection.data_received(b"x")  # came before the end
            assert await client.rest() == b""


async def test_other_methods_are_refused_with_those_that_are_allowed() -> None:
    async with open_live_server() as live_server:
        for method, path in {(m, p) for m in ("PUT", "DELETE", "PATCH") for _, p in routes()}:
            sent = request(method, path.encode(), [])
            response = await ask(live_server, sent)
            check(response, sent)
            assert response is not None
            if response.status == 405:
                assert response.code == "method_not_allowed"
                assert response.headers["allow"]


def test_every_header_that_the_code_reads_is_tried() -> None:
    known = {header.lower() for header in HEADERS}
    read = set()
    for folder in ("server/palaver/web", "plugins/palaver_plugins/channels"):
        for source in (ROOT / folder).rglob("*.py"):
            text = source.read_text(encoding="utf-8")
            read |= set(re.findall(r"headers\.get(?:all|one)?\(\s*\"([\w-]+)\"", text))
            read |= set(re.findall(r"\"([\w-]+)\" (?:not )?in \w+\.headers\b(?!\.)", text))
    for source in (ROOT / "server/palaver").glob("*.py"):
        text = source.read_text(encoding="utf-8")
        read |= set(re.findall(r"request\.headers\.get(?:all)?\(\s*\"([\w-]+)\"", text))
    assert {"Idempotency-Key", "Origin", "Authorization", "X-Forwarded-For"} <= read
    of_responses = {"date", "retry-after"}
    assert {name.lower() for name in read} <= known | of_responses


async def test_what_is_refused_is_counted() -> None:
    async with open_live_server(max_message_bytes=1_000) as live_server:
        many = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 100 + b"\r\n"
        large = b"POST /v1/conversations/t/messages HTTP/1.1\r\nHost: localhost\r\n"
        large += b"Content-Length: 2000\r\n\r\n" + b"x" * 2000
        for sent in (
            *(b"\x00\r\n\r\n", b"GET / HTTP/1.1\r\nHost: [\r\n\r\n"),
            *(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", many, large),
        ):
            check(await ask(live_server, sent), sent)
        async with live_server.connect("t") as client:
            await client.send({"type": "send", "id": "1", "text": "x" * 2000})
            await client.wait_for("error", code="too_large")
        metrics = live_server.server.metrics.exposition().decode()
        for limit in ("malformed", "head_size", "max_message_bytes"):
            assert f'palaver_limits_total{{limit="{limit}"}} 2.0' in metrics
