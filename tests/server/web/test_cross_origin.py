"""Cross-origin requests: pages of `server.origins` may do all, pages of other origins nothing."""

import io
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from tests.server.web.live_server import LiveServer, open_live_server
from tests.server.web.raw_client import raw_connection

from palaver.config.loading import load_settings
from palaver.config.settings import AdmissionSettings, AuthKey, Secret
from palaver.errors import ConfigurationError, LedgerUnavailable
from palaver.messages import Message
from palaver.testing import MemoryLedger
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow

SHOP = "https://shop.example"
FOREIGN = [
    "https://evil.example",
    "null",
    "http://shop.example",
    "https://shop.example.evil.example",
    "https://evilshop.example",
    "https://shop.example:8443",
    "https://user@shop.example",
    "https://shop.example/",
]
Headers = CIMultiDictProxy[str]


def granted(headers: Headers) -> dict[str, str]:
    return {
        name.lower(): value for name, value in headers.items() if name.lower().startswith("access-")
    }


def check_granted(headers: Headers, origin: str = SHOP) -> None:
    assert headers["Access-Control-Allow-Origin"] == origin
    assert headers["Access-Control-Allow-Credentials"] == "true"
    assert "Origin" in headers["Vary"]
    assert "*" not in "".join(granted(headers).values())


class FullLedger(MemoryLedger):
    """A ledger that stores nothing."""

    async def accept(self, message: Message, *args: Any, **options: Any) -> Any:
        raise LedgerUnavailable("no room")


MESSAGES = "/v1/conversations/t/messages"
ANSWERS: list[tuple[int, str, str, dict[str, Any]]] = [
    (200, "GET", "/", {}),
    (200, "GET", "/static/palaver-client.js", {}),
    (200, "HEAD", "/static/palaver-client.js", {}),
    (200, "GET", "/healthz", {}),
    (200, "GET", "/openapi.json", {}),
    (200, "GET", "/v1/skills", {}),
    (200, "GET", "/v1/conversations/t", {}),
    (200, "GET", "/v1/conversations/t/events?until=finished", {}),
    (403, "GET", "/v1/export", {}),
    (202, "POST", MESSAGES, {"json": {"text": "hello"}}),
    (200, "POST", f"{MESSAGES}?wait=true", {"json": {"text": "hello"}}),
    (400, "POST", MESSAGES, {"data": b"{"}),
    (400, "GET", "/v1/conversations/t/events?until=x", {}),
    (400, "GET", "/v1/skills", {"headers": {"Host": "a b"}}),
    (403, "GET", "/v1/skills", {"headers": {"Host": "evil.example"}}),
    (404, "GET", "/nowhere", {}),
    (404, "GET", "/static/nothing.js", {}),
    (404, "POST", MESSAGES, {"json": {"text": "hello", "skill": "nobody"}}),
    (405, "DELETE", "/v1/skills", {}),
    (405, "OPTIONS", "/v1/skills", {}),
    (409, "POST", MESSAGES, {"json": {"text": "other", "id": "known"}}),
    (413, "POST", MESSAGES, {"data": io.BytesIO(b"x" * 2_000_000)}),
    (415, "POST", MESSAGES, {"data": b"{}", "headers": {"Content-Encoding": "gzip"}}),
    (431, "GET", "/v1/skills", {"headers": {f"X-{n}": "" for n in range(80)}}),
    (429, "POST", MESSAGES, {"json": {"text": "hello"}}),
]  # fmt: skip


async def prepare(live_server: LiveServer) -> None:
    status, _ = await live_server.post(MESSAGES, {"text": "one", "id": "known"})
    assert status == 202


@pytest.mark.parametrize("origin", [SHOP, "https://evil.example"])
@pytest.mark.parametrize(
    ("status", "method", "path", "options"), ANSWERS, ids=[f"{a[0]} {a[1]} {a[2]}" for a in ANSWERS]
)
async def test_every_answer_can_be_read_by_allowed_pages_alone(
    origin: str, status: int, method: str, path: str, options: dict[str, Any]
) -> None:
    quota = AdmissionSettings(person={"messages_per_minute": 1})
    admission = quota if status == 429 else AdmissionSettings()
    async with open_live_server(origins=(SHOP,), admission=admission) as live_server:
        if status in (409, 429):
            await prepare(live_server)
        headers = {"Origin": origin, **options.get("headers", {})}
        async with live_server.session.request(
            method, live_server.url(path), **{**options, "headers": headers}
        ) as response:
            assert "Origin" in response.headers["Vary"]
            if origin == SHOP:
                assert response.status == status, await response.text()
                check_granted(response.headers)
                exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
                assert {"Retry-After", "retry-after-ms"} <= set(exposed)
                assert status != 405 or "Allow" in exposed
                assert "Set-Cookie" not in exposed
            else:
                assert not granted(response.headers)


async def test_errors_of_keys_and_of_the_ledger_can_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEY", "the secret key of a page")
    key = AuthKey(secret=Secret("env:KEY"), rights=("talk",))
    async with open_live_server(
        origins=(SHOP,), keys={"page": key}, ledger=FullLedger(), channels=(OpenAIChannel(),)
    ) as live_server:
        authorized = {"Authorization": "Bearer the secret key of a page"}
        body = {"model": "parrot", "messages": [{"role": "user", "content": "hi"}]}
        for expected, path, headers, data in (
            (401, MESSAGES, {}, {"text": "hi"}),
            (401, MESSAGES, {"Authorization": "Bearer wrong"}, {"text": "hi"}),
            (403, "/v1/erase", authorized, {}),
            (503, MESSAGES, authorized, {"text": "hi"}),
            (401, "/v1/chat/completions", {}, body),
            (503, "/v1/chat/completions", authorized, body),
        ):
            async with live_server.session.post(
                live_server.url(path), json=data, headers={"Origin": SHOP, **headers}
            ) as response:
                assert response.status == expected, path
                check_granted(response.headers)
                assert expected != 503 or int(response.headers["Retry-After"]) > 0


