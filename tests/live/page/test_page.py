"""The page at ``/`` in a real Chromium: talking, stopping, reconnecting."""

from contextlib import AsyncExitStack

import pytest
from playwright.async_api import Browser, expect
from tests.chaos.proxy import FaultProxy
from tests.live.page.chat_page import ChatPage, open_page
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.config.settings import AdmissionSettings, AuthKey, ConcurrencyPolicySettings, Secret
from palaver.errors import (
    EngineTimeout,
    EngineUnavailable,
    LimitExceeded,
    PalaverError,
    PromptTooLong,
    SkillError,
)
from palaver.skills import Skill
from palaver.testing import MemoryLedger, ScriptedEngine, ScriptedReply
from palaver.tools import tool
from palaver.turns.turn import Turn

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


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
        why = chat.page.locator(".why")
        await expect(why.get_by_text("default answers")).to_be_hidden()
        await why.get_by_text("why?").click()
        await expect(why.get_by_text("default answers")).to_be_visible()
        await expect(chat.page.locator("#announcement")).to_have_text("The reply is complete.")
        await expect(chat.page.locator("#empty-state")).to_be_hidden()
        await expect(chat.page.locator("#model")).to_have_text("scripted")


class GreetingSkill(Skill):
    """Greet."""

    name = "greeting"
    prompts = ("Greet Ada.", "Greet Grace.")

    async def answer(self, turn: Turn) -> None:
        await turn.say("Hello!")


