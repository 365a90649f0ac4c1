"""Each browser is a person of its own; programs without a person share an identity."""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.server.web.live_server import LiveServer, open_live_server
from tests.server.web.test_api import MESSAGES, reading

from palaver.browsers import BrowserCookies, load_cookie_secrets
from palaver.config.settings import AuthKey, AuthSettings, Right, Secret, ServerSettings, Settings
from palaver.errors import ConfigurationError
from palaver.testing import MemoryLedger
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow

OWN_DATA: tuple[Right, ...] = ("talk", "read", "export", "erase")
OPEN = AuthKey(secret=Secret("env:KEY_OPEN"), rights=OWN_DATA)
KEYS = {
    "open": OPEN,
    "second": AuthKey(secret=Secret("env:KEY_SECOND"), rights=OWN_DATA),
    "other": AuthKey(secret=Secret("env:KEY_OTHER"), tenant="other", rights=OWN_DATA),
    "trusted": AuthKey(secret=Secret("env:KEY_TRUSTED"), rights=(*OWN_DATA, "impersonate")),
    "ada": AuthKey(secret=Secret("env:KEY_ADA"), person="ada", rights=OWN_DATA),
}
WAIT = f"{MESSAGES}?wait=true"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(f"KEY_{name.upper()}", token(name))


def token(name: str) -> str:
    return f"the secret key of {name}"


def header(name: str) -> dict[str, str]:
    """Return the header of a key; none for a server without keys."""
    return {"Authorization": f"Bearer {token(name)}"} if name else {}


