"""The page at ``/`` in a real Chromium."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect
from tests.chaos.proxy import CuttingProxy
from tests.live.chromium import chromium
from tests.server.web.house import House, open_house

from palaver.config.settings import AdmissionSettings, AuthKey, ConcurrencyPolicySettings, Secret
from palaver.skills import Skill
from palaver.testing import MemoryLedger, ScriptedEngine, ScriptedReply
from palaver.turns.turn import Turn

PATIENCE = 10_000.0  # ms

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def house() -> AsyncIterator[House]:
    async with open_house() as opened:
        yield opened


class Visitor:
    """A page that watches itself: what it logs as an error, and where it connects to."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.problems: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on(
            "console",
            lambda line: self.problems.append(line.text) if line.type == "error" else None,
        )
        page.on("dialog", lambda dialog: self.problems.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: self._check(request.url))

    def _check(self, url: str) -> None:
        if not url.startswith((self.address, "data:")):
            self.problems.append(f"external request {url}")

    async def open(self) -> None:
        await self.page.goto(self.address)
        await expect(self.page.get_by_label("Your message")).to_be_focused()

    async def say(self, text: str) -> None:
        await self.page.get_by_label("Your message").fill(text)
        await self.page.keyboard.press("Enter")

    async def sees(self, text: str) -> None:
        await expect(self.page.locator("#log")).to_contain_text(text)

    async def is_done(self) -> None:
        await expect(self.page.get_by_label("Stop the reply")).to_be_hidden()


@asynccontextmanager
async def visiting(
    browser: Browser, address: str, context: BrowserContext | None = None
) -> AsyncIterator[Visitor]:
    own = context or await browser.new_context()
    visitor = Visitor(await own.new_page(), address)
    yield visitor
    await visitor.page.close()
    if context is None:
        await own.close()
    assert visitor.problems == []


async def test_talk_and_see_who_answered_and_why(house: House, browser: Browser) -> None:
    async with visiting(browser, house.address) as visitor:
        await visitor.open()
        await expect(visitor.page.locator("#empty")).to_be_visible()
        await visitor.say("hello there")
        await visitor.sees("hello there")
        await visitor.is_done()
        await expect(visitor.page.locator(".reply")).to_have_text("hello there")
        await expect(visitor.page.locator(".caption")).to_contain_text("Parrot")
        await expect(visitor.page.locator(".caption")).to_contain_text("default answers")
        await expect(visitor.page.locator("#announcement")).to_have_text("The reply is complete.")
        await expect(visitor.page.locator("#empty")).to_be_hidden()
        await expect(visitor.page.locator("#model")).to_have_text("scripted")


async def test_a_reply_is_shown_while_it_is_written_and_can_be_stopped(
    house: House, browser: Browser
) -> None:
    async with visiting(browser, house.address) as visitor:
        await visitor.open()
        await visitor.say("/teller go")
        house.teller.tell("Once upon", end=False)
        await visitor.sees("Once upon")
        house.teller.tell(" a time", end=False)
        await visitor.sees("Once upon a time")
        await visitor.page.get_by_label("Stop the reply").click()
        await visitor.sees("Stopped")
        await visitor.is_done()
        await visitor.say("and now?")
        await visitor.sees("and now?")


async def test_waiting_messages_show_their_place(house: House, browser: Browser) -> None:
    async with visiting(browser, house.address) as visitor:
        await visitor.open()
        await visitor.say("/teller go")
        await visitor.say("first")
        await visitor.say("second")
        await visitor.sees("Waiting: one message comes first")
        await visitor.sees("Waiting: 2 messages come first")
        house.teller.tell("done")
        await visitor.is_done()
        await expect(visitor.page.locator(".turn")).to_have_count(3)


class Thinker(Skill):
    """Say what the engine says."""

    name = "thinker"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text)


