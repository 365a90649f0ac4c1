"""The widget's visitors: tokens for pages of a site, and what they are good for."""

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.proofs.virtual_time import run_in_virtual_time
from tests.server.web.live_server import (
    TIMEOUT_SECONDS,
    LiveServer,
    WebSocketClient,
    open_live_server,
)

from palaver.authentication import Principal
from palaver.config.settings import (
    AuthKey,
    ConnectionSettings,
    Secret,
    SiteSettings,
    WidgetSettings,
)
from palaver.errors import ConfigurationError
from palaver.sites import CLOCK_TOLERANCE_SECONDS, MAX_IDENTITY_SECONDS
from palaver.testing import MemoryLedger
from palaver.visitors import STATEMENT_SECONDS, TOKEN_SECONDS, VisitorSignatures
from palaver.web import expiry
from palaver.web.expiry import Expiry
from palaver.web.widget_api import MAX_REQUEST_BYTES
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow

SHOP, BLOG = "https://shop.example", "https://blog.example"
KEY, OTHER_KEY = "pk_the-key-of-the-shop", "pk_the-key-of-the-blog"
TOKEN = "/v1/widget/token"
MESSAGES = "/v1/conversations/t/messages"
KEYS = {"ada": AuthKey(secret=Secret("env:KEY_ADA"), tenant="acme", person="ada")}
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_ADA", "the secret key of ada")


def site(**fields: Any) -> SiteSettings:
    return SiteSettings(**{"key": KEY, "origins": (SHOP,), "tenant": "shop", **fields})


def widget(**fields: Any) -> WidgetSettings:
    sites = {"shop": site(**fields), "blog": site(key=OTHER_KEY, origins=(BLOG,), tenant="blog")}
    return WidgetSettings(sites=sites)


def page(origin: str, token: str = "") -> dict[str, str]:
    """Return the headers of a request from a page."""
    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    return headers | ({"Authorization": f"Bearer {token}"} if token else {})


async def ask(
    live_server: LiveServer, *, origin: str = SHOP, **body: Any
) -> tuple[int, dict[str, Any]]:
    body.setdefault("key", KEY)
    return await live_server.post(TOKEN, body, headers=page(origin))


async def visit(live_server: LiveServer, **about: Any) -> dict[str, Any]:
    status, answer = await ask(live_server, **about)
    assert status == 200, answer
    return answer


async def test_a_visitor_talks_with_a_token() -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        granted = await visit(live_server)
        assert set(granted) == {"token", "expires_in", "person", "visitor"}
        assert granted["expires_in"] == 600
        assert granted["person"].startswith("visitor.shop.")
        async with live_server.open_websocket(headers=page(SHOP)) as client:
            welcome = await client.hello("t", person=None, token=granted["token"])
            assert welcome["person"] == granted["person"]
            turn = await client.send_message("hello")
            assert await client.wait_for_reply(turn) == "hello "
        headers = page(SHOP, granted["token"])
        status, exported = await live_server.get("/v1/export", headers=headers)
        assert (status, exported["tenant"]) == (200, "shop")
        assert list(exported["conversations"]) == ["shop/web/t"]
        status, receipt = await live_server.post("/v1/erase", headers=headers)
        assert (status, receipt["conversations"]) == (200, 1)


async def test_a_visitor_stays_the_same_person_with_the_statement() -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        first = await visit(live_server)
        again = await visit(live_server, visitor=first["visitor"])
        assert again["person"] == first["person"]
        assert (await visit(live_server))["person"] != first["person"]
        assert (await visit(live_server, visitor=None))["person"] != first["person"]


async def test_a_token_is_refreshed_over_the_websocket() -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        first = await visit(live_server)
        async with open_visitor(live_server, first["token"]) as client:
            again = await visit(live_server, visitor=first["visitor"])
            await client.send({"type": "refresh", "token": again["token"]})
            refreshed = await client.wait_for("refreshed")
            assert 590 <= refreshed["expires_in"] <= 600


@contextlib.asynccontextmanager
async def open_visitor(
    live_server: LiveServer, token: str, *, origin: str = SHOP
) -> AsyncIterator[WebSocketClient]:
    async with live_server.open_websocket(headers=page(origin)) as client:
        await client.hello("t", person=None, token=token)
        yield client


