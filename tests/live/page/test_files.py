"""Files in the page: chosen, dropped, pasted, sent, shown, downloaded."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, FilePayload, Locator, expect
from tests.live.page.chat_page import ChatPage, open_page
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.config.settings import AuthKey, FilesSettings, Secret
from palaver.testing import ScriptedEngine

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
)
KEY = "a-key-of-the-test-0123456789"
DRAG = """
() => {
  const data = new DataTransfer();
  data.items.add(new File(["x"], "x.txt"));
  const about = { dataTransfer: data, bubbles: true };
  document.querySelector("main").dispatchEvent(new DragEvent("dragenter", about));
}
"""
HAND_OVER = """
([kind, name, type, content]) => {
  const data = new DataTransfer();
  data.items.add(new File([atob(content)], name, { type }));
  const target = document.querySelector(kind === "paste" ? "#text" : "main");
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })
    : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  if (kind !== "paste") {
    target.dispatchEvent(new DragEvent("dragenter", { dataTransfer: data, bubbles: true }));
  }
  return target.dispatchEvent(event);
}
"""
NAMES = (
    "../../etc/passwd",
    "a" * 300 + ".txt",
    "\u202etxt.exe",
    "<img src=x onerror=alert(1)>.txt",
    "x\n\ny.txt",
    "  .txt",
    "ملف عربي طويل.txt",
    "文件" * 60 + ".txt",
    "Z\u0335\u0336\u0337algo.txt",
    "CON.txt",
    "a b   c.txt",
    "'; DROP TABLE files; --.txt",
    "%00%2e%2e%2f.txt",
    "👨\u200d👩\u200d👧" * 40 + ".txt",
)


async def choose(chat: ChatPage, *files: tuple[str, str, bytes]) -> None:
    """Choose files as in the browser's dialog: name, media type, content."""
    async with chat.page.expect_file_chooser() as waiting:
        await chat.page.get_by_role("button", name="Add files").click()
    chooser = await waiting.value
    payloads = [
        FilePayload(name=name, mimeType=kind, buffer=content) for name, kind, content in files
    ]
    await chooser.set_files(payloads)


def uploads(chat: ChatPage) -> Locator:
    return chat.page.locator("#uploads li")


@asynccontextmanager
async def new_page(browser: Browser, live_server: LiveServer) -> AsyncIterator[ChatPage]:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        yield chat


async def test_a_file_is_sent_and_downloaded(live_server: LiveServer, browser: Browser) -> None:
    async with new_page(browser, live_server) as chat:
        await choose(chat, ("report.txt", "text/plain", b"The harvest was good."))
        await expect(uploads(chat)).to_contain_text(["report.txt"])
        await expect(uploads(chat)).to_contain_text(["21 byte"])
        await chat.say("Look")
        await expect(uploads(chat)).to_have_count(0)
        for _ in range(2):
            shown = chat.page.locator(".messages .attachments button")
            await expect(shown).to_contain_text("report.txt")
            async with chat.page.expect_download() as waiting:
                await shown.click()
            download = await waiting.value
            assert download.suggested_filename == "report.txt"
            content = await asyncio.to_thread((await download.path()).read_bytes)
            assert content == b"The harvest was good."
            await chat.page.reload()


async def test_an_image_is_shown(live_server: LiveServer, browser: Browser) -> None:
    async with new_page(browser, live_server) as chat:
        await choose(chat, ("dot.png", "image/png", PIXEL))
        await expect(uploads(chat).locator("img")).to_be_visible()
        await chat.page.get_by_label("Send").click()
        for _ in range(2):
            image = chat.page.locator(".messages .attachments").get_by_alt_text("dot.png")
            await expect(image).to_be_visible()
            assert await image.evaluate("image => image.naturalWidth") == 1
            await chat.page.reload()


@pytest.mark.parametrize("kind", ["paste", "drop"])
async def test_files_are_pasted_and_dropped(
    live_server: LiveServer, browser: Browser, kind: str
) -> None:
    async with new_page(browser, live_server) as chat:
        content = base64.b64encode(b"pasted").decode()
        await chat.page.evaluate(HAND_OVER, [kind, "note.txt", "text/plain", content])
        await expect(uploads(chat)).to_contain_text(["note.txt"])
        await expect(uploads(chat)).to_contain_text(["byte"])
        await expect(chat.page.locator(".drop-target")).to_have_count(0)
        await chat.say("Look")
        await expect(chat.page.locator(".messages .attachments")).to_contain_text("note.txt")