async def test_who_waits_for_the_model_sees_how_many_come_first(browser: Browser) -> None:
    engine = ScriptedEngine(lambda _: ScriptedReply(text="a thought", pause_after=1))
    async with (
        open_house(
            engine=engine, skills=(Thinker(),), admission=AdmissionSettings(max_generations=1)
        ) as house,
        visiting(browser, house.address) as visitor,
    ):
        for thread in ("runs", "waits"):
            path = f"/v1/conversations/{thread}/messages"
            assert (await house.post(path, {"text": f"/thinker {thread}"}))[0] == 202
        await visitor.open()
        await visitor.say("/thinker and I?")
        await visitor.sees("In line: one more comes first")
        engine.resume()
        await visitor.sees("a thought")
        await visitor.is_done()
        await expect(visitor.page.locator("#log")).not_to_contain_text("In line")


async def test_messages_that_are_answered_together_are_shown_together(browser: Browser) -> None:
    steering = ConcurrencyPolicySettings(skills={"teller": "steer"})
    async with (
        open_house(concurrency_policy=steering) as house,
        visiting(browser, house.address) as visitor,
    ):
        await visitor.open()
        await visitor.say("/teller go")
        house.teller.tell("On and", end=False)
        await visitor.sees("On and")
        await visitor.say("to the left")
        await expect(visitor.page.locator(".turn:first-child .asked")).to_have_count(2)
        await expect(visitor.page.locator("#unsent")).to_have_count(0)
        house.teller.tell(" on")  # it has taken nothing
        await visitor.is_done()
        await expect(visitor.page.locator(".turn")).to_have_count(2)
        await expect(visitor.page.locator(".turn:first-child .asked")).to_have_text("/teller go")
        await expect(visitor.page.locator(".turn:last-child .reply")).to_have_text("to the left")
        await visitor.page.reload()
        await expect(visitor.page.locator(".asked")).to_have_text(["/teller go", "to the left"])


async def test_a_reload_shows_the_same_conversation(house: House, browser: Browser) -> None:
    async with visiting(browser, house.address) as visitor:
        await visitor.open()
        await visitor.say("/scholar leave?")
        await visitor.is_done()
        await visitor.say("/teller go")
        house.teller.tell("Before ", end=False)
        await visitor.sees("Before")
        await visitor.page.reload()
        await visitor.sees("You have 30 days of leave")
        await visitor.sees("Before")
        await expect(visitor.page.locator(".sources summary")).to_contain_text("The Handbook")
        house.teller.tell("and after")
        await visitor.sees("Before and after")
        await visitor.is_done()


async def test_an_old_conversation_is_drawn_from_the_snapshot(browser: Browser) -> None:
    async with (
        open_house(ledger=MemoryLedger(events_kept=2)) as house,
        visiting(browser, house.address) as visitor,
    ):
        await visitor.open()
        await visitor.say("one two")
        await visitor.is_done()
        await visitor.say("/teller go")
        house.teller.tell("So far ", end=False)
        await visitor.sees("So far")
        await visitor.page.reload()
        await visitor.sees("one two")
        await visitor.sees("So far")
        house.teller.tell("so good")
        await visitor.sees("So far so good")


async def test_a_cut_connection_loses_and_doubles_nothing(house: House, browser: Browser) -> None:
    async with CuttingProxy(house.address) as proxy, visiting(browser, proxy.address) as visitor:
        await visitor.open()
        await visitor.say("/teller go")
        for number in range(4):
            house.teller.tell(f"part {number} 😀 ", end=False)
            await visitor.sees(f"part {number}")
            proxy.cut()
            house.teller.tell(f"hidden {number} ", end=False)
            await visitor.sees(f"hidden {number}")
        house.teller.tell("end")
        await visitor.is_done()
        expected = "".join(f"part {n} 😀 hidden {n} " for n in range(4)) + "end"
        await expect(visitor.page.locator(".reply")).to_have_text(expected)
        visitor.problems = [p for p in visitor.problems if "WebSocket connection" not in p]