@pytest.mark.parametrize(
    ("origin", "key"),
    [(BLOG, KEY), (SHOP, OTHER_KEY), ("https://evil.example", KEY), (SHOP, "pk_nothing")],
)
async def test_a_token_is_for_pages_of_its_site_alone(origin: str, key: str) -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        status, answer = await ask(live_server, origin=origin, key=key)
        assert (status, answer["error"]["code"]) == (403, "forbidden")


async def test_a_stolen_token_is_of_no_use_to_other_pages() -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        token = (await visit(live_server))["token"]
        for headers in (page(BLOG, token), {"Authorization": f"Bearer {token}"}):
            status, answer = await live_server.get("/v1/skills", headers=headers)
            assert (status, answer["error"]["code"]) == (403, "forbidden")
        async with live_server.open_websocket(headers=page(BLOG)) as client:
            await client.send({"type": "hello", "thread": "t", "token": token})
            assert await client.close_code() == 4403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with live_server.open_websocket(headers=page("https://evil.example")):
                pass


async def test_tokens_of_one_address_are_limited() -> None:
    chosen = WidgetSettings(sites={"shop": site()}, token_requests_per_minute=2)
    async with open_live_server(widget=chosen, keys=KEYS) as live_server:
        first = await visit(live_server)
        assert (await ask(live_server, key="pk_nothing"))[0] == 403
        status, answer = await ask(live_server, visitor=first["visitor"])
        assert (status, answer["error"]["code"]) == (429, "too_many")
        metrics = live_server.server.metrics.exposition()
        assert b'palaver_limits_total{limit="token_requests"} 1.0' in metrics


async def test_new_visitors_are_limited() -> None:
    async with open_live_server(widget=widget(new_visitors_per_minute=2)) as live_server:
        first = await visit(live_server)
        await visit(live_server)
        status, answer = await ask(live_server)
        assert (status, answer["error"]["code"]) == (429, "too_many")
        again = await visit(live_server, visitor=first["visitor"])
        assert again["person"] == first["person"]
        assert (await ask(live_server, origin=BLOG, key=OTHER_KEY))[0] == 200
        assert b'palaver_limits_total{limit="new_visitors"} 1.0' in (
            live_server.server.metrics.exposition()
        )


async def test_messages_of_a_visitor_are_limited() -> None:
    async with open_live_server(widget=widget(messages_per_minute=2), keys=KEYS) as live_server:
        one, two = await visit(live_server), await visit(live_server)
        sent = [
            (await send(live_server, one["token"]))[0],
            (await send(live_server, one["token"]))[0],
            (await send(live_server, one["token"]))[0],
            (await send(live_server, two["token"], thread="u"))[0],
        ]
        assert sent == [202, 202, 429, 202]
        headers = {"Authorization": "Bearer the secret key of ada"}
        for _ in range(3):
            assert (await live_server.post(MESSAGES, {"text": "hello"}, headers=headers))[0] == 202


async def send(live_server: LiveServer, token: str, *, thread: str = "t") -> tuple[int, Any]:
    path = f"/v1/conversations/{thread}/messages"
    return await live_server.post(path, {"text": "hello"}, headers=page(SHOP, token))


# Tokens that are not good


def signatures_of(secret: str, *, seconds_ago: float = 0) -> VisitorSignatures:
    return VisitorSignatures([secret.encode()], lambda: time.time() - seconds_ago)


SERVER_SECRET = "a secret of all servers in the tests"
NOT_GOOD = {
    "none": "",
    "rubbish": "a.b.c",
    "of another server": signatures_of("another secret").sign_token("shop", SHOP, "visitor.shop.x"),
    "a statement": signatures_of(SERVER_SECRET).sign_visitor("shop", "x"),
    "expired": signatures_of(SERVER_SECRET, seconds_ago=TOKEN_SECONDS).sign_token(
        "shop", SHOP, "visitor.shop.x"
    ),
    "of a site that is gone": signatures_of(SERVER_SECRET).sign_token("gone", SHOP, "visitor.x.x"),
    "of an origin that is gone": signatures_of(SERVER_SECRET).sign_token(
        "shop", "https://old.example", "visitor.shop.x"
    ),
    "an ordinary key": "the secret key of ada",
}