async def test_the_page_says_where_dragged_files_go(
    live_server: LiveServer, browser: Browser
) -> None:
    async with new_page(browser, live_server) as chat:
        await chat.page.evaluate(DRAG)
        await expect(chat.page.locator(".drop-target")).to_have_text(
            "Drop files here to add them to your message"
        )


async def test_a_refused_file_says_why_and_is_removed(browser: Browser) -> None:
    files = FilesSettings(max_file_bytes=100, per_message=2)
    async with (
        open_live_server(engine=ScriptedEngine("Title"), files=files) as live_server,
        new_page(browser, live_server) as chat,
    ):
        await choose(chat, ("big.txt", "text/plain", b"x" * 101))
        await expect(uploads(chat)).to_contain_text(["Larger than 100 byte"])
        await chat.page.get_by_label("Your message").fill("Look")
        send = chat.page.get_by_role("button", name="Send")
        await expect(send).to_have_attribute("aria-disabled", "true")
        await chat.page.get_by_role("button", name="Remove big.txt").click()
        await expect(send).to_have_attribute("aria-disabled", "false")
        await choose(chat, *((f"{name}.txt", "text/plain", b"x") for name in "abc"))
        await expect(uploads(chat).nth(2)).to_contain_text("A message can have 2 files")
        await chat.page.get_by_role("button", name="Remove a.txt").click()
        await chat.page.get_by_role("button", name="Try again: c.txt").click()
        await expect(uploads(chat).nth(1)).to_contain_text("1 byte")


async def test_a_removed_file_is_deleted_on_the_server(
    live_server: LiveServer, browser: Browser
) -> None:
    async with new_page(browser, live_server) as chat:
        await choose(chat, ("secret.txt", "text/plain", b"secret"))
        await expect(uploads(chat)).to_contain_text(["6 byte"])
        async with chat.page.expect_response(lambda it: it.request.method == "DELETE") as waiting:
            await chat.page.get_by_role("button", name="Remove secret.txt").click()
        assert (await waiting.value).ok
        left = await chat.page.evaluate("fetch('/v1/files').then((response) => response.json())")
        assert left == {"files": []}


async def test_another_reply_to_a_message_with_a_file_keeps_the_file(
    live_server: LiveServer, browser: Browser
) -> None:
    async with new_page(browser, live_server) as chat:
        await choose(chat, ("report.txt", "text/plain", b"The harvest was good."))
        await expect(uploads(chat)).to_contain_text(["21 byte"])
        await chat.say("Look")
        await chat.page.get_by_role("button", name="Write another reply").click()
        await expect(chat.page.locator(".versions")).to_contain_text("2")
        await expect(chat.page.locator(".messages .attachments")).to_contain_text("report.txt")


async def test_files_need_the_key(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_TEST", KEY)
    keys = {"web": AuthKey(secret=Secret("env:KEY_OF_TEST"))}
    async with open_live_server(engine=ScriptedEngine("Title"), keys=keys) as live_server:
        async with open_page(browser, live_server.address) as chat:
            chat.tolerate("401|403")
            await chat.page.goto(live_server.address)
            await chat.page.get_by_role("textbox", name="Key").fill(KEY)
            await chat.page.get_by_role("button", name="Continue").click()
            await choose(chat, ("dot.png", "image/png", PIXEL))
            await expect(uploads(chat)).to_contain_text(["byte"])
            await chat.page.get_by_role("button", name="Send").click()
            image = chat.page.locator(".messages .attachments").get_by_alt_text("dot.png")
            await expect(image).to_be_visible()


async def test_names_of_files_break_nothing(live_server: LiveServer, browser: Browser) -> None:
    async with new_page(browser, live_server) as chat:
        await chat.page.set_viewport_size({"width": 390, "height": 760})
        for start in range(0, len(NAMES), 5):
            names = NAMES[start : start + 5]
            await choose(chat, *((name, "text/plain", b"text") for name in names))
            await expect(chat.page.locator("#uploads progress")).to_have_count(0)
            await expect(chat.page.locator("#uploads .refused")).to_have_count(0)
            await chat.say(f"Files from {start}")
        await expect(chat.page.locator(".messages .attachments li")).to_have_count(len(NAMES))
        for element in ("html", "main"):
            overflow = "element => element.scrollWidth - element.clientWidth"
            assert await chat.page.locator(element).first.evaluate(overflow) <= 0
