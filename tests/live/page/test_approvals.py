"""The call of a tool is approved and denied in the page, in a real Chromium."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, expect
from tests.live.page.chat_page import ChatPage, open_page
from tests.live.page.test_flows import tab_to
from tests.server.web.live_server import LiveServer, open_live_server

from palaver import Denied, Skill, Tool, Turn, tool
from palaver.config.settings import DispatchSettings
from palaver.turns.approvals import OVER

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


class Payer(Skill):
    """Pay."""

    name = "payer"

    def __init__(self) -> None:
        super().__init__()
        self.paid: list[str] = []

    @property
    def pay(self) -> Tool:
        @tool(name="pay", needs_approval=True)
        def pay(to: str, cents: int = 10**17 + 1) -> str:
            """Pay money to somebody."""
            self.paid.append(to)
            return f"paid {to}"

        return pay

    async def answer(self, turn: Turn) -> None:
        try:
            await turn.say("Let me see.")
            await turn.say(await turn.call_tool("pay", to=turn.message.text))
        except Denied:
            await turn.say("I did not pay.")


@asynccontextmanager
async def paying(
    browser: Browser, dispatch: DispatchSettings | None = None, **options: object
) -> AsyncIterator[tuple[ChatPage, Payer, LiveServer]]:
    skill = Payer()
    async with (
        open_live_server(skills=(skill,), tools=(skill.pay,), dispatch=dispatch) as live_server,
        open_page(browser, live_server.address, **options) as chat,
    ):
        await chat.page.goto(live_server.address)
        await expect(chat.page.locator("#text")).to_be_focused()
        yield chat, skill, live_server


async def test_a_call_is_approved(browser: Browser) -> None:
    async with paying(browser) as (chat, skill, _):
        await chat.send("/payer Bob \u202e<b>x</b>")
        card = chat.page.get_by_role("group", name="Your approval is needed")
        await expect(card.locator("code")).to_have_text("pay")
        await expect(card).to_contain_text("Pay money to somebody.")
        await expect(card.locator("pre")).to_have_text(
            '{\n  "to": "Bob \\u202e<b>x</b>",\n  "cents": 100000000000000001\n}'
        )
        await expect(card.locator("time")).to_contain_text("Valid until")
        await expect(chat.page.locator(".reply")).to_have_text("Let me see.")
        assert skill.paid == []
        await chat.page.reload()
        await card.get_by_role("button", name="Approve").click()
        await expect(chat.page.locator(".reply").last).to_have_text("paid Bob \u202e<b>x</b>")
        await expect(chat.page.locator(".tool .state")).to_have_text("done")
        await expect(chat.page.locator(".approval button")).to_have_count(0)
        await expect(chat.page.locator(".approval h3")).to_have_text("You were asked for approval")
    assert len(skill.paid) == 1


async def test_a_call_is_denied_with_the_keyboard(browser: Browser) -> None:
    async with paying(browser) as (chat, skill, _):
        await chat.send("/payer Bob")
        await expect(chat.page.locator(".approval")).to_be_visible()
        await tab_to(chat, "Deny", key="Shift+Tab")
        await chat.page.keyboard.press("Enter")
        await expect(chat.page.locator(".reply").last).to_have_text("I did not pay.")
        await expect(chat.page.locator(".tool .state")).to_have_text("not approved")
        await expect(chat.field).to_be_focused()
    assert skill.paid == []


async def test_a_written_answer_is_one(browser: Browser) -> None:
    async with paying(browser) as (chat, skill, _):
        await chat.send("/payer Bob")
        await expect(chat.page.locator(".approval")).to_be_visible()
        await chat.send("Approve")
        await expect(chat.page.locator(".reply").last).to_have_text("paid Bob")
    assert skill.paid == ["Bob"]


async def test_an_old_page_approves_nothing(browser: Browser) -> None:
    """A page without a connection shows a card that was answered elsewhere."""
    async with paying(browser) as (chat, skill, live_server):
        await chat.send("/payer Bob")
        await expect(chat.page.locator(".approval")).to_be_visible()
        await chat.page.context.set_offline(True)
        cookies = {each["name"]: each["value"] for each in await chat.page.context.cookies()}
        thread = chat.path.rpartition("/")[2]
        address = f"/v1/conversations/{thread}/messages?wait=true"
        status, reply = await live_server.post(address, {"text": "no"}, cookies=cookies)
        assert (status, reply["text"]) == (200, "I did not pay."), reply
        await chat.page.get_by_role("button", name="Approve").click()
        await chat.page.context.set_offline(False)
        await expect(chat.page.locator(".reply").last).to_have_text(OVER)
        chat.forget_lost_connections()
    assert skill.paid == []


@pytest.mark.parametrize(
    ("language", "approve"),
    [
        ("en", "Approve"),
        ("de", "Zustimmen"),
        ("fr", "Approuver"),
        ("es", "Aprobar"),
        ("zh", "批准"),
    ],
)
async def test_each_language_approves(browser: Browser, language: str, approve: str) -> None:
    async with paying(browser, locale=f"{language}-XX") as (chat, skill, _):
        await chat.page.keyboard.type("/payer Bob")
        await chat.page.keyboard.press("Enter")
        await chat.page.locator(".approval button.primary", has_text=approve).click()
        await expect(chat.page.locator(".reply").last).to_have_text("paid Bob")
    assert skill.paid == ["Bob"]


async def test_a_late_approval_asks_again(browser: Browser) -> None:
    async with paying(browser, DispatchSettings(approval_timeout=0.001)) as (chat, skill, _):
        await chat.send("/payer Bob")
        await chat.page.get_by_role("button", name="Approve").click()
        await expect(chat.page.locator(".approval")).to_have_count(2)
        await expect(chat.page.locator(".approval button")).to_have_count(2)
    assert skill.paid == []