@pytest.mark.parametrize("keys", [{}, KEYS], ids=["without keys", "with keys"])
@pytest.mark.parametrize("fault", NOT_GOOD)
async def test_a_page_of_a_site_needs_a_good_token(fault: str, keys: dict[str, AuthKey]) -> None:
    token = NOT_GOOD[fault]
    async with open_live_server(widget=widget(), keys=keys) as live_server:
        headers = page(SHOP, token)
        for method, path in (("GET", "/v1/skills"), ("POST", MESSAGES), ("POST", "/v1/erase")):
            async with live_server.session.request(
                method, live_server.url(path), json={"text": "hello"}, headers=headers
            ) as response:
                assert response.status == 401
                assert response.headers["Access-Control-Allow-Origin"] == SHOP
                assert (await response.json())["error"]["code"] == "unauthenticated"
        async with live_server.open_websocket(headers=page(SHOP)) as client:
            await client.send({"type": "hello", "thread": "t", "token": token})
            assert await client.close_code() == 4401


async def test_an_expired_token_is_no_wrong_key() -> None:
    async with open_live_server(
        widget=widget(), keys=KEYS, auth={"failures_per_minute": 1}
    ) as live_server:
        for fault in ("expired", "of another server"):
            for _ in range(3):
                headers = page(SHOP, NOT_GOOD[fault])
                assert (await live_server.get("/v1/skills", headers=headers))[0] == 401
        assert b"palaver_wrong_keys_total{" not in live_server.server.metrics.exposition()


async def test_a_page_of_a_site_does_not_use_a_browsers_cookie() -> None:
    open_key = {"open": AuthKey(secret=Secret("env:KEY_ADA"), tenant="acme")}
    for keys in ({}, open_key):
        async with open_live_server(widget=widget(), keys=keys) as live_server:
            async with live_server.browser() as browser:
                same_site = {"Origin": SHOP, "Sec-Fetch-Site": "same-site"}
                for key in ("", "the secret key of ada"):
                    headers = {**same_site, "Authorization": f"Bearer {key}"}
                    assert (await browser.get("/v1/conversations", headers=headers))[0] == 401
                    status, _ = await browser.post(MESSAGES, {"text": "x"}, headers=headers)
                    assert status == 401


async def test_a_widget_sets_no_cookie() -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        headers = page(SHOP) | {"Sec-Fetch-Site": "same-site"}
        async with live_server.session.post(
            live_server.url(TOKEN), json={"key": KEY}, headers=headers
        ) as response:
            token = (await response.json())["token"]
            assert "Set-Cookie" not in response.headers
        async with live_server.session.ws_connect(
            live_server.url("/ws"), headers=headers
        ) as socket:
            assert "Set-Cookie" not in socket._response.headers
        async with live_server.session.get(
            live_server.url("/v1/skills"), headers=page(SHOP, token)
        ) as response:
            assert response.status == 200
            assert "Set-Cookie" not in response.headers


async def test_a_widget_in_the_servers_own_page_may_leave_out_the_origin() -> None:
    async with open_live_server(keys=KEYS, widget=WidgetSettings()) as probe:
        port = probe.address.rpartition(":")[2]
    own = f"http://127.0.0.1:{port}"
    chosen = WidgetSettings(sites={"own": site(origins=(own, SHOP))})
    async with open_live_server(keys=KEYS, widget=chosen, port=int(port)) as live_server:
        granted = await visit(live_server, origin=own)
        bearer = {"Authorization": f"Bearer {granted['token']}"}
        for site_of_request, status in (("same-origin", 200), ("none", 403), ("cross-site", 403)):
            headers = bearer | {"Sec-Fetch-Site": site_of_request}
            assert (await live_server.get("/v1/skills", headers=headers))[0] == status
        from_shop = await visit(live_server)
        headers = {
            "Authorization": f"Bearer {from_shop['token']}",
            "Sec-Fetch-Site": "same-origin",
        }
        assert (await live_server.get("/v1/skills", headers=headers))[0] == 403