@pytest.fixture(params=["open", ""], ids=["an open key", "no keys"])
def key(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@contextlib.asynccontextmanager
async def two_browsers(key: str) -> AsyncIterator[tuple[LiveServer, LiveServer]]:
    async with opened(key) as live_server:
        async with live_server.browser() as one, live_server.browser() as two:
            yield one, two


@contextlib.asynccontextmanager
async def opened(key: str, **about: Any) -> AsyncIterator[LiveServer]:  # fields of ServerSettings
    keys = KEYS if key else {}
    async with open_live_server(keys=keys, channels=(OpenAIChannel(),), **about) as live_server:
        yield live_server


async def person_of(browser: LiveServer, key: str, thread: str = "who") -> str:
    """Return the person that a browser is with a key, over the websocket."""
    async with browser.open_websocket() as client:
        about = {"token": token(key)} if key else {}
        person: str = (await client.hello(thread, person=None, **about))["person"]
        return person


async def test_each_browser_is_a_person_of_its_own(key: str) -> None:
    async with two_browsers(key) as (one, two):
        first, second = await person_of(one, key), await person_of(two, key)
        assert first != second
        assert {first, second}.isdisjoint({"open", "local"})
        assert await person_of(one, key) == first
        await one.visit()
        assert await person_of(one, key) == first


async def test_a_caller_learns_who_it_is(key: str) -> None:
    async with opened(key) as live_server:
        status, me = await live_server.get("/v1/me", headers=header(key))
        assert (status, me["is_shared"], me["key"]) == (200, True, key)
        assert me["person"] == (key or "local")
        async with live_server.browser() as browser:
            _, me = await browser.get("/v1/me", headers=header(key))
            assert me["person"] == await person_of(browser, key)
            assert (me["is_shared"], me["key"], "talk" in me["rights"]) == (False, key, True)


async def test_one_browser_can_neither_read_nor_erase_another(key: str) -> None:
    headers = header(key)
    async with two_browsers(key) as (one, two):
        assert (await one.post(WAIT, {"text": "a secret"}, headers=headers))[0] == 200
        victim = await person_of(one, key, "t")
        for query in ("", f"?person={victim}"):
            for path in ("/v1/conversations/t", "/v1/conversations/t/events"):
                status, answer = await two.get(path + query, headers=headers)
                assert (status, "a secret" in str(answer)) == (403, False)
            assert (await two.post(f"{MESSAGES}{query}", {"text": "x"}, headers=headers))[0] == 403
            assert (await two.post(f"/v1/conversations/t/stop{query}", headers=headers))[0] == 403
        body = {"text": "x", "person": victim}
        assert (await two.post(MESSAGES, body, headers=headers))[0] == 403
        async with two.open_websocket() as client:
            hello = {"type": "hello", "thread": "t", "person": victim, "token": token(key)}
            await client.send(hello)
            assert await client.close_code() == 4403
        for person in (victim, "open", "local", "ada"):
            for method, path in ((two.get, "/v1/export"), (two.post, "/v1/erase")):
                status, _ = await method(f"{path}?person={person}", headers=headers)
                assert status == 403, (path, person)
        _, exported = await two.get("/v1/export", headers=headers)
        assert (exported["conversations"], "a secret" in str(exported)) == ({}, False)
        _, receipt = await two.post("/v1/erase", headers=headers)
        assert receipt["messages"] == 0
        _, exported = await one.get("/v1/export", headers=headers)
        assert "a secret" in str(exported)
        _, receipt = await one.post("/v1/erase", headers=headers)
        assert (receipt["person"], receipt["messages"]) == (victim, 1)


async def test_a_shared_identity_has_no_export_and_no_erasure(key: str) -> None:
    headers = header(key)
    async with opened(key) as live_server:
        assert (await live_server.post(WAIT, {"text": "ours"}, headers=headers))[0] == 200
        shared = await person_of(live_server, key, "t")
        assert shared == (key or "local")
        askers = [(headers, ""), (headers, f"?person={shared}")]
        if key:
            askers.append((header("trusted"), f"?person={shared}"))
        for asking, query in askers:
            for method, path in (
                (live_server.get, "/v1/export"),
                (live_server.post, "/v1/erase"),
            ):
                status, answer = await method(path + query, headers=asking)
                assert (status, answer["error"]["code"]) == (403, "forbidden")
                assert "shared identity" in answer["error"]["message"]
        _, mine = await live_server.get("/v1/conversations/t", headers=headers)
        assert len(mine["snapshot"]["history"]) == 2


async def test_a_browser_is_another_person_for_each_key_and_tenant() -> None:
    async with opened("open") as live_server, live_server.browser() as browser:
        persons = [await person_of(browser, name, name) for name in ("open", "second", "other")]
        assert len(set(persons)) == 3
        assert await person_of(browser, "ada", "ada's") == "ada"
        await browser.post(WAIT, {"text": "a secret"}, headers=header("open"))
        for name in ("second", "other"):
            status, answer = await browser.get("/v1/conversations/t", headers=header(name))
            assert (status, "a secret" in str(answer)) in ((403, False), (200, False))
            _, exported = await browser.get("/v1/export", headers=header(name))
            assert exported["conversations"] == {}


async def test_every_interface_knows_the_browser(key: str) -> None:
    headers = header(key)
    async with opened(key) as live_server, live_server.browser() as browser:
        person = await person_of(browser, key)
        await browser.post(WAIT, {"text": "over http"}, headers=headers)
        async with reading(browser, "/v1/conversations/t/events", headers=headers) as reader:
            assert (await reader.until("welcome"))["person"] == person
        body = {"model": "auto", "messages": [{"role": "user", "content": "over openai"}]}
        assert (await browser.post("/v1/chat/completions", body, headers=headers))[0] == 200
        _, exported = await browser.get("/v1/export", headers=headers)
        assert exported["person"] == person
        assert len(exported["conversations"]) == 2


async def test_two_browsers_with_the_same_words_have_two_openai_conversations(key: str) -> None:
    headers = header(key)
    first = [{"role": "user", "content": "hello"}]
    again = [*first, {"role": "assistant", "content": "hello "}, {"role": "user", "content": "x"}]
    async with two_browsers(key) as (one, two):
        for messages in (first, again):
            for browser in (one, two):
                body = {"model": "parrot", "messages": messages}
                status, answer = await browser.post("/v1/chat/completions", body, headers=headers)
                assert status == 200, answer


# The cookie


async def cookie_of(browser: LiveServer) -> tuple[str, str]:
    (cookie,) = list(browser.session.cookie_jar)
    return cookie.key, cookie.value


async def test_a_cookie_that_the_server_has_not_signed_is_ignored(key: str) -> None:
    async with opened(key) as live_server, live_server.browser() as browser:
        name, value = await cookie_of(browser)
        id, _, signature = value.partition(".")
        person = await person_of(browser, key)
        forged = [
            "",
            id,
            f"{id}.",
            f".{signature}",
            f"{'0' * 32}.{signature}",
            f"{id}.{signature[:-1]}{'0' if signature[-1] != '0' else '1'}",
            f"{id}.{signature}.{signature}",
            BrowserCookies([b"another secret of another server"]).sign(id),
        ]
        for cookie, expected in ((value, person), *((it, key or "local") for it in forged)):
            async with live_server.browser(visits=False) as forger:
                forger.session.cookie_jar.update_cookies({name: cookie})
                assert await person_of(forger, key) == expected, cookie
                status, _ = await forger.get("/v1/export", headers=header(key))
                assert status == (200 if cookie == value else 403)


async def test_a_cookie_that_is_not_text_is_ignored(live_server: LiveServer) -> None:
    async with live_server.browser() as browser:
        name, _ = await cookie_of(browser)
    for value in (b"\xff.\xff", "é.é".encode(), b";;=", b'"'):
        request = b"GET /v1/conversations/t HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        cookie = b"Cookie: %b=%b\r\n\r\n" % (name.encode(), value)
        host, port = live_server.address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request + cookie)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        assert re.match(rb"HTTP/1.1 (200|400) ", answer), answer


