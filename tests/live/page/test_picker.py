"""The choice of the skill that answers in a conversation."""

import re
from typing import Literal

import pytest
from playwright.async_api import Browser, Locator, expect
from tests.live.page.chat_page import ChatPage, open_page, open_tabs
from tests.live.page.test_accessibility import AXE, FIND_VIOLATIONS
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.skills import Skill
from palaver.turns.turn import Turn

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


def picker(chat: ChatPage) -> Locator:
    return chat.page.locator("#picker")


async def choose(chat: ChatPage, name: str) -> None:
    await picker(chat).click()
    await chat.page.get_by_role("menuitemradio", name=re.compile(f"^{name}")).click()
    await expect(picker(chat)).to_contain_text(name)


async def test_the_chosen_skill_answers_until_another_is_chosen(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await expect(picker(chat)).to_have_text("SkillAutomatic")
        await choose(chat, "Scholar")
        await expect(chat.page.get_by_label("Your message")).to_be_focused()
        await chat.say("how much leave?", "and how much more?")
        caption = chat.page.locator(".turn .caption strong")
        await expect(caption).to_have_text(["Scholar", "Scholar"])
        await chat.page.locator(".why summary").last.click()
        await expect(chat.page.locator(".why").last).to_contain_text("The person named it.")
        await choose(chat, "Automatic")
        await chat.say("polly")
        await expect(caption.last).to_have_text("Parrot")


async def test_another_skill_writes_another_reply(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("how much leave?")
        await expect(chat.page.locator(".caption strong")).to_have_text("Parrot")
        await choose(chat, "Scholar")
        await chat.page.get_by_role("button", name="Write another reply").click()
        await expect(chat.page.locator(".caption strong")).to_have_text("Scholar")
        await expect(chat.page.get_by_role("group", name="Versions")).to_contain_text("2/2")


async def test_a_command_and_the_answer_to_a_question_go_before_the_choice(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        caption = chat.page.locator(".turn .caption strong")
        await choose(chat, "Scholar")
        await chat.say("/parrot hello")
        await expect(caption.last).to_have_text("Parrot")
        await choose(chat, "Waiter")
        await chat.send("a drink")
        await chat.page.get_by_role("button", name="coffee").click()
        await chat.wait_for_text("One coffee, please.")
        await chat.send("another drink")
        await expect(chat.page.get_by_role("button", name="coffee")).to_be_visible()
        await choose(chat, "Scholar")
        await chat.say("how much leave?")
        await expect(caption.last).to_have_text("Scholar")


async def test_the_choice_is_kept_for_its_conversation_and_in_every_tab(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_tabs(browser, live_server.address, 2) as (one, two):
        await one.open("/c/first")
        await two.open("/c/first")
        await choose(one, "Scholar")
        await expect(picker(two)).to_contain_text("Scholar")
        await one.page.get_by_role("button", name="New conversation").click()
        await expect(picker(one)).to_contain_text("Automatic")
        await choose(one, "Parrot")
        await one.page.go_back()
        await expect(picker(one)).to_contain_text("Scholar")
        await one.page.reload()
        await expect(picker(one)).to_contain_text("Scholar")


async def test_a_choice_of_a_skill_that_is_gone_counts_as_none(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.page.add_init_script(
            """localStorage["palaver.skills"] = JSON.stringify([["first", "gone"]])"""
        )
        await chat.open("/c/first")
        await expect(picker(chat)).to_contain_text("Automatic")
        await chat.say("polly")
        await expect(chat.page.locator(".reply")).to_have_text("polly")


async def test_the_picker_works_with_the_keyboard_alone(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await expect(picker(chat)).to_be_visible()
        press = chat.page.keyboard.press
        item = chat.page.get_by_role("menuitemradio")
        await picker(chat).focus()
        await press("ArrowDown")
        await expect(item.first).to_be_focused()
        await press("End")
        await expect(item.last).to_be_focused()
        await press("ArrowDown")
        await expect(item.first).to_be_focused()
        await press("ArrowUp")
        await expect(item.last).to_be_focused()
        await press("Home")
        await press("Escape")
        await expect(item).to_have_count(0)
        await expect(picker(chat)).to_be_focused()
        await press("Enter")
        await press("ArrowDown")
        await press("Enter")
        await expect(picker(chat)).to_have_text("SkillClumsy")
        await picker(chat).click()
        await expect(chat.page.get_by_role("menuitemradio", checked=True)).to_be_focused()
        await press("Tab")
        await expect(item).to_have_count(0)


class OnlySkill(Skill):
    """Answer."""

    name = "only"

    async def answer(self, turn: Turn) -> None:
        await turn.say("yes")


async def test_one_skill_is_no_choice(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_live_server(skills=(OnlySkill(),)) as live_server:
        only = {"only": live_server.server.skills()["only"]}
        monkeypatch.setitem(vars(live_server.server), "skills", lambda *_: only)
        async with open_page(browser, live_server.address) as chat:
            await chat.open()
            await expect(chat.page.locator("#skills button")).to_have_count(1)
            await expect(picker(chat)).to_have_count(0)
            await expect(chat.page.locator("#model")).to_be_visible()


@pytest.mark.skipif(not AXE.exists(), reason="the npm packages of the page are not installed")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
async def test_axe_finds_nothing_in_the_menu_and_it_fits(
    live_server: LiveServer, browser: Browser, scheme: Literal["light", "dark"], width: int
) -> None:
    async with open_page(
        browser, live_server.address, color_scheme=scheme, viewport={"width": width, "height": 640}
    ) as chat:
        await chat.page.add_init_script(path=AXE)
        await chat.open()
        await picker(chat).click()
        menu = chat.page.locator(".picker-menu")
        await expect(menu).to_contain_text("Model: scripted.")
        assert await chat.page.evaluate(FIND_VIOLATIONS) == []
        box = await menu.bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
        assert await chat.page.evaluate("document.documentElement.scrollWidth") <= width