async def test_a_statement_of_another_site_or_server_makes_somebody_new() -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        shop = await visit(live_server)
        blog = await visit(live_server, origin=BLOG, key=OTHER_KEY, visitor=shop["visitor"])
        again = await visit(live_server, visitor=blog["visitor"])
        stolen = await visit(live_server, visitor=shop["token"])
        expired = signatures_of(SERVER_SECRET, seconds_ago=STATEMENT_SECONDS)
        late = await visit(live_server, visitor=expired.sign_visitor("shop", "id"))
        people = [answer["person"] for answer in (shop, blog, again, stolen, late)]
        assert len(set(people)) == len(people)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b""),
        (400, b"{"),
        (400, b"[]"),
        (400, b"{}"),
        (400, b'{"key": 7}'),
        (400, b'{"key": "k", "visitor": []}'),
        (400, b'{"key": "k", "more": ' + b"[" * 10_000),
        (403, b'{"key": ""}'),
        (403, b'{"key": "\\u0000"}'),
        (413, b'{"key": "' + b"x" * MAX_REQUEST_BYTES + b'"}'),
        (413, b" " * 2_000_000),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_malformed_request_for_a_token_is_refused(status: int, body: bytes) -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        found, answer = await live_server.post(
            TOKEN, data=io.BytesIO(body), json=None, headers=page(SHOP)
        )
        assert found == status, answer
        assert answer["error"]["code"] in ("invalid_input", "forbidden", "too_large")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "null"}, {"Origin": "https://shop.example.evil.example"},
     {"Origin": "http://shop.example"}, {"Origin": "https://shop.example:8443"},
     {"Origin": "https://user@shop.example"}, {"Sec-Fetch-Site": "cross-site"},
     {"Sec-Fetch-Site": "same-origin"}],
    ids=str,
)  # fmt: skip
async def test_a_token_needs_the_exact_origin(headers: dict[str, str]) -> None:
    for keys in ({}, KEYS):
        async with open_live_server(widget=widget(), keys=keys) as live_server:
            async with live_server.session.post(
                live_server.url(TOKEN), json={"key": KEY}, headers=headers
            ) as response:
                assert response.status == 403
                assert "Access-Control-Allow-Origin" not in response.headers


# What visitors may do


async def test_visitors_use_no_route_of_a_channel_or_of_operators_and_publish_nothing() -> None:
    async with open_live_server(
        widget=widget(), keys=KEYS, channels=(OpenAIChannel(),)
    ) as live_server:
        headers = page(SHOP, (await visit(live_server))["token"])
        body = {"model": "parrot", "messages": [{"role": "user", "content": "hello"}]}
        refused = [
            await live_server.post("/v1/chat/completions", body, headers=headers),
            await live_server.get("/v1/models", headers=headers),
            await live_server.post("/v1/conversations/t/shares", headers=headers),
            await live_server.get("/v1/conversations/t/shares", headers=headers),
            await live_server.get("/metrics", headers=headers),
            await live_server.get("/v1/conversations/t?person=ada", headers=headers),
        ]
        assert [status for status, _ in refused] == [403] * 6
        assert "this route is not for visitors of a site" in str(refused[0])
        assert "visitors of the site 'shop' lack the right 'metrics'" in str(refused[4])


async def test_visitors_do_not_see_each_other() -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        one, two = await visit(live_server), await visit(live_server)
        path = f"{MESSAGES}?wait=true"
        body = {"text": "a secret"}
        status, _ = await live_server.post(path, body, headers=page(SHOP, one["token"]))
        assert status == 200
        for route in ("", "/history", "/events", "/export"):
            status, answer = await live_server.get(
                f"/v1/conversations/t{route}", headers=page(SHOP, two["token"])
            )
            assert status == 403
            assert "a secret" not in str(answer)
        _, listed = await live_server.get("/v1/conversations", headers=page(SHOP, two["token"]))
        assert listed["conversations"] == []
        blog = await visit(live_server, origin=BLOG, key=OTHER_KEY)
        _, theirs = await live_server.get("/v1/conversations/t", headers=page(BLOG, blog["token"]))
        assert theirs["snapshot"] == {"history": [], "pending": []}


