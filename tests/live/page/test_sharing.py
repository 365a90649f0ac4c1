"""Sharing a conversation: links to a snapshot, its page, revoking."""

import pytest
from playwright.async_api import Browser, Locator, Page, expect
from tests.live.page.chat_page import ChatPage, open_page
from tests.live.page.test_accessibility import AXE, FIND_VIOLATIONS
from tests.live.page.test_conversations import choose
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.conversations import MAX_SHARES
from palaver.testing import ScriptedEngine

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

REPLY = """\
# A heading

Some **bold** text and `code`, [a link](https://a.example) <script>alert(1)</script>

| a | b |
| - | - |
| 1 | 2 |

```python
print(1)
```
"""


async def share(chat: ChatPage, title: str) -> tuple[Locator, str]:
    """Make a link to a conversation; return the dialog and the path of the link."""
    await choose(chat, title, "Share…")
    dialog = chat.page.get_by_role("dialog", name=f"Share “{title}”")
    await dialog.get_by_role("button", name="Make a link").click()
    await expect(dialog.get_by_role("status")).to_have_text("The link is ready.")
    url = await dialog.get_by_role("link").first.inner_text()
    return dialog, url.removeprefix(chat.address.rstrip("/"))


async def open_share(chat: ChatPage, path: str) -> Page:
    await chat.page.goto(chat.address.rstrip("/") + path)
    return chat.page


def forget_missing(chat: ChatPage) -> None:
    chat.errors = [error for error in chat.errors if "404" not in error and "403" not in error]


async def test_a_stranger_reads_what_was_shared_and_no_more(
    live_server: LiveServer, browser: Browser
) -> None:
    async with (
        open_page(browser, live_server.address) as chat,
        open_page(browser, live_server.address) as stranger,
    ):
        await chat.open()
        await chat.say("/scholar leave?")
        await chat.send("/scripted go")
        live_server.scripted.emit(REPLY)
        await chat.page.locator(".reply table").wait_for()
        dialog, path = await share(chat, "leave?")
        await expect(dialog).to_contain_text("Names, files, quoted passages and later messages")
        await chat.page.keyboard.press("Escape")
        await expect(chat.page.get_by_label("Options of “leave?”")).to_be_focused()
        await chat.say("later")
        page = await open_share(stranger, path)
        await expect(page.get_by_role("heading", level=1)).to_have_text("leave?")
        await expect(page).to_have_title("leave? · Palaver")
        await expect(page.locator(".message")).to_have_text(["/scholar leave?", "/scripted go"])
        await expect(page.get_by_role("heading", name="A heading")).to_be_visible()
        await expect(page.locator(".reply").last).to_contain_text("<script>alert(1)</script>")
        await expect(page.locator(".code code")).to_have_text("print(1)")
        await expect(page.get_by_text("As it was on")).to_be_visible()
        await page.get_by_role("link", name="Source 1").click()
        source = page.get_by_role("list", name="Sources").get_by_role("listitem")
        await expect(source).to_have_text("The Handbook › Leave")
        for role in ("textbox", "navigation"):
            await expect(page.get_by_role(role)).to_have_count(0)
        outside_code = page.locator("button:not(.code button)")
        await expect(outside_code).to_have_count(0)
        assert await page.context.cookies() == []
        assert path in page.url


async def test_a_revoked_link_shows_nothing(live_server: LiveServer, browser: Browser) -> None:
    async with (
        open_page(browser, live_server.address) as chat,
        open_page(browser, live_server.address) as stranger,
    ):
        await chat.open()
        await chat.say("hello")
        dialog, path = await share(chat, "hello")
        await dialog.get_by_role("button", name="Make a link").click()
        await expect(dialog.get_by_role("link")).to_have_count(2)
        await chat.page.keyboard.press("Escape")
        await choose(chat, "hello", "Share…")
        link = dialog.get_by_role("listitem").filter(has_text=path)
        await link.get_by_role("button", name="Revoke the link of").click()
        await expect(dialog.get_by_role("status")).to_have_text("The link is revoked.")
        await expect(dialog.get_by_role("link")).to_have_count(1)
        page = await open_share(stranger, path)
        await expect(page.get_by_role("heading", level=1)).to_have_text("This link shows nothing")
        await expect(page.locator(".turn")).to_have_count(0)
        kept = await dialog.get_by_role("link").inner_text()
        await open_share(stranger, kept.removeprefix(chat.address.rstrip("/")))
        await expect(page.get_by_role("heading", level=1)).to_have_text("hello")
        for path in ("/s/%E0%A4%A", "/s/nothing", "/s/%3Cb%3E", "/s/..%2Fv1"):
            await open_share(stranger, path)
            await expect(page.get_by_role("heading", level=1)).to_have_text(
                "This link shows nothing"
            )
        forget_missing(stranger)


