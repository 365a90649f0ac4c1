"""The page without a network: it opens, keeps what is written, and sends it later. What its service
worker keeps, and what it never does."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, expect
from tests.live.page.chat_page import ChatPage, open_page
from tests.live.page.test_accessibility import AXE, FIND_VIOLATIONS
from tests.server.web.live_server import (
    TIMEOUT_SECONDS,
    LiveServer,
    eventually,
    open_live_server,
)

from palaver.config.settings import AuthKey, Secret
from palaver.web import pages

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

OFFLINE = re.compile("You are offline")
CONTROLLED = """async () => {
  const { active } = await navigator.serviceWorker.ready;
  if (active.state === "activated") return true;
  return new Promise((resolve) => {
    active.onstatechange = () => active.state === "activated" && resolve(true);
  });
}"""
KEPT = """async () => {
  const kept = [];
  for (const name of await caches.keys()) {
    const cache = await caches.open(name);
    for (const { url } of await cache.keys()) kept.push(new URL(url).pathname);
  }
  return kept;
}"""
IS_LISTED = """
async (title) => (await (await fetch("/v1/conversations")).text()).includes(title)
"""


UPDATED = """async () => {
  const registration = await navigator.serviceWorker.ready;
  const find = () => registration.installing ?? registration.waiting;
  while (!find()) await registration.update();
  const worker = find();
  if (worker.state === "installed") return;
  await new Promise((resolve) => {
    worker.onstatechange = () => worker.state === "installed" && resolve();
  });
}"""
"""Waits for the update that the browser makes by itself with a navigation, sooner or later. One
that had begun before the deployment finds nothing."""


@asynccontextmanager
async def worker_is_replaced(chat: ChatPage) -> AsyncIterator[None]:
    """Wait at the end until the browser has replaced the worker that is active now. It keeps a page
    as a client of its worker for a while after the page was left; a page that opens in that time
    gets the old worker, and the new one goes on waiting."""
    replaced = asyncio.Event()

    def note(report: dict[str, Any]) -> None:  # Any: a message of the browser's protocol
        if any(version["status"] == "redundant" for version in report["versions"]):
            replaced.set()

    session = await chat.page.context.new_cdp_session(chat.page)
    session.on("ServiceWorker.workerVersionUpdated", note)
    await session.send("ServiceWorker.enable")
    yield
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await replaced.wait()
    await session.detach()


async def has_caches(chat: ChatPage, *names: str) -> bool:
    return bool(await chat.page.evaluate("caches.keys()") == list(names))


@asynccontextmanager
async def installed_page(
    browser: Browser,
    address: str,
    **options: Any,  # Any: those of browser.new_context
) -> AsyncIterator[ChatPage]:
    """Open a page whose service worker is ready, and is in the path of every request."""
    async with open_page(browser, address, service_workers="allow", **options) as chat:
        await chat.open()
        await chat.page.evaluate(CONTROLLED)
        await chat.page.reload()
        await chat.page.wait_for_function("() => navigator.serviceWorker.controller !== null")
        yield chat
        chat.forget_lost_connections()


@asynccontextmanager
async def without_network(chat: ChatPage) -> AsyncIterator[None]:
    await chat.page.context.set_offline(True)
    yield
    await chat.page.context.set_offline(False)


async def test_the_page_opens_offline_and_sends_later(
    live_server: LiveServer, browser: Browser
) -> None:
    async with installed_page(browser, live_server.address) as chat:
        await chat.say("hello")
        path = chat.path
        notice = chat.page.locator("#connection")
        await expect(notice).to_be_hidden()
        async with without_network(chat):
            await chat.page.reload()
            await expect(notice).to_have_text(OFFLINE)
            await chat.send("are you there?")
            await expect(chat.page.locator("#unsent")).to_contain_text("Waiting for the connection")
            await chat.page.get_by_label("Your message").fill("a draft")
            await chat.page.wait_for_function(
                "() => localStorage['palaver.drafts']?.includes('a draft')"
            )
            await chat.page.reload()
            await expect(chat.page.locator("#unsent .message")).to_have_text("are you there?")
            await expect(chat.page.get_by_label("Your message")).to_have_value("a draft")
            assert chat.path == path
        await expect(chat.page.locator(".reply")).to_have_text(["hello", "are you there?"])
        await expect(notice).to_be_hidden()
        await expect(chat.page.locator("#unsent")).to_have_count(0)
        await expect(chat.page.get_by_label("Your message")).to_have_value("a draft")


async def test_a_lost_network_is_noticed_at_once_and_a_local_server_is_no_matter_of_it(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.page.clock.install()
        await chat.open()
        await chat.say("hello")
        notice = chat.page.locator("#connection")
        # A browser without a network still reaches a server on its own machine.
        await chat.page.evaluate(
            """() => {
              Object.defineProperty(navigator, "onLine", { get: () => false, configurable: true });
              window.dispatchEvent(new Event("offline"));
            }"""
        )
        await chat.page.clock.fast_forward(11_000)
        await chat.say("still here?")
        await expect(notice).to_be_hidden()
        async with without_network(chat):
            await chat.page.evaluate("() => window.dispatchEvent(new Event('offline'))")
            await chat.page.clock.fast_forward(11_000)
            await expect(notice).to_have_text(OFFLINE)
        chat.forget_lost_connections()


@pytest.mark.skipif(not AXE.exists(), reason="the npm packages of the page are not installed")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 380)])
async def test_axe_finds_nothing_on_the_page_without_a_network(
    live_server: LiveServer, browser: Browser, scheme: str, width: int
) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with installed_page(browser, live_server.address, **options) as chat:
        await chat.page.add_init_script(path=AXE)
        async with without_network(chat):
            await chat.page.reload()
            await expect(chat.page.locator("#connection")).to_have_text(OFFLINE)
            await chat.send("are you there?")
            await expect(chat.page.locator("#unsent")).to_be_visible()
            assert await chat.page.evaluate(FIND_VIOLATIONS) == []


async def test_messages_of_other_conversations_are_sent_too(
    live_server: LiveServer, browser: Browser
) -> None:
    async with installed_page(browser, live_server.address) as chat:
        async with without_network(chat):
            for thread in ("one", "two"):
                await chat.page.goto(f"{live_server.address}/c/{thread}")
                await chat.send(f"message of {thread}")
                await expect(chat.page.locator("#unsent")).to_be_visible()
            await chat.page.goto(f"{live_server.address}/c/three")
            await expect(chat.page.locator("#connection")).to_have_text(OFFLINE)
        for thread in ("one", "two"):
            link = chat.page.get_by_role("link", name=f"message of {thread}")
            await chat.page.wait_for_function(
                f"() => localStorage['palaver.unsent.{thread}'] === undefined"
            )
            await chat.page.wait_for_function(IS_LISTED, arg=f"message of {thread}")
            await chat.page.reload()
            await link.click()
            await expect(chat.page.locator(".reply")).to_have_text(f"message of {thread}")


async def test_only_files_of_the_page_are_kept(live_server: LiveServer, browser: Browser) -> None:
    async with installed_page(browser, live_server.address) as chat:
        await chat.send("/scripted go")
        live_server.scripted.emit("```python\nx = 1\n```\n\n$x^2$")
        await expect(chat.page.locator("math")).to_have_count(1)
        await expect(chat.page.locator(".hljs-number").first).to_be_visible()
        await chat.page.evaluate("fetch('/v1/conversations'); fetch('/static/palaver-client.js')")
        await chat.page.goto(f"{live_server.address}/s/unknown")
        await chat.open()
        kept = await chat.page.evaluate(KEPT)
        chat.errors.clear()  # of the share that does not exist
    assert "/" in kept
    assert all(path == "/" or path.startswith("/static/") for path in kept)
    names = {path.removeprefix("/static/") for path in kept} - {"/"}
    assert names <= set(pages.NAMES)
    assert not [name for name in names if name.startswith(("share", "widget", "palaver-client"))]
    assert {name.partition("-")[0] for name in names} >= {"page", "katex", "highlighter", "de"}


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, pages.File]:
    """The files of the servers of a test, to be changed as a deployment does."""
    loaded = pages.load_files()
    monkeypatch.setattr(pages, "load_files", lambda: loaded)
    return loaded


def deploy(files: dict[str, pages.File], name: str, old: bytes, new: bytes) -> None:
    body = (pages.FOLDER / name).read_bytes()
    assert body.count(old) >= 1
    files[name] = pages._file(name, body.replace(old, new))


async def test_a_new_version_is_shown_at_once_and_the_old_one_is_deleted(
    files: dict[str, pages.File], browser: Browser
) -> None:
    async with (
        open_live_server() as live_server,
        installed_page(browser, live_server.address) as chat,
    ):
        (old,) = await chat.page.evaluate("caches.keys()")
        deploy(files, "index.html", b'<div id="page"', b'<div id="page" class="next"')
        deploy(files, "service-worker.js", old.removeprefix("palaver-page-").encode(), b"next")
        await chat.page.reload()
        await expect(chat.page.locator("#page.next #empty-state")).to_be_visible()
        await chat.page.evaluate(UPDATED)
        async with worker_is_replaced(chat):
            await chat.page.goto("about:blank")  # the last page of the old version is left
        await chat.open()
        await eventually(lambda: has_caches(chat, "palaver-page-next"))
        async with without_network(chat):
            await chat.page.reload()
            await expect(chat.page.locator("#connection")).to_have_text(OFFLINE)
            await expect(chat.page.locator("#page.next")).to_have_count(1)


async def test_a_worker_of_another_build_than_the_page_is_not_installed(
    files: dict[str, pages.File], browser: Browser
) -> None:
    """Else, while replicas change one after the other, it would keep a page without its scripts."""
    async with (
        open_live_server() as live_server,
        installed_page(browser, live_server.address) as chat,
    ):
        before = await chat.page.evaluate("caches.keys()")
        script = next(name for name in files if name.startswith("page-")).encode()
        deploy(files, "service-worker.js", script, b"page-another0.js")
        state = await chat.page.evaluate(
            """async () => {
              const registration = await navigator.serviceWorker.ready;
              const update = registration.update().then(() => registration.installing);
              const worker = (await update) ?? registration.waiting;
              if (!worker || worker.state === "redundant") return "redundant";
              return new Promise((resolve) => {
                worker.onstatechange = () => resolve(worker.state);
              });
            }"""
        )
        assert state == "redundant"
        assert await chat.page.evaluate("caches.keys()") == before


async def test_a_proxy_without_a_server_is_like_no_network(
    live_server: LiveServer, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with installed_page(browser, live_server.address) as chat:
        monkeypatch.setattr(
            pages.PageHandler, "_send", lambda *_: web.Response(status=502, text="Bad Gateway")
        )
        await chat.page.reload()
        await expect(chat.page.locator("#empty-state")).to_be_visible()
        monkeypatch.undo()
        monkeypatch.setattr(
            pages.PageHandler, "_send", lambda *_: web.Response(status=410, text="It is gone")
        )
        await chat.page.reload()
        await expect(chat.page.get_by_text("It is gone")).to_be_visible()
        chat.tolerate("Failed to load resource")  # the pages, and the icon of the last one


async def test_signing_out_removes_the_worker_and_what_it_keeps(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_OF_THE_PAGE", "a key of the page")
    keys = {"page": AuthKey(secret=Secret("env:KEY_OF_THE_PAGE"))}
    async with (
        open_live_server(keys=keys) as live_server,
        open_page(browser, live_server.address, service_workers="allow") as chat,
    ):
        await chat.page.goto(live_server.address)
        await chat.page.get_by_label("Key", exact=True).fill("a key of the page")
        await chat.page.get_by_role("button", name="Continue").click()
        await chat.page.evaluate(CONTROLLED)
        assert await chat.page.evaluate("caches.keys()")
        await chat.page.get_by_role("button", name="Settings").click()
        await chat.page.get_by_role("button", name="Sign out").click()
        await eventually(lambda: has_caches(chat))
        registered = "async () => (await navigator.serviceWorker.getRegistrations()).length"
        assert await chat.page.evaluate(registered) == 0
        chat.errors.clear()  # of the requests without a key


async def test_the_page_can_be_installed(live_server: LiveServer, browser: Browser) -> None:
    async with installed_page(browser, live_server.address) as chat:
        session = await chat.page.context.new_cdp_session(chat.page)
        found = await session.send("Page.getInstallabilityErrors")
        errors = {each["errorId"] for each in found["installabilityErrors"]}
        assert errors <= {"in-incognito"}  # as every page of a test is
        manifest = await session.send("Page.getAppManifest")
        assert manifest["errors"] == []
        icons = json.loads(manifest["data"])["icons"]
        assert {icon["purpose"] for icon in icons} == {"any", "maskable"}
        for icon in icons:
            size = await chat.page.evaluate(
                """(src) => new Promise((resolve, reject) => {
                  const image = new Image();
                  image.onload = () => resolve(`${image.naturalWidth}x${image.naturalHeight}`);
                  image.onerror = reject;
                  image.src = src;
                })""",
                icon["src"],
            )
            assert icon["sizes"] in (size, "any")


async def test_the_policy_of_the_worker_gives_nothing_else_away(
    live_server: LiveServer, browser: Browser
) -> None:
    async with installed_page(browser, live_server.address) as chat:
        refusals = await chat.page.evaluate(
            """async () => {
              const rules = { createScriptURL: (url) => url, createHTML: (html) => html };
              const attempts = [
                () => navigator.serviceWorker.register("/static/palaver-client.js"),
                () => trustedTypes.createPolicy("palaver-worker", rules),
                () => trustedTypes.createPolicy("another", rules),
                () => trustedTypes.createPolicy("default", rules),
                () => new Worker("/static/palaver-client.js"),
              ];
              const refused = [];
              for (const attempt of attempts) {
                try { await attempt(); } catch (error) { refused.push(error.name); }
              }
              return refused;
            }"""
        )
        assert refusals == ["TypeError"] * 5
        chat.errors.clear()  # the browser reports each of them