@pytest.mark.parametrize("files", [True, False])
async def test_a_site_may_let_its_visitors_upload_files(files: bool) -> None:
    async with open_live_server(widget=widget(files=files), keys=KEYS) as live_server:
        visitor, other = [await visit(live_server) for _ in "ab"]
        headers = page(SHOP, visitor["token"])
        _, about = await live_server.get("/v1/about", headers=headers)
        assert (about["files"] is not None) is files
        status, file = await live_server.post(
            "/v1/files?name=a.txt", json=None, data=b"Hello", headers=headers
        )
        assert status == (201 if files else 403)
        body = {"text": "look", "attachments": [{"file": file.get("id", 64 * "a")}]}
        if not files:
            assert (await live_server.post(MESSAGES, body, headers=headers))[0] == 404
            return
        assert (await live_server.post(MESSAGES, body, headers=headers))[0] == 202
        path = f"/v1/files/{file['id']}"
        assert (await live_server.get(path, headers=headers)) == (200, "Hello")
        assert (await live_server.get(path, headers=page(SHOP, other["token"])))[0] == 404
        assert (await live_server.post(MESSAGES, body, headers=page(SHOP, other["token"])))[0] in (
            403,
            404,
        )


async def test_a_site_may_have_some_of_the_skills() -> None:
    async with open_live_server(
        widget=widget(skills=("parrot", "scholar")), keys=KEYS
    ) as live_server:
        token = (await visit(live_server))["token"]
        headers = page(SHOP, token)
        for path in ("/v1/skills", "/v1/about"):
            _, answer = await live_server.get(path, headers=headers)
            assert "scholar" in str(answer)
            assert "clumsy" not in str(answer)
        assert answer["sharing"] is False
        path = f"{MESSAGES}?wait=true"
        for body in ({"text": "x", "skill": "clumsy"}, {"text": "/clumsy x"}):
            status, answer = await live_server.post(path, body, headers=headers)
            assert "There is no skill 'clumsy'. There are: /parrot, /scholar." in str(answer)
            assert (status, answer.get("outcome")) in ((404, None), (200, "failed"))
        status, answer = await live_server.post(path, {"text": "/scholar x"}, headers=headers)
        assert (status, answer["skill"]) == (200, "scholar")
        blog = await visit(live_server, origin=BLOG, key=OTHER_KEY)
        body = {"text": "x", "skill": "waiter"}
        status, answer = await live_server.post(path, body, headers=page(BLOG, blog["token"]))
        assert (status, answer["outcome"]) == (200, "asked")
        _, answer = await live_server.get(
            "/v1/skills", headers={"Authorization": "Bearer the secret key of ada"}
        )
        assert "clumsy" in str(answer)


async def test_the_skills_of_a_site_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"widget\.sites\.shop\.skills names 'nobody'"):
        async with open_live_server(widget=widget(skills=("nobody",))):
            pass


# Connections


async def test_a_refresh_must_be_the_same_visitors() -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        one, two = await visit(live_server), await visit(live_server)
        blog = await visit(live_server, origin=BLOG, key=OTHER_KEY)
        async with open_visitor(live_server, one["token"]) as client:
            for token, code in (
                (two["token"], "forbidden"),
                (blog["token"], "forbidden"),
                (NOT_GOOD["expired"], "unauthenticated"),
                (NOT_GOOD["rubbish"], "unauthenticated"),
                (NOT_GOOD["an ordinary key"], "unauthenticated"),
                ("", "unauthenticated"),
            ):
                await client.send({"type": "refresh", "token": token})
                await client.wait_for("error", code=code)
            for frame in ({"type": "refresh"}, {"type": "refresh", "token": 7}):
                await client.send(frame)
                await client.wait_for("error", code="invalid_input")
            assert await client.wait_for_reply(await client.send_message("still here"))


async def test_a_key_has_nothing_to_refresh() -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        headers = {"Authorization": "Bearer the secret key of ada"}
        async with live_server.open_websocket(headers=headers) as client:
            await client.hello("t", person=None)
            await client.send({"type": "refresh", "token": (await visit(live_server))["token"]})
            await client.wait_for("error", code="invalid_input")


CLOSE_AT_ONCE = -float(TOKEN_SECONDS)
"""Grace with which a new token is over when it is used."""


