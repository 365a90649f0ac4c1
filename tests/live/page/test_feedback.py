"""Thumbs up and down: given, changed, withdrawn; after a reload, in other tabs, after an error."""

import json
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Route, expect
from tests.live.page.chat_page import ChatPage, open_page, open_tabs
from tests.live.page.test_accessibility import AXE, FIND_VIOLATIONS, OVERFLOW
from tests.server.web.live_server import LiveServer

from palaver.feedback import FEEDBACK_REASONS, MAX_COMMENT_LENGTH, FeedbackFilter, RatedReply

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


def good(chat: ChatPage) -> Locator:
    return chat.page.get_by_role("button", name="Good reply")


def bad(chat: ChatPage) -> Locator:
    return chat.page.get_by_role("button", name="Bad reply")


def panel(chat: ChatPage) -> Locator:
    return chat.page.get_by_role("group", name="What was wrong?")


async def expect_pressed(button: Locator, is_pressed: bool) -> None:
    await expect(button).to_have_attribute("aria-pressed", str(is_pressed).lower())


async def stored(live_server: LiveServer) -> list[RatedReply]:
    replies = live_server.server.ledger.rated_replies(
        "default", FeedbackFilter(), history_bytes=10_000
    )
    return [reply async for reply in replies]


@pytest.mark.firefox
async def test_a_thumb_stays_after_a_reload_and_is_taken_back(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("hello")
        await expect_pressed(good(chat), False)
        await good(chat).click()
        await expect_pressed(good(chat), True)
        await expect(chat.page.locator("#announcement")).to_have_text(
            "Thank you for your feedback."
        )
        await chat.page.reload()
        await expect_pressed(good(chat), True)
        await good(chat).click()
        await expect(chat.page.locator("#announcement")).to_have_text(
            "Your feedback was withdrawn."
        )
        await expect_pressed(good(chat), False)
        assert await stored(live_server) == []
        await chat.page.reload()
        await expect_pressed(good(chat), False)


@pytest.mark.firefox
async def test_what_was_wrong_is_told_with_the_keyboard_and_changed(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        press = chat.page.keyboard.press
        await chat.open()
        await chat.say("hello")
        await bad(chat).focus()
        await press("Enter")
        await expect_pressed(bad(chat), True)
        await expect(chat.page.get_by_role("button", name="Not correct")).to_be_focused()
        await press("Tab")
        await press("Tab")
        await press("Space")
        await expect_pressed(chat.page.get_by_role("button", name="Incomplete"), True)
        await chat.page.get_by_role("textbox", name="Comment").focus()
        await chat.page.keyboard.type("The price\nis missing: قصير")
        await press("Tab")
        await press("Tab")
        await press("Enter")
        await expect(panel(chat)).to_have_count(0)
        await expect(bad(chat)).to_be_focused()
        (reply,) = await stored(live_server)
        assert (reply.feedback.rating, reply.feedback.reason) == ("down", "incomplete")
        assert reply.feedback.comment == "The price\nis missing: قصير"

        await chat.page.reload()
        await expect_pressed(bad(chat), True)
        await chat.page.get_by_role("button", name="Incomplete").click()
        await expect_pressed(panel(chat).get_by_role("button", name="Incomplete"), True)
        comment = chat.page.get_by_role("textbox", name="Comment")
        await expect(comment).to_have_value("The price\nis missing: قصير")
        await panel(chat).get_by_role("button", name="Something else").click()
        await comment.fill("")
        await chat.page.locator(".feedback").get_by_role("button", name="Send").click()
        await expect(panel(chat)).to_have_count(0)
        (reply,) = await stored(live_server)
        assert (reply.feedback.reason, reply.feedback.comment) == ("other", "")
        await good(chat).click()
        await expect_pressed(bad(chat), False)
        await expect(chat.page.get_by_role("button", name="Something else")).to_have_count(0)
        await expect(chat.page.locator("#announcement")).to_have_text(
            "Thank you for your feedback."
        )
        (reply,) = await stored(live_server)
        assert (reply.feedback.rating, reply.feedback.reason) == ("up", None)


async def test_escape_closes_the_panel_and_keeps_the_thumb(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("hello")
        await bad(chat).click()
        await panel(chat).get_by_role("button", name="Tone or style").click()
        await chat.page.keyboard.press("Escape")
        await expect(panel(chat)).to_have_count(0)
        await expect(bad(chat)).to_be_focused()
        await expect_pressed(bad(chat), True)
        (reply,) = await stored(live_server)
        assert reply.feedback.reason is None
        await chat.page.get_by_role("button", name="Tell more").click()
        await expect_pressed(panel(chat).get_by_role("button", name="Tone or style"), False)
        await bad(chat).click()
        await expect(panel(chat)).to_have_count(0)
        await expect_pressed(bad(chat), False)


async def test_a_refused_thumb_is_taken_back_and_says_why(
    live_server: LiveServer, browser: Browser
) -> None:
    async def refuse(route: Route) -> None:
        error = {"code": "too_many", "message": "Not now, please."}
        await route.fulfill(
            status=429, content_type="application/json", body=json.dumps({"error": error})
        )

    async with open_page(browser, live_server.address) as chat:
        chat.tolerate("429|net::ERR")
        await chat.open()
        await chat.say("hello")
        await good(chat).click()
        await expect_pressed(good(chat), True)
        await chat.page.route("**/feedback", refuse)
        await bad(chat).click()
        await expect(chat.page.get_by_role("alert")).to_have_text("Not now, please.")
        await expect_pressed(bad(chat), False)
        await expect_pressed(good(chat), True)
        await chat.page.unroute("**/feedback")
        await chat.page.route("**/feedback", lambda route: route.abort())
        await good(chat).click()
        await expect(chat.page.get_by_role("alert")).to_be_visible()
        await expect_pressed(good(chat), True)
        await chat.page.unroute("**/feedback")
        await bad(chat).click()
        await expect(chat.page.get_by_role("alert")).to_have_count(0)
        await panel(chat).get_by_role("button", name="Not helpful").click()
        await chat.page.route("**/feedback", refuse)
        await chat.page.get_by_role("textbox", name="Comment").fill("do not lose this")
        send = chat.page.locator(".feedback").get_by_role("button", name="Send")
        await send.click()
        await expect(chat.page.get_by_role("alert")).to_have_text("Not now, please.")
        await expect(chat.page.get_by_role("textbox", name="Comment")).to_have_value(
            "do not lose this"
        )
        await chat.page.unroute("**/feedback")
        await send.click()
        await expect(panel(chat)).to_have_count(0)
        (reply,) = await stored(live_server)
        assert (reply.feedback.reason, reply.feedback.comment) == (
            "not_helpful",
            "do not lose this",
        )


@pytest.mark.firefox
async def test_another_tab_shows_the_change_at_once(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_tabs(browser, live_server.address, 3) as (one, two, three):
        await one.open()
        await one.say("hello")
        await two.open(one.path)
        await three.open()
        await three.say("elsewhere")
        await two.page.bring_to_front()
        await good(two).click()
        await expect_pressed(good(one), True)
        await expect_pressed(good(three), False)
        await one.page.bring_to_front()
        await good(one).click()
        await expect_pressed(good(two), False)


async def test_what_another_device_has_said_appears_when_the_page_is_shown(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("hello")
        thread = chat.path.removeprefix("/c/")
        rate: Any = """async ([thread, turns]) => {
          const { history } = (await (await fetch(`/v1/conversations/${thread}`)).json()).snapshot;
          const path = `/v1/conversations/${thread}/turns/${history[0].turn}/feedback`;
          const headers = { "Content-Type": "application/json" };
          await fetch(path, { method: "PUT", headers, body: '{"rating":"up"}' });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
        await chat.page.evaluate(rate, [thread, 0])
        await expect_pressed(good(chat), True)


async def test_each_version_has_its_own_thumb(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("hello")
        await bad(chat).click()
        await chat.page.keyboard.press("Escape")
        await expect_pressed(bad(chat), True)
        await chat.page.get_by_role("button", name="Write another reply").click()
        await expect(chat.page.locator(".versions")).to_have_text("2/2")
        await expect_pressed(bad(chat), False)
        await good(chat).click()
        await chat.page.get_by_role("button", name="Older version").click()
        await expect(chat.page.locator(".versions")).to_have_text("1/2")
        await expect_pressed(bad(chat), True)
        await expect_pressed(good(chat), False)


async def test_a_reply_that_is_being_written_has_no_thumbs(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.begin_reply(live_server, "Half")
        await chat.send("next")
        await expect(chat.page.locator(".turn")).to_have_count(2)
        await expect(good(chat)).to_have_count(0)
        await chat.page.get_by_label("Stop the reply").click()
        await chat.wait_until_done()
        await expect(good(chat)).to_have_count(2)


async def test_the_page_knows_the_limits_and_reasons_of_the_server(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("hello")
        await bad(chat).click()
        comment = chat.page.get_by_role("textbox", name="Comment")
        await expect(comment).to_have_attribute("maxlength", str(MAX_COMMENT_LENGTH))
        chips = panel(chat).get_by_role("button")
        await expect(chips).to_have_count(len(FEEDBACK_REASONS))
        for index, reason in enumerate(FEEDBACK_REASONS):
            await chips.nth(index).click()
            await chat.page.locator(".feedback").get_by_role("button", name="Send").click()
            await expect(panel(chat)).to_have_count(0)
            (reply,) = await stored(live_server)
            assert reply.feedback.reason == reason
            await chat.page.locator(".action[aria-expanded]").click()


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("de", ("Gute Antwort", "Schlechte Antwort", "Was war falsch?", "Unvollständig")),
        ("fr", ("Bonne réponse", "Mauvaise réponse", "Qu’est-ce qui n’allait pas ?", "Incomplète")),
        ("es", ("Buena respuesta", "Mala respuesta", "¿Qué estaba mal?", "Incompleta")),
        ("zh", ("回答得好", "回答得不好", "哪里有问题？", "不完整")),
    ],
)
async def test_it_speaks_the_language_of_the_page(
    live_server: LiveServer, browser: Browser, language: str, words: tuple[str, str, str, str]
) -> None:
    up, down, question, incomplete = words
    async with open_page(browser, live_server.address, locale=language) as chat:
        await chat.page.goto(live_server.address)
        await expect(chat.page.locator("#text")).to_be_focused()
        await chat.page.keyboard.type("hello")
        await chat.page.keyboard.press("Enter")
        await expect(chat.page.get_by_role("button", name=up, exact=True)).to_be_visible()
        await chat.page.get_by_role("button", name=down, exact=True).click()
        reasons = chat.page.get_by_role("group", name=question)
        await expect(reasons.get_by_role("button", name=incomplete, exact=True)).to_be_visible()


@pytest.mark.skipif(not AXE.exists(), reason="the npm packages of the page are not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
async def test_axe_finds_nothing_and_it_fits_on_a_phone(
    live_server: LiveServer, browser: Browser, scheme: Any, width: int
) -> None:
    async with open_page(
        browser, live_server.address, color_scheme=scheme, viewport={"width": width, "height": 800}
    ) as chat:
        await chat.page.add_init_script(path=AXE)
        await chat.open()
        await chat.say("مرحبا", "hello")
        await good(chat).first.click()
        await expect_pressed(good(chat).first, True)
        await bad(chat).last.click()
        await panel(chat).get_by_role("button", name="Harmful or unsafe").click()
        await chat.page.get_by_role("textbox", name="Comment").fill("w" * 300)
        assert await chat.page.evaluate(FIND_VIOLATIONS) == []
        assert await chat.page.evaluate(OVERFLOW) == [0, 0]
        await chat.page.locator(".feedback").get_by_role("button", name="Send").click()
        await expect(panel(chat)).to_have_count(0)
        assert await chat.page.evaluate(FIND_VIOLATIONS) == []
        assert await chat.page.evaluate(OVERFLOW) == [0, 0]
        await chat.page.evaluate("document.documentElement.dir = 'rtl'")
        await chat.page.get_by_role("button", name="Harmful or unsafe").click()
        assert await chat.page.evaluate(OVERFLOW) == [0, 0]
