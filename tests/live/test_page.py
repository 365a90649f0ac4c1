"""The page at ``/`` in a real Chromium."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect
from tests.chaos.proxy import FaultProxy
from tests.live.chromium import chromium
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.config.settings import AdmissionSettings, AuthKey, ConcurrencyPolicySettings, Secret
from palaver.skills import Skill
from palaver.testing import MemoryLedger, ScriptedEngine, ScriptedReply
from palaver.turns.turn import Turn

TIMEOUT_MILLISECONDS = 10_000.0

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def live_server() -> AsyncIterator[LiveServer]:
    async with open_live_server() as opened:
        yield opened


class ChatPage:
    """A page that records its errors and external requests."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT_MILLISECONDS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console",
            lambda line: self.errors.append(line.text) if line.type == "error" else None,
        )
        page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: self._check(request.url))

    def _check(self, url: str) -> None:
        if not url.startswith((self.address, "data:")):
            self.errors.append(f"external request {url}")

    async def open(self) -> None:
        await self.page.goto(self.address)
        await expect(self.page.get_by_label("Your message")).to_be_focused()

    async def send(self, text: str) -> None:
        await self.page.get_by_label("Your message").fill(text)
        await self.page.keyboard.press("Enter")

    async def wait_for_text(self, text: str) -> None:
        await expect(self.page.locator("#log")).to_contain_text(text)

    async def wait_until_done(self) -> None:
        await expect(self.page.get_by_label("Stop the reply")).to_be_hidden()


@asynccontextmanager
async def open_page(
    browser: Browser, address: str, context: BrowserContext | None = None
) -> AsyncIterator[ChatPage]:
    own = context or await browser.new_context()
    chat = ChatPage(await own.new_page(), address)
    yield chat
    await chat.page.close()
    if context is None:
        await own.close()
    assert chat.errors == []