async def test_a_connection_ends_after_its_token_and_the_reply_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        first = await visit(live_server)
        async with open_visitor(live_server, first["token"]) as client:
            turn = await client.send_message("/scripted x")
            live_server.scripted.emit("begun ", end=False)
            await client.wait_for_text(turn, "begun")
            monkeypatch.setattr(expiry, "GRACE_SECONDS", CLOSE_AT_ONCE)
            again = await visit(live_server, visitor=first["visitor"])
            await client.send({"type": "refresh", "token": again["token"]})
            assert await client.close_code() == 4401
        monkeypatch.undo()
        async with open_visitor(live_server, again["token"]) as client:
            live_server.scripted.emit("and ended")
            assert await client.wait_for_reply(turn) == "begun and ended"


async def test_a_connection_ends_after_the_token_of_its_hello(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        token = (await visit(live_server))["token"]
        monkeypatch.setattr(expiry, "GRACE_SECONDS", CLOSE_AT_ONCE)
        async with open_visitor(live_server, token) as client:
            assert await client.close_code() == 4401
        url = live_server.url("/v1/conversations/t/events")
        async with asyncio.timeout(TIMEOUT_SECONDS):
            async with live_server.session.get(url, headers=page(SHOP, token)) as stream:
                assert stream.status == 200
                assert b"welcome" in await stream.read()


def test_an_expiry_comes_when_the_last_token_and_the_grace_are_over() -> None:
    def visitor(seconds: float) -> Principal:
        at = time.time() + seconds
        return Principal("shop", "visitor.shop.x", "shop", frozenset(), frozenset(), "shop", at)

    async def run() -> list[str]:
        ended: list[str] = []
        timer, of_key = Expiry(lambda: ended.append("visitor")), Expiry(lambda: ended.append("key"))
        timer.restart(visitor(600))
        of_key.restart(Principal("shop", "ada", "ada", frozenset(), frozenset()))
        await asyncio.sleep(620)
        timer.restart(visitor(600))
        await asyncio.sleep(620)
        assert ended == []
        await asyncio.sleep(20)
        assert ended == ["visitor"]
        timer.restart(visitor(600))
        timer.cancel()
        await asyncio.sleep(700)
        return ended

    assert run_in_virtual_time(run()) == ["visitor"]


# Secrets and replicas


async def test_two_replicas_take_each_others_tokens_and_a_rotated_secret_keeps_people() -> None:
    ledger = MemoryLedger()
    common: dict[str, Any] = {"widget": widget(), "keys": KEYS}
    async with (
        open_live_server(**common, cookie_secrets=(b"old",), ledger=ledger) as one,
        open_live_server(**common, cookie_secrets=(b"old",), ledger=ledger) as two,
        open_live_server(**common, cookie_secrets=(b"new", b"old"), ledger=ledger) as rotated,
        open_live_server(**common, cookie_secrets=(b"new",), ledger=ledger) as later,
    ):
        granted = await visit(one)
        headers = page(SHOP, granted["token"])
        assert (await two.get("/v1/skills", headers=headers))[0] == 200
        assert (await rotated.get("/v1/skills", headers=headers))[0] == 200
        assert (await later.get("/v1/skills", headers=headers))[0] == 401
        renewed = await visit(rotated, visitor=granted["visitor"])
        assert renewed["person"] == granted["person"]
        assert (await visit(later, visitor=renewed["visitor"]))["person"] == granted["person"]
        assert (await visit(later, visitor=granted["visitor"]))["person"] != granted["person"]


# CORS


def granted_headers(headers: Any) -> dict[str, str]:
    return {
        name.lower(): value for name, value in headers.items() if name.lower().startswith("access-")
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", TOKEN), ("POST", MESSAGES), ("GET", "/v1/conversations"), ("POST", "/v1/erase"),
     ("DELETE", "/v1/conversations/t"), ("GET", "/v1/conversations/t/events"),
     ("GET", "/v1/export")],
)  # fmt: skip
async def test_a_preflight_allows_what_the_widget_sends_and_nothing_else(
    method: str, path: str
) -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        for origin, status in ((SHOP, 204), (BLOG, 204), ("https://evil.example", 403)):
            asked = "Authorization, content-type,last-event-id, cookie, x-other,idempotency-key"
            async with live_server.session.options(
                live_server.url(path),
                headers={
                    "Origin": origin,
                    "Access-Control-Request-Method": method,
                    "Access-Control-Request-Headers": asked,
                },
            ) as response:
                assert response.status == status
                found = granted_headers(response.headers)
            if status == 403:
                assert found == {}
                continue
            assert found["access-control-allow-origin"] == origin
            assert method in found["access-control-allow-methods"].split(", ")
            assert found["access-control-allow-headers"] == (
                "authorization, content-type, last-event-id, idempotency-key"
            )
            assert "access-control-allow-credentials" not in found


