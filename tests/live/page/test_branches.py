"""Other replies, edited messages, and going back to earlier versions."""

import pytest
from playwright.async_api import Browser, expect
from tests.live.page.chat_page import ChatPage, open_page, open_tabs
from tests.live.page.test_accessibility import AXE, FIND_VIOLATIONS
from tests.server.web.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


async def expect_messages(chat: ChatPage, *texts: str) -> None:
    await expect(chat.page.locator(".message")).to_have_text(list(texts))


async def edit(chat: ChatPage, number: int, text: str) -> None:
    """Edit a message, counted from 0."""
    turn = chat.page.locator(".turn").nth(number)
    await turn.locator(".message").hover()
    await turn.get_by_role("button", name="Edit this message").click()
    await chat.page.get_by_role("textbox", name="Edit this message").fill(text)
    await chat.page.keyboard.press("Enter")


@pytest.mark.firefox
async def test_another_reply_is_written_and_both_stay(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/scripted go")
        live_server.scripted.emit("The first.")
        await chat.wait_for_text("The first.")
        await chat.page.get_by_role("button", name="Write another reply").click()
        live_server.scripted.emit("The second.")
        reply = chat.page.locator(".reply")
        await expect(reply).to_have_text("The second.")
        await expect(chat.page.locator(".versions")).to_have_text("2/2")
        await chat.page.get_by_role("button", name="Older version").click()
        await expect(reply).to_have_text("The first.")
        await expect(chat.page.locator(".versions")).to_have_text("1/2")
        await expect(chat.page.get_by_role("button", name="Older version")).to_be_disabled()
        await chat.page.reload()
        await expect(reply).to_have_text("The first.")
        await chat.page.get_by_role("button", name="Newer version").click()
        await expect(reply).to_have_text("The second.")


@pytest.mark.firefox
async def test_an_edit_keeps_what_came_after_as_another_version(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("one", "two", "three")
        turn = chat.page.locator(".turn").nth(1)
        await turn.locator(".message").hover()
        await turn.get_by_role("button", name="Edit this message").click()
        await expect(chat.page.locator(".editor")).to_contain_text("stays as another version")
        await chat.page.keyboard.press("Escape")
        await expect(chat.page.locator(".editor")).to_have_count(0)
        await edit(chat, 1, "two, better")
        await expect_messages(chat, "one", "two, better")
        notice = chat.page.get_by_role("status").filter(has_text="What came later is hidden")
        await expect(notice).to_be_visible()
        await expect(chat.page.get_by_label("Your message")).to_be_focused()
        await expect(chat.page.locator(".reply")).to_have_text(["one", "two, better"])
        await chat.say("four")
        await chat.page.get_by_role("button", name="Older version").click()
        await expect_messages(chat, "one", "two", "three")
        await expect(notice).to_have_count(0)
        await chat.page.get_by_role("button", name="Newer version").click()
        await expect_messages(chat, "one", "two, better", "four")
        await edit(chat, 0, "zero")
        await expect_messages(chat, "zero")


async def test_every_tab_shows_the_chosen_version(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_tabs(browser, live_server.address, 2) as (one, two):
        await one.open()
        await one.say("one", "two")
        await two.open(one.path)
        await expect_messages(two, "one", "two")
        await edit(one, 1, "another two")
        await expect_messages(two, "one", "another two")
        await two.page.get_by_role("button", name="Older version").click()
        for chat in (one, two):
            await expect_messages(chat, "one", "two")


async def test_arrow_up_edits_the_last_message(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        press = chat.page.keyboard.press
        await chat.open()
        await press("ArrowUp")  # there is no message yet
        await chat.say("one", "two")
        await press("ArrowUp")
        await expect(chat.page.get_by_role("textbox", name="Edit this message")).to_be_focused()
        await chat.page.keyboard.type(" or three")
        await press("Enter")
        await expect_messages(chat, "one", "two or three")
        await expect(chat.page.get_by_label("Your message")).to_be_focused()


async def test_no_branch_is_offered_while_a_reply_is_written(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("one")
        again = chat.page.get_by_role("button", name="Write another reply")
        await expect(again).to_be_visible()
        await chat.begin_reply(live_server, "Half")
        await expect(again).to_have_count(0)
        live_server.scripted.emit(" and half")
        await expect(again).to_have_count(2)


async def save_only(chat: ChatPage, number: int, text: str) -> None:
    """Replace the text of a message, counted from 0."""
    turn = chat.page.locator(".turn").nth(number)
    await turn.locator(".message").hover()
    await turn.get_by_role("button", name="Edit this message").click()
    await chat.page.get_by_role("textbox", name="Edit this message").fill(text)
    await chat.page.get_by_role("button", name="Save only").click()


async def test_a_text_is_saved_without_another_reply_in_every_tab(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_tabs(browser, live_server.address, 2) as (one, two):
        await one.open()
        await one.say("one", "two", "three")
        await two.open(one.path)
        await expect_messages(two, "one", "two", "three")
        await save_only(one, 1, "two, better")
        for chat in (one, two):
            await expect_messages(chat, "one", "two, better", "three")
            await expect(chat.page.locator(".reply")).to_have_text(["one", "two", "three"])
            await expect(chat.page.locator(".versions")).to_have_count(0)
        await expect(one.page.locator(".editor")).to_have_count(0)
        await expect(one.page.get_by_label("Your message")).to_be_focused()
        await two.page.reload()
        await expect_messages(two, "one", "two, better", "three")
        await two.say("four")
        await expect_messages(one, "one", "two, better", "three", "four")


async def test_a_refused_text_stays_in_the_editor(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_tabs(browser, live_server.address, 2) as (one, two):
        await one.open()
        await one.say("one")
        await two.open(one.path)
        await two.page.get_by_role("button", name="Write another reply").hover()
        turn = one.page.locator(".turn").first
        await turn.locator(".message").hover()
        await turn.get_by_role("button", name="Edit this message").click()
        field = one.page.get_by_role("textbox", name="Edit this message")
        await field.fill("one, better")
        await two.begin_reply(live_server, "Half")
        await one.wait_for_text("Half")
        await one.page.get_by_role("button", name="Save only").click()
        await expect(one.page.get_by_role("alert")).to_contain_text("not settled")
        await expect(field).to_have_value("one, better")
        live_server.scripted.emit(" and half")
        await one.wait_until_done()
        await one.page.get_by_role("button", name="Save only").click()
        await expect_messages(one, "one, better", "/scripted go")
        one.errors = [error for error in one.errors if "409" not in error]


@pytest.mark.skipif(not AXE.exists(), reason="the npm packages of the page are not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
async def test_the_editor_and_the_notice_are_for_everybody(
    live_server: LiveServer, browser: Browser, scheme: str, width: int
) -> None:
    async with open_page(
        browser, live_server.address, color_scheme=scheme, viewport={"width": width, "height": 640}
    ) as chat:
        await chat.page.add_init_script(path=AXE)
        await chat.open()
        await chat.say("one", "two", "three")
        turn = chat.page.locator(".turn").first
        await turn.locator(".message").hover()
        await turn.get_by_role("button", name="Edit this message").click()
        save = chat.page.get_by_role("button", name="Save only")
        await expect(save).to_be_in_viewport()
        await expect(chat.page.get_by_role("textbox", name="Edit this message")).to_be_in_viewport()
        assert await chat.page.evaluate(FIND_VIOLATIONS) == []
        await chat.page.keyboard.press("Enter")
        notice = chat.page.get_by_role("status").filter(has_text="What came later is hidden")
        await expect(notice).to_be_in_viewport()
        await chat.wait_until_done()
        assert await chat.page.evaluate(FIND_VIOLATIONS) == []
        await chat.page.get_by_role("button", name="Older version").click()
        await expect_messages(chat, "one", "two", "three")
        await expect(notice).to_have_count(0)
