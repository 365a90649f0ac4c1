"""A visitor approves the call of a tool in the widget."""

import pytest
from playwright.async_api import Browser, expect
from tests.live.page.test_approvals import Payer
from tests.live.widget.site_server import open_site_with_server
from tests.live.widget.visitor import visiting

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.parametrize(
    ("answer", "reply", "paid"), [("Approve", "paid Bob", ["Bob"]), ("Deny", "I did not pay.", [])]
)
async def test_a_visitor_answers(
    browser: Browser, answer: str, reply: str, paid: list[str]
) -> None:
    skill = Payer()
    async with (
        open_site_with_server(skills=(skill,), tools=(skill.pay,)) as (site, _),
        visiting(browser, site.widget_host) as visitor,
    ):
        await visitor.open(site.show())
        await visitor.send("/payer Bob")
        card = visitor.page.get_by_role("group", name="Your approval is needed")
        await expect(card.locator("pre")).to_contain_text('"to": "Bob"')
        await card.get_by_role("button", name=answer).click()
        await expect(visitor.page.locator(".reply").last).to_have_text(reply)
        await expect(card.get_by_role("button")).to_have_count(0)
    assert skill.paid == paid