async def test_an_empty_conversation_offers_messages_to_begin_with(browser: Browser) -> None:
    async with (
        open_live_server(skills=(GreetingSkill(),)) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        prompts = chat.page.get_by_role("list", name="Suggestions")
        await expect(prompts.get_by_role("button")).to_have_text(list(GreetingSkill.prompts))
        await prompts.get_by_role("button").last.click()
        await expect(chat.page.locator(".message")).to_have_text("Greet Grace.")
        await expect(prompts).to_have_count(0)


@pytest.mark.firefox
async def test_a_reply_is_shown_while_it_is_written_and_can_be_stopped(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.begin_reply(live_server, "Once upon")
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
        await chat.begin_reply(live_server, "On and")
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


@pytest.mark.firefox
async def test_a_reload_shows_the_same_conversation(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("/scholar leave?")
        await chat.begin_reply(live_server, "Before ")
        await chat.page.reload()
        await chat.wait_for_text("You have 30 days of leave")
        await chat.wait_for_text("Before")
        await expect(chat.page.locator(".sources")).to_contain_text("The Handbook › Leave")
        live_server.scripted.emit("and after")
        await chat.wait_for_text("Before and after")
        await chat.wait_until_done()


async def test_an_old_conversation_is_rendered_from_the_snapshot(browser: Browser) -> None:
    async with (
        open_live_server(ledger=MemoryLedger(events_kept=2)) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        await chat.say("one two")
        await chat.begin_reply(live_server, "So far ")
        await chat.page.reload()
        await chat.wait_for_text("one two")
        await chat.wait_for_text("So far")
        live_server.scripted.emit("so good")
        await chat.wait_for_text("So far so good")


@pytest.mark.firefox
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
        chat.forget_lost_connections()


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
        chat.forget_lost_connections()


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
            await chat.begin_reply(first, "Before ")
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


@pytest.mark.firefox
async def test_a_message_written_without_a_connection_is_sent_later_and_once(
    live_server: LiveServer, browser: Browser
) -> None:
    async with (
        FaultProxy(live_server.address) as proxy,
        open_page(browser, proxy.address) as chat,
    ):
        await chat.open()
        await chat.say("first")
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
        chat.forget_lost_connections()


FORBID_STORAGE = """
for (const name of ["localStorage", "sessionStorage"]) {
  Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError"); } });
}
"""


async def test_the_page_works_where_the_browser_forbids_storage(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.page.add_init_script(FORBID_STORAGE)
        await chat.open()
        await chat.say("hello")
        await chat.page.get_by_role("button", name="Settings").click()
        await chat.page.get_by_text("Dark").click()
        await expect(chat.page.locator("html")).to_have_attribute("data-theme", "dark")


@tool
async def book_table(place: str, seats: int) -> str:
    """Book a table."""
    if seats > 8:
        raise SkillError("there is no table of this size")
    return f"{seats} seats at {place}"


class BookingSkill(Skill):
    """Book a table."""

    name = "booking"

    async def answer(self, turn: Turn) -> None:
        seats = int(turn.message.text)
        await turn.say(await turn.call_tool("book_table", place="Luigi <b>", seats=seats))


async def test_tools_are_shown_as_cards(browser: Browser) -> None:
    async with (
        open_live_server(skills=(BookingSkill(),), tools=(book_table,)) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        await chat.send("/booking 4")
        card = chat.page.locator(".tool")
        await expect(card.locator("summary")).to_have_text("Book tableLuigi <b> · 4done")
        await expect(card.get_by_role("group")).to_have_count(0)
        await card.locator("summary").click()
        await expect(card.get_by_role("group", name="Arguments")).to_contain_text("Luigi <b>")
        await expect(card.get_by_role("group", name="Result")).to_have_text("4 seats at Luigi <b>")
        await chat.send("/booking 9")
        await expect(card.last.locator("summary")).to_have_text("Book tableLuigi <b> · 9failed")


async def test_a_card_of_a_tool_stays_within_a_narrow_page(browser: Browser) -> None:
    class LongBooking(BookingSkill):
        """Book a table at a place with a long name."""

        async def answer(self, turn: Turn) -> None:
            await turn.say(await turn.call_tool("book_table", place="Luigi " * 40, seats=2))

    async with (
        open_live_server(skills=(LongBooking(),), tools=(book_table,)) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.page.set_viewport_size({"width": 320, "height": 640})
        await chat.open()
        await chat.send("/booking 4")
        await chat.page.locator(".tool summary").click()
        parts = (".reply", ".tool", ".tool .state", ".tool pre >> nth=0", ".tool pre >> nth=1")
        boxes = [await chat.page.locator(part).bounding_box() for part in parts]
        reply, *others = [box["x"] + box["width"] for box in boxes if box is not None]
        assert len(others) == 4
        assert max(others) <= reply


@pytest.mark.firefox
async def test_a_source_opens_from_its_citation(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/scholar leave?")
        await chat.page.get_by_role("button", name="Source 1: The Handbook").click()
        panel = chat.page.get_by_role("complementary", name="Sources")
        source = panel.locator(".passage")
        await expect(source).to_be_focused()
        await expect(source.locator("h3")).to_have_text("1 The Handbook › Leave")
        await expect(source.locator("blockquote")).to_have_text(
            "Everyone has 30 days of leave a year."
        )
        await expect(source.locator("cite")).to_have_text("handbook.md")
        await chat.page.keyboard.press("Escape")
        await expect(panel).to_have_count(0)
        await expect(chat.page.get_by_role("button", name="Source 1")).to_be_focused()
        attachment = chat.page.get_by_role("link", name="leave.txt")
        await expect(attachment).to_have_attribute("download", "leave.txt")


async def test_problems_are_shown_as_sentences(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/clumsy go")
        await chat.wait_for_text("The skill could not finish its answer.")
        await expect(chat.page.get_by_role("button", name="Try again")).to_be_visible()
        await chat.send("x" * 1_100_000)
        await expect(chat.page.locator("#unsent")).to_contain_text("too long to send")
        await expect(chat.page.locator("#unsent").get_by_text("Try again")).to_have_count(0)
        await chat.page.get_by_role("button", name="Edit", exact=True).click()
        await expect(chat.page.locator("#unsent")).to_have_count(0)


class FailingSkill(Skill):
    """Fail with the problem that the message names."""

    name = "failing"

    async def answer(self, turn: Turn) -> None:
        raise PROBLEMS[turn.message.text]


PROBLEMS: dict[str, PalaverError] = {
    "busy": EngineUnavailable(),
    "slow": EngineTimeout(),
    "long": PromptTooLong(),
    "large": LimitExceeded(),
}


async def test_trying_again_is_offered_where_it_can_help(browser: Browser) -> None:
    async with (
        open_live_server(skills=(FailingSkill(),)) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        for number, (text, can_help) in enumerate(
            [("busy", True), ("long", False), ("slow", True), ("large", False)]
        ):
            await chat.send(f"/failing {text}")
            problem = chat.page.locator(".turn").nth(number).locator(".problem")
            await expect(problem).to_contain_text(PROBLEMS[text].public)
            again = problem.get_by_role("button", name="Try again")
            await expect(again).to_have_count(1 if can_help else 0)
        await chat.page.get_by_role("button", name="Try again").first.click()
        await expect(chat.page.locator(".message").last).to_have_text("/failing busy")
        await chat.send("/nobody hello")
        await chat.wait_for_text("There is no skill 'nobody'.")
        await expect(chat.page.locator(".turn").last.get_by_text("Try again")).to_have_count(0)


async def test_a_stopped_reply_is_marked_also_after_a_reload(browser: Browser) -> None:
    async with (
        open_live_server(ledger=MemoryLedger(events_kept=1)) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        for text in ("", "Half of it"):
            await chat.send("/scripted go")
            if text:
                live_server.scripted.emit(text, end=False)
                await chat.wait_for_text(text)
            await chat.page.get_by_label("Stop the reply").click()
            await chat.wait_until_done()
        marks = chat.page.locator(".stopped")
        await expect(marks).to_have_count(2)
        await chat.say("and now?")
        await chat.page.reload()
        await chat.wait_for_text("Half of it")
        await expect(marks).to_have_text(["Stopped", "Stopped"])
        await expect(chat.page.get_by_label("Stop the reply")).to_have_count(0)


async def test_a_stopped_reply_can_be_continued(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.begin_reply(live_server, "Half of it")
        await chat.page.get_by_label("Stop the reply").click()
        await chat.page.get_by_role("button", name="Continue").click()
        await expect(chat.page.locator(".message").last).to_have_text(
            "Please continue where you stopped."
        )
        await chat.wait_until_done()
        await expect(chat.page.get_by_role("button", name="Continue")).to_have_count(0)


async def sign_in(chat: ChatPage, key: str) -> None:
    """Open the page and enter a key; the requests before it are refused."""
    await chat.page.goto(chat.address)
    await chat.page.get_by_label("Key", exact=True).fill(key)
    await chat.page.keyboard.press("Enter")


async def test_a_server_with_keys_asks_for_one(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGE_KEY", "open sesame, please")
    keys = {"ada": AuthKey(secret=Secret("env:PAGE_KEY"), person="ada")}
    async with (
        open_live_server(keys=keys) as live_server,
        open_page(browser, live_server.address) as chat,
        open_page(browser, live_server.address) as other,
    ):
        await sign_in(chat, "wrong")
        await expect(chat.page.locator("#key-title")).to_contain_text("not known")
        await chat.page.get_by_label("Key", exact=True).fill("open sesame, please")
        await chat.page.keyboard.press("Enter")
        await chat.say("hello")
        await chat.wait_for_text("hello")
        await chat.page.reload()
        await chat.wait_for_text("hello")
        await sign_in(other, "open sesame, please")
        await other.page.locator(".conversations a").click()
        await other.wait_for_text("hello")
        chat.tolerate("401")
        other.tolerate("401")


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
            await sign_in(chat, "open sesame, please")
            await chat.say(f"secret {number}")
            await chat.page.reload()
            await chat.wait_for_text(f"secret {number}")
            exports.append(await chat.page.evaluate(EXPORT))
            assert await chat.page.evaluate("document.cookie") == ""
            chat.tolerate("401")
    assert exports[0]["person"] != exports[1]["person"]
    for number, exported in enumerate(exports):
        assert f"secret {number}" in str(exported)
        assert f"secret {1 - number}" not in str(exported)
