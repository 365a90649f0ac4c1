"""Small things that people expect of a page they use all day."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect
from tests.live.page.chat_page import ChatPage, open_page
from tests.server.web.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

HIDE = "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }})"
CODE = "```python\nprint('" + "long " * 60 + "')\n```\n"


@pytest_asyncio.fixture(loop_scope="module")
async def chat(live_server: LiveServer, browser: Browser) -> AsyncIterator[ChatPage]:
    """Open the page as a person who is new."""
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        yield chat


async def hide(chat: ChatPage, *, hidden: bool) -> None:
    """Make the page think that its tab is in the background, or in front again."""
    await chat.page.evaluate(HIDE.format(hidden="true" if hidden else "false"))
    await chat.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


async def test_the_list_is_grouped_by_time(chat: ChatPage) -> None:
    await chat.say("First")
    headings = chat.page.locator(".conversations h2")
    await expect(headings).to_have_text(["Today"])
    await chat.page.get_by_role("button", name="New conversation").first.click()
    await chat.say("Second")
    await chat.page.get_by_role("button", name="Options of “Second”").click()
    await chat.page.get_by_role("button", name="Pin", exact=True).click()
    await expect(headings).to_have_text(["Pinned", "Today"])
    await chat.page.get_by_label("Search").fill("First")
    await expect(headings).to_have_count(0)


async def test_messages_show_their_time_and_days_are_apart(chat: ChatPage) -> None:
    await chat.say("Hello", "Again")
    days, clocks = chat.page.locator(".day"), chat.page.locator(".clock")
    await expect(days).to_have_text(["Today"])
    await expect(clocks).to_have_count(2)
    await chat.page.clock.set_fixed_time(datetime.now(UTC) + timedelta(days=1))
    await chat.page.reload()
    await expect(clocks).to_have_count(2)
    await expect(days).to_have_text(["Yesterday"])
    await expect(clocks).to_have_count(2)
    await expect(chat.page.locator(".conversations h2")).to_have_text(["Yesterday"])
    await chat.page.clock.set_fixed_time(datetime.now(UTC) + timedelta(days=5))
    await chat.page.reload()
    await expect(days).to_contain_text(str(datetime.now(UTC).year))
    await expect(chat.page.locator(".conversations h2")).to_have_text(["Previous 7 days"])


async def test_another_reply_keeps_the_time_of_the_message(chat: ChatPage) -> None:
    await chat.say("Hello")
    await chat.page.get_by_role("button", name="Write another reply").click()
    await expect(chat.page.locator(".versions")).to_contain_text("2")
    await expect(chat.page.locator(".clock")).to_have_count(1)
    await expect(chat.page.locator(".day")).to_have_text(["Today"])


async def test_a_shortcut_opens_the_search(chat: ChatPage) -> None:
    await chat.page.get_by_role("button", name="Hide conversations").click()
    await chat.page.keyboard.press("Control+k")
    await expect(chat.page.get_by_label("Search")).to_be_focused()


async def test_a_shortcut_copies_the_newest_reply(chat: ChatPage) -> None:
    await chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await chat.say("Hello")
    await chat.page.keyboard.press("Control+Shift+C")
    await expect(chat.page.locator("#announcement")).to_have_text("Copied")
    copied = await chat.page.evaluate("navigator.clipboard.readText()")
    assert copied
    await expect(chat.page.locator("#log")).to_contain_text(copied)


async def test_the_tab_marks_a_reply_that_nobody_has_seen(
    live_server: LiveServer, chat: ChatPage
) -> None:
    await chat.begin_reply(live_server, "It begins")
    await hide(chat, hidden=True)
    live_server.scripted.emit(" and ends", end=True)
    await expect(chat.page).to_have_title("● go · Palaver")
    await hide(chat, hidden=False)
    await expect(chat.page).to_have_title("go · Palaver")


async def test_code_is_wrapped_and_downloaded(
    live_server: LiveServer, chat: ChatPage, tmp_path: Path
) -> None:
    await chat.send("/scripted go")
    live_server.scripted.emit(CODE, end=True)
    block = chat.page.locator(".code pre")
    overflows = "element => element.scrollWidth > element.clientWidth"
    assert await block.evaluate(overflows)
    await chat.page.get_by_role("button", name="Wrap lines").click()
    assert not await block.evaluate(overflows)
    async with chat.page.expect_download() as waiting:
        await chat.page.get_by_role("button", name="Download", exact=True).click()
    download = await waiting.value
    assert download.suggested_filename == "code.py"
    await download.save_as(tmp_path / "code.py")
    assert (tmp_path / "code.py").read_text("utf-8") in CODE


async def test_a_conversation_is_printed_whole(chat: ChatPage) -> None:
    await chat.say(*(f"Message {number}" for number in range(4)))
    await chat.page.emulate_media(media="print")
    await expect(chat.page.locator(".sidebar")).to_be_hidden()
    await expect(chat.page.get_by_label("Your message")).to_be_hidden()
    heights = await chat.page.evaluate(
        "[document.querySelector('main').clientHeight, document.querySelector('#log').scrollHeight]"
    )
    assert heights[0] >= heights[1]