async def test_a_reply_shows_its_skill_and_the_reason(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await expect(chat.page.locator("#empty-state")).to_be_visible()
        await chat.send("hello there")
        await chat.wait_for_text("hello there")
        await chat.wait_until_done()
        await expect(chat.page.locator(".reply")).to_have_text("hello there")
        await expect(chat.page.locator(".caption")).to_contain_text("Parrot")
        await expect(chat.page.locator(".caption")).to_contain_text("default answers")
        await expect(chat.page.locator("#announcement")).to_have_text("The reply is complete.")
        await expect(chat.page.locator("#empty-state")).to_be_hidden()
        await expect(chat.page.locator("#model")).to_have_text("scripted")


async def test_a_reply_is_shown_while_it_is_written_and_can_be_stopped(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/scripted go")
        live_server.scripted.emit("Once upon", end=False)
        await chat.wait_for_text("Once upon")
        live_server.scripted.emit(" a time", end=False)
        await chat.wait_for_text("Once upon a time")
        await chat.page.get_by_label("Stop the reply").click()
        await chat.wait_for_text("Stopped")
        await chat.wait_until_done()
        await chat.send("and now?")
        await chat.wait_for_text("and now?")


async def test_waiting_messages_show_their_position(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/scripted go")
        await chat.send("first")
        await chat.send("second")
        await chat.wait_for_text("Waiting: one message comes first")
        await chat.wait_for_text("Waiting: 2 messages come first")
        live_server.scripted.emit("done")
        await chat.wait_until_done()
        await expect(chat.page.locator(".turn")).to_have_count(3)


class GeneratingSkill(Skill):
    """Stream the engine's reply to the message."""

    name = "generating"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text)


async def test_a_turn_that_waits_for_the_model_shows_its_queue_position(browser: Browser) -> None:
    engine = ScriptedEngine(lambda _: ScriptedReply(text="a thought", pause_after=1))
    async with (
        open_live_server(
            engine=engine,
            skills=(GeneratingSkill(),),
            admission=AdmissionSettings(max_generations=1),
        ) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        for thread in ("runs", "waits"):
            path = f"/v1/conversations/{thread}/messages"
            assert (await live_server.post(path, {"text": f"/generating {thread}"}))[0] == 202
        await chat.open()
        await chat.send("/generating and I?")
        await chat.wait_for_text("In the queue: one more comes first")
        engine.resume()
        await chat.wait_for_text("a thought")
        await chat.wait_until_done()
        await expect(chat.page.locator("#log")).not_to_contain_text("In the queue")


async def test_steering_messages_are_shown_with_the_turn_that_has_them(browser: Browser) -> None:
    steering = ConcurrencyPolicySettings(skills={"scripted": "steer"})
    async with (
        open_live_server(concurrency_policy=steering) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        await chat.send("/scripted go")
        live_server.scripted.emit("On and", end=False)
        await chat.wait_for_text("On and")
        await chat.send("to the left")
        await expect(chat.page.locator(".turn:first-child .message")).to_have_count(2)
        await expect(chat.page.locator("#unsent")).to_have_count(0)
        await chat.page.evaluate(COUNT_ANNOUNCEMENTS)
        live_server.scripted.emit(" on")  # it takes no steering message
        await chat.wait_until_done()
        await expect(chat.page.locator(".turn")).to_have_count(2)
        await expect(chat.page.locator(".turn:first-child .message")).to_have_text("/scripted go")
        await expect(chat.page.locator(".turn:last-child .reply")).to_have_text("to the left")
        assert await chat.page.evaluate("window.announcements") == 2  # one for each reply
        await chat.page.reload()
        await expect(chat.page.locator(".message")).to_have_text(["/scripted go", "to the left"])


COUNT_ANNOUNCEMENTS = """
window.announcements = 0;
new MutationObserver((records) => (window.announcements += records.length)).observe(
  document.getElementById("announcement"), { childList: true }
);
"""


async def test_a_reload_shows_the_same_conversation(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/scholar leave?")
        await chat.wait_until_done()
        await chat.send("/scripted go")
        live_server.scripted.emit("Before ", end=False)
        await chat.wait_for_text("Before")
        await chat.page.reload()
        await chat.wait_for_text("You have 30 days of leave")
        await chat.wait_for_text("Before")
        await expect(chat.page.locator(".sources summary")).to_contain_text("The Handbook")
        live_server.scripted.emit("and after")
        await chat.wait_for_text("Before and after")
        await chat.wait_until_done()


async def test_an_old_conversation_is_rendered_from_the_snapshot(browser: Browser) -> None:
    async with (
        open_live_server(ledger=MemoryLedger(events_kept=2)) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        await chat.send("one two")
        await chat.wait_until_done()
        await chat.send("/scripted go")
        live_server.scripted.emit("So far ", end=False)
        await chat.wait_for_text("So far")
        await chat.page.reload()
        await chat.wait_for_text("one two")
        await chat.wait_for_text("So far")
        live_server.scripted.emit("so good")
        await chat.wait_for_text("So far so good")


async def test_a_broken_connection_loses_and_repeats_nothing(
    live_server: LiveServer, browser: Browser
) -> None:
    async with (
        FaultProxy(live_server.address) as proxy,
        open_page(browser, proxy.address) as chat,
    ):
        await chat.open()
        await chat.send("/scripted go")
        for number in range(4):
            live_server.scripted.emit(f"part {number} 😀 ", end=False)
            await chat.wait_for_text(f"part {number}")
            proxy.disconnect_all()
            live_server.scripted.emit(f"hidden {number} ", end=False)
            await chat.wait_for_text(f"hidden {number}")
        live_server.scripted.emit("end")
        await chat.wait_until_done()
        expected = "".join(f"part {n} 😀 hidden {n} " for n in range(4)) + "end"
        await expect(chat.page.locator(".reply")).to_have_text(expected)
        chat.errors = [p for p in chat.errors if "WebSocket connection" not in p]


async def test_a_browsers_event_source_reconnects_and_misses_nothing(
    live_server: LiveServer, browser: Browser
) -> None:
    async with (
        FaultProxy(live_server.address) as proxy,
        open_page(browser, proxy.address) as chat,
    ):
        await chat.open()
        await chat.page.evaluate(EVENT_SOURCE)
        await chat.page.evaluate(POST_MESSAGE)
        expected = ""
        for number in range(3):
            for word in ("shown", "hidden"):
                expected += f"{word} {number} 😀 "
                live_server.scripted.emit(f"{word} {number} 😀 ", end=False)
                await chat.page.wait_for_function(
                    "text => window.conversation.turns[0]?.text === text", arg=expected
                )
                proxy.disconnect_all()
        live_server.scripted.emit("end")
        await chat.page.wait_for_function("() => window.conversation.turns[0].state === 'done'")
        assert await chat.page.evaluate("window.conversation.turns[0].text") == expected + "end"
        assert await chat.page.evaluate("window.recovered") == [True] * 7
        chat.errors = [p for p in chat.errors if "net::ERR" not in p]
        chat.errors = [p for p in chat.errors if "WebSocket connection" not in p]


POST_MESSAGE = """
() => fetch("/v1/conversations/stream/messages", {
  method: "POST",
  body: JSON.stringify({ text: "/scripted go" }),
})
"""
EVENT_SOURCE = """
async () => {
  const { ConversationState } = await import("/static/palaver-client.js");
  window.conversation = new ConversationState();
  window.recovered = [];
  const source = new EventSource("/v1/conversations/stream/events?since=start");
  source.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.type === "welcome") window.recovered.push(frame.recovered);
    else window.conversation.apply(frame);
  };
  await new Promise((resolve) => (source.onopen = resolve));
}
"""


async def test_a_server_restart_shows_no_notice(browser: Browser) -> None:
    """Another replica continues the reply, and the page shows no notice."""
    ledger = MemoryLedger()
    async with (
        AsyncExitStack() as stack,
        FaultProxy(CLOSED_PORT) as proxy,
        open_page(browser, proxy.address) as chat,
    ):
        async with open_live_server(ledger=ledger) as first:
            proxy.target = first.address
            await chat.open()
            await chat.send("/scripted go")
            first.scripted.emit("Before ", end=False)
            await chat.wait_for_text("Before")
            await chat.page.evaluate(WATCH_CONNECTION)
            second = await stack.enter_async_context(open_live_server(ledger=ledger))
            proxy.target = second.address
        second.scripted.emit("Before ", "and after")
        await chat.wait_for_text("Before and after")
        await chat.wait_until_done()
        assert await chat.page.evaluate("window.connectionWords") == []


CLOSED_PORT = "http://127.0.0.1:9"
WATCH_CONNECTION = """
window.connectionWords = [];
new MutationObserver(() => {
  const words = document.getElementById("connection").textContent;
  if (words) window.connectionWords.push(words);
}).observe(document.getElementById("connection"), { childList: true });
"""


async def test_a_message_written_without_a_connection_is_sent_later_and_once(
    live_server: LiveServer, browser: Browser
) -> None:
    async with (
        FaultProxy(live_server.address) as proxy,
        open_page(browser, proxy.address) as chat,
    ):
        await chat.open()
        await chat.send("first")
        await chat.wait_until_done()
        proxy.refuses_connections = True
        proxy.disconnect_all()
        await chat.send("written in a tunnel")
        await expect(chat.page.locator("#unsent")).to_contain_text("Sending…")
        await expect(chat.page.locator("#connection")).to_contain_text("connection is lost")
        proxy.refuses_connections = False
        await expect(chat.page.locator("#unsent")).to_have_count(0)
        await chat.wait_for_text("written in a tunnel")
        await expect(chat.page.locator(".turn")).to_have_count(2)
        await expect(chat.page.locator("#connection")).to_be_hidden()
        chat.errors = [p for p in chat.errors if "WebSocket connection" not in p]


async def test_markdown_is_shown_and_html_is_inert(
    live_server: LiveServer, browser: Browser
) -> None:
    evil = (
        "# Title\n\n**bold** *it* `code` [ok](https://a.example) [bad](javascript:alert(1)) "
        "<img src=x onerror=alert(1)> <script>alert(2)</script>\n\n"
        "- one\n- two\n  1. deep\n\n```html\n<b onclick=alert(3)>x</b>\n```\n\n"
        "| a | b |\n| --- | --- |\n| 1 | <i>2</i> |\n\n> quoted\n\n"
        "[x](data:text/html,<script>alert(4)</script>) https://b.example/path."
    )
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/scripted go")
        for letter in evil:
            live_server.scripted.emit(letter, end=False)
        live_server.scripted.emit()
        await chat.wait_until_done()
        reply = chat.page.locator(".reply")
        for tag, count in {
            "h3": 1, "strong": 1, "em": 1, "ul > li": 2, "ol > li": 1, "blockquote": 1, "td": 2,
            "figure code": 1, "a": 2, "img": 0, "script": 0, "i": 0, "b": 0, "iframe": 0,
        }.items():  # fmt: skip
            await expect(reply.locator(tag), tag).to_have_count(count)
        links = await reply.locator("a").evaluate_all("all => all.map(a => [a.href, a.rel])")
        assert links == [
            ["https://a.example/", "noopener noreferrer"],
            ["https://b.example/path", "noopener noreferrer"],
        ]
        await expect(reply).to_contain_text("<img src=x onerror=alert(1)>")
        await expect(reply.locator("figcaption")).to_contain_text("html")


async def test_a_persons_text_is_inert_too(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("<img src=x onerror=alert(1)> **not bold**")
        await chat.wait_until_done()
        await expect(chat.page.locator(".message")).to_have_text(
            "<img src=x onerror=alert(1)> **not bold**"
        )
        await expect(chat.page.locator("#log img")).to_have_count(0)


async def test_everything_works_with_the_keyboard_alone(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        press, type_ = chat.page.keyboard.press, chat.page.keyboard.type
        await expect(chat.page.locator("#skills button")).to_have_count(5)
        await type_("/")
        await expect(chat.page.get_by_role("option", selected=True)).to_contain_text("/clumsy")
        await press("ArrowDown")
        await expect(chat.page.get_by_role("option", selected=True)).to_contain_text("/parrot")
        await press("Escape")
        await expect(chat.page.get_by_role("listbox", name="Skills")).to_be_hidden()
        await press("Backspace")
        await type_("/wai")
        await press("Tab")
        await expect(chat.page.get_by_label("Your message")).to_have_value("/waiter ")
        await type_("a drink")
        await press("Shift+Enter")
        await type_("please")
        await press("Enter")
        await chat.wait_until_done()
        await expect(chat.page.locator(".message")).to_have_text("/waiter a drink\nplease")
        await chat.page.get_by_role("button", name="coffee").focus()
        await press("Enter")
        await chat.wait_for_text("One coffee, please.")
        await expect(chat.page.get_by_label("Your message")).to_be_focused()
        await type_("/scripted go")
        await press("Enter")
        await expect(chat.page.get_by_label("Stop the reply")).to_be_visible()
        await press("Escape")
        await chat.wait_for_text("Stopped")


async def test_a_source_opens_from_its_citation(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/scholar leave?")
        await chat.page.get_by_role("button", name="Source 1: The Handbook").click()
        source = chat.page.locator(".sources details")
        await expect(source).to_have_attribute("open", "")
        await expect(source.locator("summary")).to_contain_text("The Handbook › Leave")
        await expect(source.locator("div")).to_contain_text("Everyone has 30 days")
        await expect(source.locator("cite")).to_have_text("handbook.md")
        attachment = chat.page.get_by_role("link", name="leave.txt")
        await expect(attachment).to_have_attribute("download", "leave.txt")


async def test_two_tabs_show_the_same_conversation(
    live_server: LiveServer, browser: Browser
) -> None:
    context = await browser.new_context()
    async with (
        open_page(browser, live_server.address, context) as one,
        open_page(browser, live_server.address, context) as two,
    ):
        await one.open()
        await two.open()
        await one.send("from the first")
        await two.wait_for_text("from the first")
        await two.send("from the second")
        await one.wait_for_text("from the second")
        await one.wait_until_done()
        for chat in (one, two):
            await expect(chat.page.locator(".turn")).to_have_count(2)
    await context.close()


async def test_a_new_conversation_is_empty(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("the old one")
        await chat.wait_until_done()
        await chat.page.get_by_role("button", name="New conversation").click()
        await expect(chat.page.locator("#empty-state")).to_be_visible()
        await expect(chat.page.locator(".turn")).to_have_count(0)
        await chat.page.reload()
        await expect(chat.page.locator("#empty-state")).to_be_visible()


async def test_problems_are_shown_as_sentences(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/clumsy go")
        await chat.wait_for_text("The skill could not finish its answer.")
        await expect(chat.page.get_by_role("button", name="Try again")).to_be_visible()
        await chat.send("x" * 1_100_000)
        await expect(chat.page.locator("#unsent")).to_contain_text("too long to send")
        await chat.page.get_by_role("button", name="Edit").click()
        await expect(chat.page.locator("#unsent")).to_have_count(0)


async def test_a_server_with_keys_asks_for_one(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGE_KEY", "open sesame, please")
    keys = {"ada": AuthKey(secret=Secret("env:PAGE_KEY"), person="ada")}
    async with (
        open_live_server(keys=keys) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.page.goto(live_server.address)
        field = chat.page.get_by_label("Key", exact=True)
        await field.fill("wrong")
        await chat.page.keyboard.press("Enter")
        await expect(chat.page.locator("#key-title")).to_contain_text("not known")
        await field.fill("open sesame, please")
        await chat.page.keyboard.press("Enter")
        await chat.send("hello")
        await chat.wait_until_done()
        await chat.wait_for_text("hello")
        await chat.page.reload()
        await chat.wait_for_text("hello")
        # The refused requests are what this test is about.
        chat.errors = [p for p in chat.errors if "401" not in p]


EXPORT = """
async () => {
  const headers = { Authorization: "Bearer open sesame, please" };
  return (await fetch("/v1/export", { headers })).json();
}
"""


async def test_two_browsers_with_one_key_are_two_persons(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGE_KEY", "open sesame, please")
    keys = {"open": AuthKey(secret=Secret("env:PAGE_KEY"), rights=("talk", "read", "export"))}
    async with (
        open_live_server(keys=keys) as live_server,
        open_page(browser, live_server.address) as one,
        open_page(browser, live_server.address) as two,
    ):
        exports = []
        for number, chat in enumerate((one, two)):
            await chat.page.goto(live_server.address)
            await chat.page.get_by_label("Key", exact=True).fill("open sesame, please")
            await chat.page.keyboard.press("Enter")
            await chat.send(f"secret {number}")
            await chat.wait_until_done()
            await chat.page.reload()
            await chat.wait_for_text(f"secret {number}")
            exports.append(await chat.page.evaluate(EXPORT))
            assert await chat.page.evaluate("document.cookie") == ""
            chat.errors = [p for p in chat.errors if "401" not in p]
    assert exports[0]["person"] != exports[1]["person"]
    for number, exported in enumerate(exports):
        assert f"secret {number}" in str(exported)
        assert f"secret {1 - number}" not in str(exported)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (360, 640)])
async def test_nothing_is_wider_than_the_screen(
    live_server: LiveServer, browser: Browser, width: int, height: int
) -> None:
    context = await browser.new_context(viewport={"width": width, "height": height})
    async with open_page(browser, live_server.address, context) as chat:
        await chat.open()
        await chat.send("/scripted go")
        live_server.scripted.emit("w" * 500, "\n\n```\n" + "c" * 500 + "\n```\n\n|a|b|\n|-|-|\n|")
        live_server.scripted.emit("t" * 500 + "|x|")
        await chat.wait_until_done()
        overflow = await chat.page.evaluate(
            "[document.documentElement, document.getElementById('main')]"
            ".map(node => node.scrollWidth - node.clientWidth)"
        )
        assert overflow == [0, 0]
    await context.close()


async def test_controls_have_names_and_text_has_contrast(
    live_server: LiveServer, browser: Browser
) -> None:
    """Check names and contrast (WCAG AA) in the light and the dark scheme."""
    for scheme in ("light", "dark"):
        context = await browser.new_context(color_scheme=scheme)
        async with open_page(browser, live_server.address, context) as chat:
            await chat.open()
            await chat.send("/scholar leave?")
            await chat.page.get_by_role("button", name="Source 1").wait_for()
            unnamed = await chat.page.evaluate(UNNAMED_CONTROLS)
            assert unnamed == []
            low_contrast = await chat.page.evaluate(LOW_CONTRAST)
            assert low_contrast == []
        await context.close()


UNNAMED_CONTROLS = """
[...document.querySelectorAll('button, input, textarea, a, summary')]
  .filter(node => !(node.ariaLabel || node.textContent.trim() || node.labels?.length))
  .map(node => node.outerHTML)
"""

LOW_CONTRAST = """
(() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const light = ([r, g, b]) => {
    const part = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const lowContrast = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
    if (!own || !node.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) lowContrast.push([node.outerHTML.slice(0, 80), ratio]);
  }
  return lowContrast;
})()
"""