async def test_the_link_is_copied(live_server: LiveServer, browser: Browser) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    async with open_page(browser, live_server.address, permissions=permissions) as chat:
        await chat.open()
        await chat.say("hello")
        dialog, path = await share(chat, "hello")
        await dialog.get_by_role("button", name="Copy the link").click()
        copied = await chat.page.evaluate("navigator.clipboard.readText()")
        assert copied == chat.address.rstrip("/") + path


async def test_a_refusal_is_said_in_the_dialog(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("hello")
        dialog, _ = await share(chat, "hello")
        for number in range(2, MAX_SHARES + 1):
            await dialog.get_by_role("button", name="Make a link").click()
            await expect(dialog.get_by_role("link")).to_have_count(number)
        await dialog.get_by_role("button", name="Make a link").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("20 shares already")
        await expect(dialog.get_by_role("link")).to_have_count(MAX_SHARES)
        await dialog.get_by_role("button", name="Revoke the link of").first.click()
        await expect(dialog.get_by_role("link")).to_have_count(MAX_SHARES - 1)
        await expect(dialog.get_by_role("alert")).to_have_count(0)
        chat.errors = [error for error in chat.errors if "429" not in error]


async def test_a_page_that_could_not_be_loaded_is_loaded_again(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("hello")
        _, path = await share(chat, "hello")
        await chat.page.route("**/v1/shares/*", lambda route: route.abort())
        page = await open_share(chat, path)
        await expect(page.get_by_role("heading", level=1)).to_contain_text("could not be loaded")
        await page.unroute("**/v1/shares/*")
        await page.get_by_role("button", name="Try again").click()
        await expect(page.locator(".message")).to_have_text("hello")
        chat.forget_lost_connections()


async def test_sharing_that_is_switched_off_is_not_offered(browser: Browser) -> None:
    async with (
        open_live_server(engine=ScriptedEngine(), sharing=False) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        await chat.say("hello")
        await chat.page.get_by_label("Options of").click()
        await expect(chat.page.get_by_role("button", name="Rename")).to_be_visible()
        await expect(chat.page.get_by_role("button", name="Share…")).to_have_count(0)
        page = await open_share(chat, "/s/abc")
        await expect(page.get_by_role("heading", level=1)).to_have_text("This link shows nothing")
        forget_missing(chat)


@pytest.mark.skipif(not AXE.exists(), reason="the npm packages of the page are not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
async def test_the_share_dialog_and_page_are_for_everybody(
    live_server: LiveServer, browser: Browser, scheme: str, width: int
) -> None:
    async with open_page(
        browser, live_server.address, color_scheme=scheme, viewport={"width": width, "height": 640}
    ) as chat:
        await chat.page.add_init_script(path=AXE)
        await chat.open()
        await chat.say("/scholar " + "leave " * 30, "שלום עולם")
        if width < 500:
            await chat.page.get_by_role("button", name="Show conversations").click()
        await chat.page.get_by_label("Options of").click()
        await chat.page.get_by_role("button", name="Share…").click()
        await chat.page.get_by_role("button", name="Make a link").click()
        link = chat.page.get_by_role("dialog").get_by_role("link")
        await link.wait_for()
        assert await chat.page.evaluate(FIND_VIOLATIONS) == []
        path = (await link.inner_text()).removeprefix(live_server.address)
        page = await open_share(chat, path)
        await page.locator(".message").last.wait_for()
        assert await page.evaluate(FIND_VIOLATIONS) == []
        assert await page.evaluate(OVERFLOW) == [0, 0]
        direction = "node => getComputedStyle(node).direction"
        assert await page.locator(".message").last.evaluate(direction) == "rtl"


OVERFLOW = """
[document.documentElement, document.getElementById('main')]
  .map(node => node.scrollWidth - node.clientWidth)
"""


@pytest.mark.parametrize(
    ("locale", "mark"),
    [("de-DE", "nur zum Lesen"), ("fr-FR", "en lecture seule"), ("es-ES", "solo para leer"),
     ("zh-CN", "仅供阅读")],
)  # fmt: skip
async def test_a_shared_page_speaks_the_readers_language(
    live_server: LiveServer, browser: Browser, locale: str, mark: str
) -> None:
    async with (
        open_page(browser, live_server.address) as chat,
        open_page(browser, live_server.address, locale=locale) as stranger,
    ):
        await chat.open()
        await chat.say("hello")
        _, path = await share(chat, "hello")
        page = await open_share(stranger, path)
        await expect(page.locator("header")).to_contain_text(mark)
        await expect(page.locator(".shared-date")).to_contain_text("20")  # the year