PREFLIGHTS = [
    ("/v1/skills", "GET", "GET"),
    (MESSAGES, "POST", "POST"),
    ("/v1/conversations/t/events", "GET", "GET"),
    ("/static/palaver-client.js", "GET", "GET, HEAD"),
    ("/v1/skills", "DELETE", "GET"),
    ("/nowhere", "GET", "GET"),
]


async def preflight(live_server: LiveServer, path: str, origin: str, method: str) -> Any:
    asked = "authorization,content-type,idempotency-key,x-stainless-os"
    async with live_server.session.options(
        live_server.url(path),
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": asked,
        },
    ) as response:
        return response, await response.read()


@pytest.mark.parametrize(("path", "method", "allowed"), PREFLIGHTS)
async def test_a_preflight_tells_the_methods_of_the_route_before_any_key(
    path: str, method: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "the secret key of a page")
    keys = {"page": AuthKey(secret=Secret("env:KEY"))}
    async with open_live_server(origins=(SHOP,), keys=keys) as live_server:
        response, body = await preflight(live_server, path, SHOP, method)
        assert (response.status, body) == (204, b"")
        check_granted(response.headers)
        assert response.headers["Access-Control-Allow-Methods"] == allowed
        names = response.headers["Access-Control-Allow-Headers"].split(",")
        assert {"authorization", "content-type", "x-stainless-os"} <= set(names)
        assert int(response.headers["Access-Control-Max-Age"]) > 0
        response, _ = await preflight(live_server, path, "https://evil.example", method)
        assert response.status == 403
        assert not granted(response.headers)


@pytest.mark.parametrize("origin", FOREIGN)
async def test_pages_that_are_not_named_get_nothing(origin: str) -> None:
    async with open_live_server(origins=(SHOP,)) as live_server:
        headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
        for path in ("/v1/skills", "/v1/conversations/t", "/v1/conversations/t/events"):
            async with live_server.session.get(live_server.url(path), headers=headers) as response:
                assert response.status == 403
                assert not granted(response.headers)
        for path in ("/static/palaver-client.js", "/healthz", "/"):
            async with live_server.session.get(live_server.url(path), headers=headers) as response:
                assert not granted(response.headers)
        response, _ = await preflight(live_server, MESSAGES, origin, "POST")
        assert response.status == 403
        assert not granted(response.headers)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with live_server.open_websocket(headers=headers):
                pass


@pytest.mark.parametrize(
    ("named", "sent"),
    [
        ("https://Shop.Example", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("https://shop.example/", "https://shop.example"),
        ("http://shop.example:80", "http://shop.example"),
        ("http://[0:0::1]:3000", "http://[::1]:3000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://Faß.example", "https://xn--fa-hia.example"),
        ("https://i❤.example", "https://xn--i-7iq.example"),
        ("https://shop.example:0443", "https://shop.example"),
        ("https://shop.example:65535", "https://shop.example:65535"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
async def test_an_origin_is_compared_as_browsers_send_it(named: str, sent: str) -> None:
    async with open_live_server(origins=(named,)) as live_server:
        async with live_server.session.get(
            live_server.url("/v1/skills"), headers={"Origin": sent}
        ) as response:
            assert response.status == 200
            check_granted(response.headers, sent)
        async with live_server.open_websocket(headers={"Origin": sent}) as client:
            await client.hello("t", person=None)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost", "localhost:80"),
        ("https://LOCALHOST", "localhost:443"),
        ("https://localhost", "localhost"),
        ("http://localhost:8080", "LocalHost:8080"),
        ("http://[::1]:8080", "[0::1]:8080"),
    ],
)
async def test_the_servers_own_pages_are_recognized_by_the_host(
    live_server: LiveServer, origin: str, host: str
) -> None:
    body = {"text": "hello"}
    status, _ = await live_server.post(MESSAGES, body, headers={"Origin": origin, "Host": host})
    assert status == 202
    port = origin.rpartition(":")[2].isdigit()
    other = origin if port else f"{origin}:81"
    wrong = host if not port else "localhost:1"
    status, _ = await live_server.post(MESSAGES, body, headers={"Origin": other, "Host": wrong})
    assert status == 403


@pytest.mark.parametrize(
    "value",
    ["*", "null", "https://*.example.org", "shop.example", "https://shop.example/page",
     "https://", "https://shop.example:x", "https://user@shop.example", "http://[::x]", "https://ü..x",
     "http://localhost:0", "http://localhost:65536", "http://localhost:99999", "file://"],
)  # fmt: skip
def test_what_is_no_origin_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"server\.origins.*such as 'https://www"):
        load_settings(None, {"PALAVER__SERVER__ORIGINS": value})


async def test_a_request_of_no_page_gets_no_grant() -> None:
    async with open_live_server(origins=(SHOP,)) as live_server:
        async with live_server.session.get(live_server.url("/v1/skills")) as response:
            assert not granted(response.headers)
            assert "Origin" in response.headers["Vary"]
        async with raw_connection(live_server.address) as client:
            await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: \xff\r\n\r\n")
            refused = await client.response()
            assert refused is not None
            assert refused.status == 400
            assert "access-control-allow-origin" not in refused.headers
