"""The main flows with the keyboard alone, on a phone, zoomed, in each language, and offline."""

import pytest
from playwright.async_api import Browser, ViewportSize, expect
from tests.live.page.chat_page import ChatPage, open_page, open_tabs
from tests.server.web.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

WIDE = ViewportSize(width=1280, height=800)
ZOOMED = ViewportSize(width=640, height=400)
"""What a zoom of 200 % leaves of the wide screen."""
PHONE = ViewportSize(width=360, height=640)

FOCUSED = """
() => {
  const { ariaLabel, textContent, labels, value, type } = document.activeElement;
  return ariaLabel || (type === "radio" ? labels[0].textContent : textContent.trim());
}
"""


async def tab_to(chat: ChatPage, name: str, *, key: str = "Tab") -> None:
    """Move the focus with the Tab key until it is on the control of this name."""
    visited = []
    for _ in range(80):
        await chat.page.keyboard.press(key)
        visited.append(await chat.page.evaluate(FOCUSED))
        if visited[-1].startswith(name):
            await expect(chat.page.locator(":focus")).to_be_in_viewport()
            return
    raise AssertionError((name, visited))


async def use(chat: ChatPage, *names: str) -> None:
    """Press controls, each reached with the Tab key."""
    for name in names:
        await tab_to(chat, name)
        await chat.page.keyboard.press("Enter")


async def show_list(chat: ChatPage) -> None:
    if not await chat.page.get_by_role("navigation").count():
        await use(chat, "Show conversations")
        await expect(chat.page.get_by_role("button", name="New conversation")).to_be_focused()


@pytest.mark.parametrize("viewport", [WIDE, ZOOMED, PHONE], ids=["wide", "zoomed", "phone"])
async def test_a_person_needs_no_mouse(
    live_server: LiveServer, browser: Browser, viewport: ViewportSize
) -> None:
    async with open_page(browser, live_server.address, viewport=viewport) as chat:
        press, type_ = chat.page.keyboard.press, chat.page.keyboard.type
        await chat.open()
        await type_("/scholar leave?")
        await press("Enter")
        await tab_to(chat, "Source 1", key="Shift+Tab")
        await press("Enter")
        await expect(chat.page.get_by_role("complementary")).to_be_visible()
        await press("Escape")
        await expect(chat.page.get_by_role("complementary")).to_have_count(0)
        await use(chat, "Write another reply")
        await expect(chat.page.locator(".versions")).to_have_text("2/2")
        await tab_to(chat, "Older version", key="Shift+Tab")
        await press("Enter")
        await expect(chat.page.locator(".versions")).to_have_text("1/2")
        await use(chat, "Edit this message")
        await expect(chat.page.get_by_role("textbox", name="Edit this message")).to_be_focused()
        await press("Escape")
        await show_list(chat)
        await use(chat, "Options of", "Rename")
        await type_("By keyboard")
        await press("Enter")
        await expect(chat.page.locator(".conversations a")).to_have_text("By keyboard")
        await use(chat, "Options of “By keyboard”", "Delete")
        await expect(chat.page.get_by_role("dialog")).to_be_visible()
        await use(chat, "Delete")
        await expect(chat.page.locator(".conversations a")).to_have_count(0)
        await show_list(chat)
        await use(chat, "Settings")
        await tab_to(chat, "Like the system")
        await press("ArrowRight")
        await press("ArrowRight")
        await expect(chat.page.locator("html")).to_have_attribute("data-theme", "dark")
        await press("Escape")
        await expect(chat.page.get_by_role("dialog")).to_have_count(0)


FIND_OVERFLOWS = """
() => [document.documentElement, ...document.querySelectorAll("button, label, dialog, nav, header")]
  .filter((node) => node.checkVisibility() && !node.closest(".visually-hidden, #log"))
  .filter((node) => getComputedStyle(node).textOverflow !== "ellipsis")
  .filter((node) => node.scrollWidth > node.clientWidth + 1 && node.clientWidth)
  .map((node) => node.outerHTML.slice(0, 200))
"""


@pytest.mark.parametrize("language", ["en", "de", "fr", "es", "zh"])
async def test_each_language_fits_a_phone(
    live_server: LiveServer, browser: Browser, language: str
) -> None:
    async with open_page(
        browser, live_server.address, locale=f"{language}-XX", viewport=PHONE
    ) as chat:
        page = chat.page
        await page.goto(live_server.address)
        await page.locator("#skills button").first.wait_for()
        assert await page.evaluate(FIND_OVERFLOWS) == []
        await page.keyboard.type("/scripted go")
        await page.keyboard.press("Enter")
        live_server.scripted.emit("שלום, half", end=False)
        await chat.wait_for_text("half")
        await page.keyboard.press("Escape")
        await page.locator(".stopped").wait_for()
        assert await page.evaluate(FIND_OVERFLOWS) == []
        await page.locator("#show-conversations").click()
        await page.locator(".conversations .icon-button").click()
        assert await page.evaluate(FIND_OVERFLOWS) == []
        for button in await page.locator(".sidebar-foot button").all():
            await button.click()
            await page.get_by_role("dialog").wait_for()
            assert await page.evaluate(FIND_OVERFLOWS) == []
            await page.keyboard.press("Escape")


async def test_a_reply_goes_on_where_the_network_was_lost(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_tabs(browser, live_server.address, 3) as (one, two, three):
        await one.open()
        await two.open(one.path)
        await three.open()
        await one.begin_reply(live_server, "Before ")
        await two.wait_for_text("Before")
        await one.page.context.set_offline(True)
        live_server.scripted.emit("meanwhile ", end=False)
        await three.send("written in a tunnel")
        await expect(three.page.locator("#unsent")).to_contain_text("Waiting for the connection")
        await one.page.context.set_offline(False)
        live_server.scripted.emit("and after")
        for chat in (one, two):
            await expect(chat.page.locator(".reply")).to_have_text("Before meanwhile and after")
            await expect(chat.page.locator("#connection")).to_be_hidden()
        await expect(three.page.locator("#unsent")).to_have_count(0)
        await expect(three.page.locator(".message")).to_have_text("written in a tunnel")
        for chat in (one, two, three):
            chat.forget_lost_connections()