async def test_the_cookie_is_for_this_browser_alone(live_server: LiveServer) -> None:
    response = await live_server.visit()
    (cookie,) = response.cookies.values()
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert int(cookie["max-age"]) >= 365 * 86_400
    assert not cookie["secure"]
    assert "private" in response.headers["Cache-Control"]
    for scheme, secure in (("https", True), ("HTTPS , http", True), ("http,https", False)):
        response = await live_server.visit(headers={"X-Forwarded-Proto": scheme})
        (cookie,) = response.cookies.values()
        assert bool(cookie["secure"]) is secure, scheme
        assert cookie.key.startswith("__Host-") is secure
    response = await live_server.visit(headers={"If-None-Match": response.headers["ETag"]})
    assert (response.status, len(response.cookies)) == (304, 1)
    for path, cookies in (
        ("/static/palaver-client.js", 0),
        ("/static/index.html", 1),
        ("/c/anything", 1),
    ):
        async with live_server.session.get(live_server.url(path)) as response:
            assert len(response.cookies) == cookies


async def test_a_page_of_an_allowed_origin_of_the_same_site_gets_a_cookie() -> None:
    async with open_live_server(origins=("https://shop.example",)) as live_server:
        headers = {"Origin": "https://shop.example", "Sec-Fetch-Site": "same-site"}
        async with live_server.browser(visits=False) as browser:
            persons = set()
            for _ in range(2):
                async with browser.open_websocket(headers=headers) as client:
                    persons.add((await client.hello("t", person=None))["person"])
            assert len(persons) == 1
            assert persons.isdisjoint({"local"})
        # A browser keeps no cookie for a page of another site: all of its visitors share one.
        async with live_server.browser(visits=False) as browser:
            headers["Sec-Fetch-Site"] = "cross-site"
            async with browser.open_websocket(headers=headers) as client:
                assert (await client.hello("s", person=None))["person"] == "local"


