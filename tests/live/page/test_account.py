"""Keys, and what is kept about a person: signing in and out, export, erasure, drafts."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, expect
from tests.live.page.chat_page import ChatPage, open_page, open_tabs
from tests.live.page.conftest import make_title
from tests.live.page.test_accessibility import AXE, FIND_VIOLATIONS
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.config.settings import AuthKey, Right, Secret
from palaver.testing import ScriptedEngine

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

OWN: tuple[Right, ...] = ("talk", "read", "export", "erase")
ADA, BOB = "the secret key of ada", "the secret key of bob"


@asynccontextmanager
async def server_with_keys() -> AsyncIterator[LiveServer]:
    keys = {
        "ada": AuthKey(secret=Secret("env:KEY_ADA"), person="ada", rights=OWN),
        "bob": AuthKey(secret=Secret("env:KEY_BOB"), person="bob", rights=OWN),
        "careless": AuthKey(secret=Secret("env:KEY_CARELESS"), rights=("talk",)),
    }
    async with open_live_server(keys=keys, engine=ScriptedEngine(make_title)) as live_server:
        yield live_server


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_ADA", ADA)
    monkeypatch.setenv("KEY_BOB", BOB)
    monkeypatch.setenv("KEY_CARELESS", "the secret key of a careless one")


async def sign_in(chat: ChatPage, key: str, *, remember: bool = False) -> None:
    dialog = chat.page.get_by_role("dialog", name="key")
    await dialog.get_by_label("Key", exact=True).fill(key)
    if remember:
        await dialog.get_by_role("checkbox", name="Stay signed in on this device").check()
    await chat.page.keyboard.press("Enter")
    forget_refusals(chat)


async def enter(chat: ChatPage, key: str, *, remember: bool = False) -> None:
    """Sign in with a key that the server accepts."""
    await sign_in(chat, key, remember=remember)
    await expect(chat.page.get_by_role("dialog")).to_have_count(0)


async def open_settings(chat: ChatPage) -> None:
    await chat.page.get_by_role("button", name="Settings").click()


def forget_refusals(chat: ChatPage) -> None:
    chat.errors = [error for error in chat.errors if not ("401" in error or "403" in error)]


async def expect_key_dialog(chat: ChatPage, title: str) -> None:
    await expect(chat.page.get_by_role("dialog", name=title)).to_be_visible()
    await expect(chat.page.get_by_label("Key", exact=True)).to_be_focused()


# Signing in and out


async def test_signing_out_shows_nothing_of_the_person_before(browser: Browser) -> None:
    async with server_with_keys() as live_server, open_page(browser, live_server.address) as chat:
        await chat.page.goto(chat.address)
        await expect_key_dialog(chat, "This server asks for a key")
        await enter(chat, ADA)
        await chat.say("a secret of ada")
        await expect(chat.page.locator(".conversations a")).to_have_text("a secret of ada")
        await chat.page.get_by_label("Your message").fill("a draft of ada")
        await open_settings(chat)
        settings = chat.page.get_by_role("dialog", name="Settings")
        await expect(settings).to_contain_text("Signed in with the key ada")
        await settings.get_by_role("button", name="Sign out").click()
        await expect_key_dialog(chat, "This server asks for a key")
        await expect(chat.page.locator("body")).not_to_contain_text("ada")
        assert "ada" not in await chat.page.evaluate(EVERYTHING_STORED)
        await enter(chat, BOB)
        await expect(chat.page.get_by_label("Your message")).to_have_value("")
        await expect(chat.page.locator(".sidebar")).to_contain_text(
            "Your conversations appear here"
        )
        await chat.say("a secret of bob")
        await open_settings(chat)
        await expect(settings).to_contain_text("Signed in with the key bob")
        forget_refusals(chat)


EVERYTHING_STORED = """
JSON.stringify([{ ...localStorage }, { ...sessionStorage }])
"""


async def test_a_key_is_kept_for_its_tab_or_on_request_for_the_device(browser: Browser) -> None:
    async with (
        server_with_keys() as live_server,
        open_tabs(browser, live_server.address, 3) as (one, two, three),
    ):
        await one.page.goto(one.address)
        await enter(one, ADA)
        await one.say("hello")
        await one.page.reload()
        await expect(one.page.locator(".message")).to_have_text("hello")
        await two.page.goto(two.address)
        await expect_key_dialog(two, "This server asks for a key")
        await enter(two, ADA, remember=True)
        await expect(two.page.locator(".conversations a")).to_have_text("hello")
        await three.page.goto(three.address)
        await expect(three.page.locator(".conversations a")).to_have_text("hello")
        await open_settings(three)
        await three.page.get_by_role("button", name="Sign out").click()
        for chat in (two, three):
            await expect_key_dialog(chat, "This server asks for a key")
            await expect(chat.page.locator(".conversations a")).to_have_count(0)
        assert ADA not in await three.page.evaluate(EVERYTHING_STORED)
        for chat in (one, two, three):
            forget_refusals(chat)


async def test_a_wrong_key_is_not_kept_and_an_expired_one_is_named(browser: Browser) -> None:
    async with server_with_keys() as live_server, open_page(browser, live_server.address) as chat:
        await chat.page.goto(chat.address)
        await sign_in(chat, "a wrong key", remember=True)
        await expect_key_dialog(chat, "That key is not known here")
        await expect(chat.page.get_by_label("Key", exact=True)).to_have_attribute(
            "aria-invalid", "true"
        )
        assert "a wrong key" not in await chat.page.evaluate("JSON.stringify({...localStorage})")
        await enter(chat, ADA, remember=True)
        await chat.say("hello")
        forget_refusals(chat)
    async with server_with_keys() as live_server, open_page(browser, live_server.address) as chat:
        await chat.page.goto(chat.address)
        await enter(chat, ADA)
        await chat.say("hello")
        await chat.page.evaluate("""
          sessionStorage.setItem("palaver.token", "revoked meanwhile");
          sessionStorage.setItem("palaver.token.accepted", "revoked meanwhile");
        """)
        await chat.page.reload()
        await expect_key_dialog(chat, "The key is not valid any more")
        forget_refusals(chat)


async def test_a_key_without_a_right_is_told_which_one(browser: Browser) -> None:
    async with server_with_keys() as live_server, open_page(browser, live_server.address) as chat:
        await chat.page.goto(chat.address)
        await sign_in(chat, "the secret key of a careless one")
        await expect(chat.page.locator("#connection")).to_contain_text("lacks the right 'read'")
        await open_settings(chat)
        await chat.page.get_by_role("button", name="Sign out").click()
        await expect_key_dialog(chat, "This server asks for a key")
        forget_refusals(chat)


async def test_too_many_wrong_keys_are_explained(browser: Browser) -> None:
    keys = {"ada": AuthKey(secret=Secret("env:KEY_ADA"), person="ada", rights=OWN)}
    async with (
        open_live_server(keys=keys, auth={"failures_per_minute": 3}) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.page.goto(chat.address)
        await sign_in(chat, "a wrong key")
        await expect(chat.page.locator("#connection")).to_contain_text("too many wrong keys")
        await open_settings(chat)
        await chat.page.get_by_role("button", name="Sign out").click()
        await expect_key_dialog(chat, "This server asks for a key")
        chat.errors = [error for error in chat.errors if "429" not in error]
        forget_refusals(chat)


# What is kept


async def open_data(chat: ChatPage) -> None:
    await open_settings(chat)
    await chat.page.get_by_role("button", name="What is kept about me").click()
    await expect(chat.page.get_by_role("dialog", name="What is kept about me")).to_be_visible()


async def test_a_person_sees_and_downloads_what_is_kept(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("one", "two")
        await chat.page.get_by_role("button", name="New conversation").click()
        await chat.say("three")
        await expect(chat.page.locator(".conversations a")).to_have_text(["three", "one"])
        await chat.page.get_by_role("button", name="Good reply").click()
        await expect(chat.page.locator("#announcement")).to_have_text(
            "Thank you for your feedback."
        )
        await open_data(chat)
        numbers = chat.page.locator(".numbers div")
        await expect(numbers).to_have_text(
            [
                *("Conversations2", "Messages3", "Replies3", "Titles2"),
                *("Ratings of replies1", "Remembered facts0", "Files0"),
            ]
        )
        async with chat.page.expect_download() as downloading:
            await chat.page.get_by_role("button", name="Download everything").click()
        download = await downloading.value
        assert download.suggested_filename == "palaver-export.json"
        exported = json.loads((await download.path()).read_text())
        texts = [each["text"] for part in exported["conversations"].values() for each in part]
        assert sorted(text.strip() for text in texts if text == text.strip()) == [
            "one", "three", "two",
        ]  # fmt: skip


UPLOAD = """
async (name) => (await fetch(`/v1/files?name=${encodeURIComponent(name)}`, {
  method: "POST", body: "some text"
})).status
"""


async def test_a_persons_files_are_listed_and_deleted(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        for name in ("notes.txt", "plan.txt"):
            assert await chat.page.evaluate(UPLOAD, name) == 201
        await open_data(chat)
        count = chat.page.locator(".numbers div").last
        await expect(count).to_have_text("Files2")
        await chat.page.get_by_text("Show the files").click()
        files = chat.page.locator(".kept-files li")
        await expect(files).to_have_text(["plan.txt9 byteDelete", "notes.txt9 byteDelete"])
        await chat.page.get_by_role("button", name="Delete the file plan.txt").click()
        await expect(files).to_have_text(["notes.txt9 byteDelete"])
        await expect(count).to_have_text("Files1")
        await chat.page.get_by_role("button", name="Close").click()
        await open_data(chat)
        await expect(count).to_have_text("Files1")


async def test_everything_is_erased_in_all_tabs_with_a_receipt(
    live_server: LiveServer, browser: Browser
) -> None:
    async with (
        open_tabs(browser, live_server.address, 3) as (one, two, three),
        open_page(browser, live_server.address) as other,
    ):
        await other.open()
        await other.say("another person's")
        await one.open()
        await one.say("my secret")
        await two.open(one.path)
        await expect(two.page.locator(".message")).to_have_text("my secret")
        await three.open()
        await three.say("another secret")
        await one.page.get_by_label("Your message").fill("a secret draft")
        await open_data(one)
        dialog = one.page.get_by_role("dialog")
        await dialog.get_by_role("button", name="Erase everything…").click()
        field = dialog.get_by_label("To confirm, write “erase”")
        await expect(field).to_be_focused()
        erase = dialog.get_by_role("button", name="Erase everything", exact=True)
        for word in ("", "no", "erase it"):
            await field.fill(word)
            await erase.click(force=True)
            await expect(erase).to_have_attribute("aria-disabled", "true")
        await field.fill("Erase ")
        await one.page.keyboard.press("Enter")
        receipt = one.page.get_by_role("dialog", name="Everything is erased")
        await expect(receipt).to_contain_text("Receipt of")
        await expect(receipt.locator(".numbers div").nth(0)).to_have_text("Conversations2")
        await expect(receipt.locator(".numbers div").nth(1)).to_have_text("Messages2")
        await one.page.keyboard.press("Escape")
        for chat in (one, two, three):
            await expect(chat.page.locator("#empty-state")).to_be_visible()
            await expect(chat.page.locator(".turn")).to_have_count(0)
            await expect(chat.page.locator(".conversations a")).to_have_count(0)
            await expect(chat.page.locator("body")).not_to_contain_text("secret")
            assert "secret" not in await chat.page.evaluate(EVERYTHING_STORED)
            await chat.page.reload()
            await expect(chat.page.locator("#empty-state")).to_be_visible()
            await expect(chat.page.get_by_label("Your message")).to_have_value("")
        await expect(other.page.locator(".message")).to_have_text("another person's")
        for chat in (one, two, three):
            chat.forget_lost_connections()


async def test_a_refusal_of_the_server_is_shown(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        refusal = {"error": {"code": "forbidden", "message": "'local' is a shared identity."}}
        await chat.page.route(
            "**/v1/export/summary", lambda route: route.fulfill(status=403, json=refusal)
        )
        await open_data(chat)
        dialog = chat.page.get_by_role("dialog")
        await expect(dialog.get_by_role("alert")).to_have_text("'local' is a shared identity.")
        await expect(dialog.get_by_role("button", name="Download")).to_have_count(0)
        forget_refusals(chat)


@pytest.mark.skipif(not AXE.exists(), reason="the npm packages of the page are not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
async def test_the_dialogs_are_for_everybody(browser: Browser, scheme: str, width: int) -> None:
    viewport = {"width": width, "height": 640}
    async with (
        server_with_keys() as live_server,
        open_page(browser, live_server.address, color_scheme=scheme, viewport=viewport) as chat,
    ):
        await chat.page.add_init_script(path=AXE)
        await chat.page.goto(chat.address)
        await expect_key_dialog(chat, "This server asks for a key")
        assert await chat.page.evaluate(FIND_VIOLATIONS) == []
        await enter(chat, ADA)
        await chat.say("hello")
        if width < 500:
            await chat.page.get_by_role("button", name="Show conversations").click()
        await open_data(chat)
        await expect(chat.page.locator(".numbers")).to_be_visible()
        assert await chat.page.evaluate(FIND_VIOLATIONS) == []
        await chat.page.get_by_role("button", name="Erase everything…").click()
        assert await chat.page.evaluate(FIND_VIOLATIONS) == []
        await expect(chat.page.locator("#erase-word")).to_be_focused()
        await chat.page.keyboard.type("erase")
        await chat.page.keyboard.press("Enter")
        await chat.page.get_by_role("dialog", name="Everything is erased").wait_for()
        assert await chat.page.evaluate(FIND_VIOLATIONS) == []
        assert await chat.page.evaluate(WIDTH) == 0
        forget_refusals(chat)


WIDTH = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize(
    ("locale", "settings", "data", "word"),
    [
        ("de-DE", "Einstellungen", "Was über mich gespeichert ist", "löschen"),
        ("fr-FR", "Réglages", "Ce qui est conservé sur moi", "effacer"),
        ("es-ES", "Ajustes", "Lo que se guarda sobre mí", "borrar"),
        ("zh-CN", "设置", "保存了哪些关于我的数据", "删除"),
    ],
)
async def test_a_person_erases_in_their_own_language(
    live_server: LiveServer, browser: Browser, locale: str, settings: str, data: str, word: str
) -> None:
    async with open_page(browser, live_server.address, locale=locale) as chat:
        await chat.page.goto(chat.address)
        await chat.page.locator("#text").fill("hello")
        await chat.page.keyboard.press("Enter")
        await chat.page.locator(".reply").wait_for()
        await chat.page.get_by_role("button", name=settings).click()
        await chat.page.get_by_role("button", name=data).click()
        await chat.page.locator(".numbers").wait_for()
        await chat.page.locator(".danger").click()
        await expect(chat.page.locator("#erase-word")).to_be_focused()
        await chat.page.keyboard.type(word)
        await chat.page.keyboard.press("Enter")
        await chat.page.locator(".receipt").wait_for()
        await expect(chat.page.locator(".numbers dd").first).to_have_text("1")


# Drafts


async def test_each_conversation_keeps_what_was_written_and_not_sent(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        field = chat.page.get_by_label("Your message")
        await chat.open()
        await chat.say("first")
        first = chat.path
        await field.fill("a draft in the first\nwith two lines")
        await chat.page.get_by_role("button", name="New conversation").click()
        await expect(field).to_have_value("")
        await field.fill("a draft in the second")
        await chat.page.get_by_role("link", name="first").click()
        await expect(field).to_have_value("a draft in the first\nwith two lines")
        await chat.page.go_back()
        await expect(field).to_have_value("a draft in the second")
        await chat.page.reload()
        await expect(field).to_have_value("a draft in the second")
        await chat.page.keyboard.press("Enter")
        await expect(chat.page.locator(".message")).to_have_text("a draft in the second")
        await chat.page.reload()
        await expect(chat.page.locator(".message")).to_have_text("a draft in the second")
        await expect(field).to_have_value("")
        await chat.open(first)
        await expect(field).to_have_value("a draft in the first\nwith two lines")
        await field.fill("  ")
        await chat.page.reload()
        await expect(chat.page.locator(".message")).to_have_text("first")
        await expect(field).to_have_value("")
        assert await chat.page.evaluate("localStorage.getItem('palaver.drafts')") == "[]"
