"""Many conversations in the page: addresses, tabs, the list."""

import json

import pytest
from playwright.async_api import Browser, expect
from tests.live.page.chat_page import ChatPage, open_page, open_tabs
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.config.settings import LedgerSettings
from palaver.testing import MemoryLedger

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.firefox
async def test_each_conversation_has_its_address(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        assert chat.path.startswith("/c/")
        first = chat.path
        await chat.send("in the first")
        await chat.wait_for_text("in the first")
        await chat.page.get_by_role("button", name="New conversation").click()
        await expect(chat.page.locator("#empty-state")).to_be_visible()
        second = chat.path
        assert second != first
        await chat.send("in the second")
        await chat.wait_for_text("in the second")
        await chat.page.go_back()
        await chat.wait_for_text("in the first")
        assert chat.path == first
        await expect(chat.page.locator("#log")).not_to_contain_text("in the second")
        await chat.page.reload()
        await chat.wait_for_text("in the first")
        await chat.page.go_forward()
        await chat.wait_for_text("in the second")
        await expect(chat.page).to_have_title("in the second · Palaver")
        await chat.page.get_by_role("link", name="in the first").click()
        await expect(chat.page.locator(".message")).to_have_text("in the first")
        assert chat.path == first


async def test_an_address_opens_its_conversation_whatever_its_letters(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        for path in ("/c/a%20b%3Fc%23d", "/c/%E9%9B%A8", "/c/100%25"):
            await chat.open(path)
            await chat.send(f"at {path}")
            await chat.wait_for_text(f"at {path}")
            await chat.page.reload()
            await expect(chat.page.locator(".message")).to_have_text(f"at {path}")
            assert chat.path == path


async def test_two_tabs_hold_two_conversations(live_server: LiveServer, browser: Browser) -> None:
    async with open_tabs(browser, live_server.address, 2) as (one, two):
        await one.open()
        await two.open()
        await one.send("only in the first")
        await two.send("only in the second")
        for chat, own in ((one, "only in the first"), (two, "only in the second")):
            await chat.wait_until_done()
            await expect(chat.page.locator(".message")).to_have_text([own])
            await chat.page.reload()
            await expect(chat.page.locator(".message")).to_have_text([own])
            await expect(chat.page.locator(".conversations a")).to_have_count(2)


async def test_two_tabs_of_one_address_show_the_same_conversation(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_tabs(browser, live_server.address, 2) as (one, two):
        await one.open()
        await two.open(one.path)
        await one.send("from the first")
        await two.wait_for_text("from the first")
        await two.send("from the second")
        await one.wait_for_text("from the second")
        await one.wait_until_done()
        for chat in (one, two):
            await expect(chat.page.locator(".turn")).to_have_count(2)


@pytest.mark.firefox
async def test_three_tabs_with_two_conversations_are_live(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_tabs(browser, live_server.address, 3) as (one, two, three):
        await one.open()
        await two.open()
        await three.open(one.path)
        await one.begin_reply(live_server, "Half ")
        await three.wait_for_text("Half")
        await two.say("meanwhile")
        live_server.scripted.emit("and half")
        for chat in (one, three):
            await expect(chat.page.locator(".reply")).to_have_text("Half and half")
        await expect(two.page.locator(".message")).to_have_text(["meanwhile"])


async def test_a_new_conversation_is_empty(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("the old one")
        await chat.page.get_by_role("button", name="New conversation").click()
        await expect(chat.page.locator("#empty-state")).to_be_visible()
        await expect(chat.page.locator(".turn")).to_have_count(0)
        await chat.page.reload()
        await expect(chat.page.locator("#empty-state")).to_be_visible()


async def choose(chat: ChatPage, title: str, action: str) -> None:
    """Choose an action in the menu of a conversation."""
    await chat.page.get_by_label(f"Options of “{title}”").click()
    await chat.page.get_by_role("button", name=action, exact=True).click()


async def test_a_conversation_is_renamed_and_deleted_in_every_tab(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_tabs(browser, live_server.address, 2) as (one, two):
        await one.open()
        await two.open()
        await one.say("the first")
        await two.send("the second")
        titles = one.page.locator(".conversations a")
        await expect(titles).to_have_text(["the second", "the first"])
        await choose(one, "the first", "Rename")
        await expect(one.page.get_by_label("Title")).to_be_focused()
        await one.page.keyboard.type("A better name")
        await one.page.keyboard.press("Enter")
        for chat in (one, two):
            await expect(chat.page.locator(".conversations a")).to_have_text(
                ["the second", "A better name"]
            )
        await choose(two, "A better name", "Delete")
        await two.page.keyboard.press("Escape")
        await choose(two, "A better name", "Delete")
        dialog = two.page.get_by_role("dialog", name="Delete “A better name”?")
        await dialog.get_by_role("button", name="Delete").click()
        await expect(titles).to_have_text(["the second"])
        await expect(two.page.get_by_role("status").filter(has_text="is erased")).to_contain_text(
            "“A better name” is erased. Messages: 1, stored events:"
        )
        await expect(one.page.locator(".turn")).to_have_count(0)
        await one.page.reload()
        await expect(titles).to_have_text(["the second"])
        one.forget_lost_connections()


async def test_deleting_the_shown_conversation_begins_a_new_one(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("my secret")
        deleted = chat.path
        await choose(chat, "my secret", "Delete")
        await chat.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        # The conversation is shown empty as soon as it is erased, before the new one begins.
        await expect(chat.page).not_to_have_url(live_server.address + deleted)
        await expect(chat.page.locator("#empty-state")).to_be_visible()
        await chat.page.goto(live_server.address + deleted)
        await expect(chat.page.locator("#empty-state")).to_be_visible()


async def test_conversations_are_pinned_archived_and_found(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        titles = chat.page.locator(".conversations a > span")
        for text in ("about apples", "about pears", "about plums"):
            await chat.open()
            await chat.say(text)
        await expect(titles).to_have_text(["about plums", "about pears", "about apples"])
        await choose(chat, "about apples", "Pin")
        await expect(titles).to_have_text(["about apples", "about plums", "about pears"])
        await choose(chat, "about plums", "Archive")
        await expect(titles).to_have_text(["about apples", "about pears"])
        await chat.page.reload()
        await expect(titles).to_have_text(["about apples", "about pears"])
        archive = chat.page.get_by_role("button", name="Archived conversations")
        await archive.click()
        await expect(titles).to_have_text(["about plums"])
        await expect(archive).to_have_attribute("aria-pressed", "true")
        await chat.page.get_by_role("link", name="about plums").click()
        await expect(chat.page.locator(".message")).to_have_text("about plums")
        await expect(chat.page).to_have_title("about plums · Palaver")
        await archive.click()
        await expect(titles).to_have_text(["about apples", "about pears"])
        await expect(chat.page).to_have_title("about plums · Palaver")
        search = chat.page.get_by_role("searchbox", name="Search")
        await search.fill("PLUMS")
        await expect(titles).to_have_text(["about plums"])
        await expect(chat.page.locator(".conversations small")).to_have_text("Archived")
        await choose(chat, "about plums", "Take out of the archive")
        await search.fill("nothing like it")
        await expect(titles).to_have_count(0)
        await expect(chat.page.locator(".sidebar")).to_contain_text("Nothing was found.")
        await search.fill("")
        await expect(titles).to_have_text(["about apples", "about plums", "about pears"])
        await choose(chat, "about apples", "Unpin")
        await expect(titles).to_have_text(["about plums", "about pears", "about apples"])


async def test_a_message_takes_its_conversation_out_of_the_archive_that_is_shown(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        titles = chat.page.locator(".conversations a > span")
        await chat.open()
        await chat.say("about plums")
        await choose(chat, "about plums", "Archive")
        await expect(chat.page.locator(".sidebar")).to_contain_text(
            "Your conversations appear here"
        )
        archive = chat.page.get_by_role("button", name="Archived conversations")
        await archive.click()
        await expect(titles).to_have_text(["about plums"])
        await chat.say("and more")
        await expect(titles).to_have_count(0)
        await expect(chat.page.locator(".sidebar")).to_contain_text("The archive is empty.")
        await archive.click()
        await expect(titles).to_have_text(["about plums"])


async def test_what_cannot_be_changed_is_said(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("hello")
        await chat.page.route(
            "**/v1/conversations/*", lambda route: route.fulfill(status=429, json=TOO_MANY)
        )
        await choose(chat, "hello", "Pin")
        notice = chat.page.get_by_role("status").filter(has_text="Too many")
        await expect(notice).to_be_visible()
        await expect(chat.page.get_by_label("Options of “hello”")).to_be_focused()
        await notice.get_by_role("button", name="Close").click()
        await expect(notice).to_have_count(0)
        chat.errors = [error for error in chat.errors if "429" not in error]


TOO_MANY = {"error": {"code": "too_many", "message": "Too many requests. Please wait."}}


async def test_a_conversation_is_downloaded(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("/scholar leave?")
        await expect(chat.page.locator(".conversations a")).to_have_text("leave?")
        async with chat.page.expect_download() as downloading:
            await choose(chat, "leave?", "Download as Markdown")
        download = await downloading.value
        assert download.suggested_filename == "leave.md"
        text = (await download.path()).read_text()
        assert "# leave?" in text
        assert "You have 30 days of leave [1]." in text
        async with chat.page.expect_download() as downloading:
            await choose(chat, "leave?", "Download as JSON")
        download = await downloading.value
        assert download.suggested_filename == "leave.json"
        exported = json.loads((await download.path()).read_text())
        assert exported["title"] == "leave?"
        assert [entry["role"] for entry in exported["messages"]] == ["user", "assistant"]


async def test_earlier_messages_are_loaded_on_request(browser: Browser) -> None:
    async with (
        open_live_server(
            ledger=MemoryLedger(events_kept=1), ledger_settings=LedgerSettings(history=4)
        ) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        for number in range(5):
            await chat.say(f"number {number}")
        await expect(chat.page.locator(".message")).to_have_count(5)
        await chat.page.reload()
        await expect(chat.page.locator(".message")).to_have_text(["number 3", "number 4"])
        for count in (4, 5):
            await chat.page.get_by_role("button", name="Show earlier messages").click()
            await expect(chat.page.locator(".message")).to_have_count(count)
        await expect(chat.page.locator(".message")).to_have_text(
            [f"number {number}" for number in range(5)]
        )
        await expect(chat.page.get_by_role("button", name="Show earlier messages")).to_have_count(0)