async def test_a_foreign_page_cannot_use_the_cookie(key: str) -> None:
    headers = header(key)
    async with opened(key) as live_server, live_server.browser() as browser:
        await browser.post(WAIT, {"text": "mine"}, headers=headers)
        for foreign in (
            {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
            {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
            {"Origin": "https://evil.example"},
        ):
            status, _ = await browser.post("/v1/erase", headers=headers | foreign)
            assert status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with browser.open_websocket(headers=foreign):
                    pass
            assert refused.value.status == 403
        browser.session.headers.pop("Origin")
        for site in ("cross-site", "same-site"):
            foreign = {"Sec-Fetch-Site": site}
            assert (await browser.post("/v1/erase", headers=headers | foreign))[0] == 403
            with pytest.raises(aiohttp.WSServerHandshakeError):
                async with browser.open_websocket(headers=foreign):
                    pass
        _, exported = await browser.get("/v1/export", headers=headers)
        assert "mine" in str(exported)


async def test_another_host_of_the_domain_cannot_choose_the_person(key: str) -> None:
    https = {"X-Forwarded-Proto": "https"}
    async with opened(key) as live_server:
        (theirs,) = (await live_server.visit()).cookies.values()
        (mine,) = (await live_server.visit(headers=https)).cookies.values()
        persons: list[str] = []
        for cookies in (
            f"{mine.key}={mine.value}",
            f"{mine.key}={mine.value}; {theirs.key}={theirs.value}",
            f"{theirs.key}={theirs.value}; {mine.key}={mine.value}",
            f"{theirs.key}={theirs.value}",
        ):
            headers = {"Cookie": cookies, "Origin": live_server.address} | https
            async with live_server.open_websocket(headers=headers) as client:
                hello = {"person": None, "token": token(key)}
                persons.append((await client.hello(f"t{len(persons)}", **hello))["person"])
        assert persons[0] == persons[1] == persons[2] != persons[3]
        assert persons[3] == (key or "local")


# Its secret


async def test_replicas_with_one_secret_know_each_others_browsers(key: str) -> None:
    ledger = MemoryLedger()
    async with (
        opened(key, ledger=ledger, cookie_secrets=[b"one secret"]) as one,
        opened(key, ledger=ledger, cookie_secrets=[b"one secret"]) as two,
        opened(key, ledger=ledger, cookie_secrets=[b"another secret"]) as stranger,
        one.browser() as browser,
    ):
        person = await person_of(browser, key)
        browser.address = two.address
        browser.session.headers["Origin"] = two.address
        assert await person_of(browser, key) == person
        browser.address = stranger.address
        browser.session.headers["Origin"] = stranger.address
        assert await person_of(browser, key) == (key or "local")


async def test_a_new_secret_keeps_the_persons_and_renews_the_cookie() -> None:
    async with opened("", cookie_secrets=[b"old"]) as old, old.browser() as browser:
        person = await person_of(browser, "")
        async with opened("", cookie_secrets=[b"new", b"old"]) as both:
            browser.address = both.address
            browser.session.headers["Origin"] = both.address
            assert await person_of(browser, "") == person
            await browser.visit()
        async with opened("", cookie_secrets=[b"new"]) as new:
            browser.address = new.address
            browser.session.headers["Origin"] = new.address
            assert await person_of(browser, "") == person


def settings(data: Path, **auth: str) -> Settings:
    secrets = {name: Secret(reference) for name, reference in auth.items()}
    return Settings(server=ServerSettings(data=data), auth=AuthSettings(**secrets))


def test_the_server_makes_a_secret_and_keeps_it(tmp_path: Path) -> None:
    (secret,) = load_cookie_secrets(settings(tmp_path))
    assert len(secret) == 64
    assert load_cookie_secrets(settings(tmp_path)) == (secret,)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    assert load_cookie_secrets(settings(tmp_path)) == (secret,)
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("")
    with pytest.raises(ConfigurationError, match="is empty"):
        load_cookie_secrets(settings(tmp_path))


def test_processes_that_start_together_agree_on_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: load_cookie_secrets(settings(tmp_path)), range(32)))
    assert len(made) == 1
    assert len(os.listdir(tmp_path)) == 1


def test_the_settings_name_the_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEW", "a new secret of the replicas")
    monkeypatch.setenv("OLD", "an old secret of the replicas")
    chosen = settings(tmp_path, cookie_secret="env:NEW", previous_cookie_secret="env:OLD")
    assert load_cookie_secrets(chosen) == (
        b"a new secret of the replicas",
        b"an old secret of the replicas",
    )
    assert not os.listdir(tmp_path)
    (made, previous) = load_cookie_secrets(settings(tmp_path, previous_cookie_secret="env:OLD"))
    assert (len(made), previous) == (64, b"an old secret of the replicas")