async def test_answers_can_be_read_by_the_page_alone_and_without_credentials() -> None:
    async with open_live_server(widget=widget(), keys=KEYS) as live_server:
        token = (await visit(live_server))["token"]
        for path, status in (
            ("/v1/skills", 200),
            ("/v1/conversations/t/events?until=finished", 200),
            ("/v1/nothing", 404),
            ("/metrics", 403),
            ("/v1/conversations?limit=x", 400),
        ):
            async with live_server.session.get(
                live_server.url(path), headers=page(SHOP, token)
            ) as response:
                assert response.status == status
                assert response.headers["Access-Control-Allow-Origin"] == SHOP
                assert "Access-Control-Allow-Credentials" not in response.headers
                assert "Origin" in response.headers["Vary"]
                assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]


async def test_an_origin_that_is_trusted_as_well_keeps_what_it_has() -> None:
    async with open_live_server(widget=widget(), keys=KEYS, origins=(SHOP,)) as live_server:
        headers = page(SHOP, "the secret key of ada")
        async with live_server.session.get(
            live_server.url("/v1/skills"), headers=headers
        ) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Credentials"] == "true"
        granted = await visit(live_server)
        async with open_visitor(live_server, granted["token"]) as client:
            assert client.frames[0]["person"] == granted["person"]


# The script


@pytest.mark.parametrize("origins", [(), (SHOP,)], ids=["a foreign page", "a trusted page"])
async def test_any_page_may_load_the_script_and_it_sets_no_cookie(origins: tuple[str, ...]) -> None:
    async with open_live_server(widget=widget(), keys=KEYS, origins=origins) as live_server:
        for site_of_request in ("cross-site", "same-site", "same-origin"):
            headers = {"Origin": SHOP, "Sec-Fetch-Site": site_of_request}
            async with live_server.session.get(
                live_server.url("/widget.js"), headers=headers
            ) as response:
                assert response.status == 200
                assert response.content_type == "text/javascript"
                assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
                assert response.headers["Cache-Control"] == "public, max-age=300"
                assert response.headers["Vary"] == "Accept-Encoding"
                assert granted_headers(response.headers) == {"access-control-allow-origin": "*"}
                assert "Set-Cookie" not in response.headers
                etag = response.headers["ETag"]
        headers = {"Origin": "https://evil.example", "If-None-Match": etag}
        async with live_server.session.get(
            live_server.url("/widget.js"), headers=headers
        ) as response:
            assert response.status == 304
            assert granted_headers(response.headers) == {"access-control-allow-origin": "*"}


# The page of the protocol


def test_the_documentation_has_the_numbers() -> None:
    protocol = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    security = (ROOT / "docs" / "security.md").read_text("utf-8")
    timeout = ConnectionSettings().hello_timeout
    assert f"The client sends the first frame, within {timeout:g} seconds" in protocol
    assert f"no hello within `connections.hello_timeout`, {timeout:g} seconds" in protocol
    assert f"| `connections.hello_timeout` | {timeout:g} s |" in security
    for text in (
        f"`token` lasts `expires_in` seconds, {TOKEN_SECONDS}",
        f"for {STATEMENT_SECONDS // 86_400} days",
        f"at most {MAX_IDENTITY_SECONDS // 3600} hours ahead",
        f"{expiry.GRACE_SECONDS:g} seconds after that, the server closes it with 4401",
        f"the request has more than {MAX_REQUEST_BYTES:,} bytes",
    ):
        assert text in protocol, text
    assert CLOCK_TOLERANCE_SECONDS == 60
    assert f"| {TOKEN_SECONDS} s, {expiry.GRACE_SECONDS:g} s |" in security