async def test_a_browsers_own_event_source_comes_back_and_misses_nothing(
    house: House, browser: Browser
) -> None:
    async with CuttingProxy(house.address) as proxy, visiting(browser, proxy.address) as visitor:
        await visitor.open()
        await visitor.page.evaluate(EVENT_SOURCE)
        await house.post("/v1/conversations/feed/messages?person=ada", {"text": "/teller go"})
        expected = ""
        for number in range(3):
            for word in ("shown", "hidden"):
                expected += f"{word} {number} 😀 "
                house.teller.tell(f"{word} {number} 😀 ", end=False)
                await visitor.page.wait_for_function(
                    "text => window.feed.turns[0]?.text === text", arg=expected
                )
                proxy.cut()
        house.teller.tell("end")
        await visitor.page.wait_for_function("() => window.feed.turns[0].state === 'done'")
        assert await visitor.page.evaluate("window.feed.turns[0].text") == expected + "end"
        assert await visitor.page.evaluate("window.recovered") == [True] * 7
        visitor.problems = [p for p in visitor.problems if "net::ERR" not in p]
        visitor.problems = [p for p in visitor.problems if "WebSocket connection" not in p]


EVENT_SOURCE = """
async () => {
  const { Transcript } = await import("/static/palaver-client.js");
  window.feed = new Transcript();
  window.recovered = [];
  const source = new EventSource("/v1/conversations/feed/events?person=ada&since=start");
  source.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.type === "welcome") window.recovered.push(frame.recovered);
    else window.feed.apply(frame);
  };
  await new Promise((resolve) => (source.onopen = resolve));
}
"""


async def test_a_server_that_restarts_is_hardly_noticed(browser: Browser) -> None:
    """Another replica goes on with the reply, and the page says nothing about it."""
    ledger = MemoryLedger()
    async with (
        AsyncExitStack() as stack,
        CuttingProxy(NOWHERE) as proxy,
        visiting(browser, proxy.address) as visitor,
    ):
        async with open_house(ledger=ledger) as first:
            proxy.target = first.address
            await visitor.open()
            await visitor.say("/teller go")
            first.teller.tell("Before ", end=False)
            await visitor.sees("Before")
            await visitor.page.evaluate(WATCH_CONNECTION)
            second = await stack.enter_async_context(open_house(ledger=ledger))
            proxy.target = second.address
        second.teller.tell("Before ", "and after")
        await visitor.sees("Before and after")
        await visitor.is_done()
        assert await visitor.page.evaluate("window.connectionWords") == []


NOWHERE = "http://127.0.0.1:9"
WATCH_CONNECTION = """
window.connectionWords = [];
new MutationObserver(() => {
  const words = document.getElementById("connection").textContent;
  if (words) window.connectionWords.push(words);
}).observe(document.getElementById("connection"), { childList: true });
"""


async def test_a_message_written_without_a_connection_is_sent_later_and_once(
    house: House, browser: Browser
) -> None:
    async with CuttingProxy(house.address) as proxy, visiting(browser, proxy.address) as visitor:
        await visitor.open()
        await visitor.say("first")
        await visitor.is_done()
        proxy.refuse = True
        proxy.cut()
        await visitor.say("written in a tunnel")
        await expect(visitor.page.locator("#unsent")).to_contain_text("Sending…")
        await expect(visitor.page.locator("#connection")).to_contain_text("connection is lost")
        proxy.refuse = False
        await expect(visitor.page.locator("#unsent")).to_have_count(0)
        await visitor.sees("written in a tunnel")
        await expect(visitor.page.locator(".turn")).to_have_count(2)
        await expect(visitor.page.locator("#connection")).to_be_hidden()
        visitor.problems = [p for p in visitor.problems if "WebSocket connection" not in p]


