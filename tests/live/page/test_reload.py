"""After a reload the page shows what it showed, also where the server has no events to replay."""

import asyncio

import pytest
from playwright.async_api import Browser, expect
from tests.live.page.chat_page import ChatPage, open_page
from tests.live.page.test_page import GeneratingSkill
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.config.settings import AdmissionSettings
from palaver.skills import Skill
from palaver.testing import ScriptedEngine, ScriptedReply
from palaver.tools import tool
from palaver.turns.turn import Turn

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


@tool
def weigh(fruit: str) -> str:
    """Weigh a fruit."""
    return f"{len(fruit)} ounces"


class Grocer(Skill):
    """Weigh fruit."""

    name = "grocer"

    async def answer(self, turn: Turn) -> None:
        await turn.say(await turn.call_tool("weigh", fruit=turn.message.text))


async def make_branches(chat: ChatPage) -> None:
    """Let the conversation have branches: from now on a reload gets a snapshot, and no events."""
    await chat.say("hello")
    await chat.page.get_by_role("button", name="Write another reply").click()
    await expect(chat.page.get_by_role("group", name="Versions")).to_contain_text("2/2")


async def test_tools_and_the_reason_are_shown_after_a_reload(browser: Browser) -> None:
    async with (
        open_live_server(skills=(Grocer(),), tools=(weigh,)) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        await make_branches(chat)
        await chat.say("/grocer cherry")
        await chat.page.reload()
        turn = chat.page.locator(".turn").last
        await turn.locator(".why summary").click()
        await expect(turn.locator(".why")).to_contain_text("The person typed /grocer.")
        card = turn.get_by_role("list", name="Tools").get_by_role("listitem")
        await expect(card).to_contain_text("Weigh")
        await expect(card).to_contain_text("done")
        await card.locator("summary").click()
        await expect(card.get_by_label("Arguments")).to_contain_text('"fruit": "cherry"')
        await expect(card.get_by_label("Result")).to_have_text("6 ounces")


async def test_the_problem_of_a_failed_reply_is_shown_after_a_reload(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await make_branches(chat)
        await chat.send("/clumsy x")
        problem = await chat.page.locator(".problem span").text_content()
        assert problem
        await chat.page.reload()
        await expect(chat.page.locator(".problem span")).to_have_text(problem)


async def test_a_question_can_be_answered_by_keyboard_after_a_reload(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await make_branches(chat)
        await chat.send("/waiter a drink")
        options = chat.page.get_by_role("group", name="Suggested answers")
        await expect(options.get_by_role("button")).to_have_count(2)
        names = await options.get_by_role("button").all_text_contents()
        await chat.page.reload()
        await expect(options.get_by_role("button")).to_have_text(names)
        await options.get_by_role("button", name="coffee").focus()
        await chat.page.keyboard.press("Enter")
        await chat.wait_for_text("One coffee, please.")
        await expect(options).to_have_count(0)


async def test_a_tool_that_runs_is_shown_after_a_reload_in_the_middle(browser: Browser) -> None:
    end = asyncio.Event()

    @tool
    async def weigh(fruit: str) -> str:
        """Weigh a fruit."""
        await end.wait()
        return f"{len(fruit)} ounces"

    async with (
        open_live_server(skills=(Grocer(),), tools=(weigh,)) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        await make_branches(chat)
        await chat.send("/grocer cherry")
        card = chat.page.get_by_role("list", name="Tools").get_by_role("listitem")
        await expect(card).to_contain_text("running")
        await chat.page.reload()
        await expect(card).to_contain_text("running")
        await expect(chat.page.locator(".why")).to_have_count(2)
        end.set()
        await expect(card).to_contain_text("done")
        await chat.wait_for_text("6 ounces")


async def test_the_place_in_the_queue_is_shown_after_a_reload(browser: Browser) -> None:
    engine = ScriptedEngine(lambda _: ScriptedReply(text="a thought", pause_after=1))
    async with (
        open_live_server(
            engine=engine,
            skills=(GeneratingSkill(),),
            admission=AdmissionSettings(max_generations=1),
        ) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        await chat.say("hello")
        await chat.page.get_by_role("button", name="Write another reply").click()
        await expect(chat.page.get_by_role("group", name="Versions")).to_contain_text("2/2")
        for thread in ("runs", "waits"):
            path = f"/v1/conversations/{thread}/messages"
            assert (await live_server.post(path, {"text": f"/generating {thread}"}))[0] == 202
        await chat.send("/generating and I?")
        await chat.wait_for_text("In the queue: ")
        place = await chat.page.locator(".caption .state").text_content()
        await chat.page.reload()
        await expect(chat.page.locator(".caption .state")).to_have_text(place or "?")
        engine.resume()
        await chat.wait_until_done()