async def test_markdown_is_shown_and_html_is_inert(house: House, browser: Browser) -> None:
    evil = (
        "# Title\n\n**bold** *it* `code` [ok](https://a.example) [bad](javascript:alert(1)) "
        "<img src=x onerror=alert(1)> <script>alert(2)</script>\n\n"
        "- one\n- two\n  1. deep\n\n```html\n<b onclick=alert(3)>x</b>\n```\n\n"
        "| a | b |\n| --- | --- |\n| 1 | <i>2</i> |\n\n> quoted\n\n"
        "[x](data:text/html,<script>alert(4)</script>) https://b.example/path."
    )
    async with visiting(browser, house.address) as visitor:
        await visitor.open()
        await visitor.say("/teller go")
        for letter in evil:
            house.teller.tell(letter, end=False)
        house.teller.tell()
        await visitor.is_done()
        reply = visitor.page.locator(".reply")
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


async def test_what_a_person_writes_is_inert_too(house: House, browser: Browser) -> None:
    async with visiting(browser, house.address) as visitor:
        await visitor.open()
        await visitor.say("<img src=x onerror=alert(1)> **not bold**")
        await visitor.is_done()
        await expect(visitor.page.locator(".asked")).to_have_text(
            "<img src=x onerror=alert(1)> **not bold**"
        )
        await expect(visitor.page.locator("#log img")).to_have_count(0)


async def test_everything_works_with_the_keyboard_alone(house: House, browser: Browser) -> None:
    async with visiting(browser, house.address) as visitor:
        await visitor.open()
        press, type_ = visitor.page.keyboard.press, visitor.page.keyboard.type
        await expect(visitor.page.locator("#skills button")).to_have_count(5)
        await type_("/")
        await expect(visitor.page.get_by_role("option", selected=True)).to_contain_text("/clumsy")
        await press("ArrowDown")
        await expect(visitor.page.get_by_role("option", selected=True)).to_contain_text("/parrot")
        await press("Escape")
        await expect(visitor.page.get_by_role("listbox", name="Skills")).to_be_hidden()
        await press("Backspace")
        await type_("/wai")
        await press("Tab")
        await expect(visitor.page.get_by_label("Your message")).to_have_value("/waiter ")
        await type_("a drink")
        await press("Shift+Enter")
        await type_("please")
        await press("Enter")
        await visitor.is_done()
        await expect(visitor.page.locator(".asked")).to_have_text("/waiter a drink\nplease")
        await visitor.page.get_by_role("button", name="coffee").focus()
        await press("Enter")
        await visitor.sees("One coffee, please.")
        await expect(visitor.page.get_by_label("Your message")).to_be_focused()
        await type_("/teller go")
        await press("Enter")
        await expect(visitor.page.get_by_label("Stop the reply")).to_be_visible()
        await press("Escape")
        await visitor.sees("Stopped")


async def test_a_source_opens_from_its_mark(house: House, browser: Browser) -> None:
    async with visiting(browser, house.address) as visitor:
        await visitor.open()
        await visitor.say("/scholar leave?")
        await visitor.page.get_by_role("button", name="Source 1: The Handbook").click()
        source = visitor.page.locator(".sources details")
        await expect(source).to_have_attribute("open", "")
        await expect(source.locator("summary")).to_contain_text("The Handbook › Leave")
        await expect(source.locator("div")).to_contain_text("Everyone has 30 days")
        await expect(source.locator("cite")).to_have_text("handbook.md")
        attachment = visitor.page.get_by_role("link", name="leave.txt")
        await expect(attachment).to_have_attribute("download", "leave.txt")


async def test_two_tabs_show_the_same_conversation(house: House, browser: Browser) -> None:
    context = await browser.new_context()
    async with (
        visiting(browser, house.address, context) as one,
        visiting(browser, house.address, context) as two,
    ):
        await one.open()
        await two.open()
        await one.say("from the first")
        await two.sees("from the first")
        await two.say("from the second")
        await one.sees("from the second")
        await one.is_done()
        for visitor in (one, two):
            await expect(visitor.page.locator(".turn")).to_have_count(2)
    await context.close()


async def test_a_new_conversation_is_empty_and_the_old_one_is_left(
    house: House, browser: Browser
) -> None:
    async with visiting(browser, house.address) as visitor:
        await visitor.open()
        await visitor.say("the old one")
        await visitor.is_done()
        await visitor.page.get_by_role("button", name="New conversation").click()
        await expect(visitor.page.locator("#empty")).to_be_visible()
        await expect(visitor.page.locator(".turn")).to_have_count(0)
        await visitor.page.reload()
        await expect(visitor.page.locator("#empty")).to_be_visible()


async def test_what_goes_wrong_is_said_in_words(house: House, browser: Browser) -> None:
    async with visiting(browser, house.address) as visitor:
        await visitor.open()
        await visitor.say("/clumsy go")
        await visitor.sees("The skill could not finish its answer.")
        await expect(visitor.page.get_by_role("button", name="Try again")).to_be_visible()
        await visitor.say("x" * 1_100_000)
        await expect(visitor.page.locator("#unsent")).to_contain_text("too long to send")
        await visitor.page.get_by_role("button", name="Edit").click()
        await expect(visitor.page.locator("#unsent")).to_have_count(0)


async def test_a_server_with_keys_asks_for_one(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGE_KEY", "open sesame")
    keys = {"ada": AuthKey(secret=Secret("env:PAGE_KEY"), person="ada")}
    async with open_house(keys=keys) as house, visiting(browser, house.address) as visitor:
        await visitor.page.goto(house.address)
        field = visitor.page.get_by_label("Key", exact=True)
        await field.fill("wrong")
        await visitor.page.keyboard.press("Enter")
        await expect(visitor.page.locator("#key-title")).to_contain_text("not known")
        await field.fill("open sesame")
        await visitor.page.keyboard.press("Enter")
        await visitor.say("hello")
        await visitor.is_done()
        await visitor.sees("hello")
        await visitor.page.reload()
        await visitor.sees("hello")
        # The refused requests are what this test is about.
        visitor.problems = [p for p in visitor.problems if "401" not in p]


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (360, 640)])
async def test_nothing_is_wider_than_the_screen(
    house: House, browser: Browser, width: int, height: int
) -> None:
    context = await browser.new_context(viewport={"width": width, "height": height})
    async with visiting(browser, house.address, context) as visitor:
        await visitor.open()
        await visitor.say("/teller go")
        house.teller.tell("w" * 500, "\n\n```\n" + "c" * 500 + "\n```\n\n|a|b|\n|-|-|\n|")
        house.teller.tell("t" * 500 + "|x|")
        await visitor.is_done()
        overflow = await visitor.page.evaluate(
            "[document.documentElement, document.getElementById('main')]"
            ".map(node => node.scrollWidth - node.clientWidth)"
        )
        assert overflow == [0, 0]
    await context.close()


async def test_the_page_keeps_to_the_rules_of_contrast_and_names(
    house: House, browser: Browser
) -> None:
    """Every control has a name, and text stands out from its ground (WCAG AA), light and dark."""
    for scheme in ("light", "dark"):
        context = await browser.new_context(color_scheme=scheme)
        async with visiting(browser, house.address, context) as visitor:
            await visitor.open()
            await visitor.say("/scholar leave?")
            await visitor.page.get_by_role("button", name="Source 1").wait_for()
            nameless = await visitor.page.evaluate(NAMELESS)
            assert nameless == []
            faint = await visitor.page.evaluate(FAINT)
            assert faint == []
        await context.close()


NAMELESS = """
[...document.querySelectorAll('button, input, textarea, a, summary')]
  .filter(node => !(node.ariaLabel || node.textContent.trim() || node.labels?.length))
  .map(node => node.outerHTML)
"""

FAINT = """
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
  const faint = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
    if (!own || !node.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push([node.outerHTML.slice(0, 80), ratio]);
  }
  return faint;
})()
"""
