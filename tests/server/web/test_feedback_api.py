"""Feedback over HTTP: who may give it, what is refused, and how it is counted."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.server.web.live_server import LiveServer, open_live_server
from tests.server.web.test_conversation_api import request

from palaver.feedback import FEEDBACK_BYTES, FEEDBACK_REASONS, MAX_COMMENT_LENGTH
from palaver.messages import Conversation, Message

pytestmark = pytest.mark.slow

ROOT = "/v1/conversations"


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[LiveServer]:
    async with open_live_server() as live_server, live_server.browser() as browser:
        yield browser


async def talk(browser: LiveServer, text: str = "hello", **options: Any) -> str:
    status, reply = await browser.post(f"{ROOT}/t/messages?wait=true", {"text": text}, **options)
    assert status == 200, reply
    turn: str = reply["turn"]
    return turn


async def give(browser: LiveServer, turn: str, **body: Any) -> tuple[int, Any]:
    return await request(browser, "PUT", f"{ROOT}/t/turns/{turn}/feedback", json=body)


async def read(browser: LiveServer) -> list[Any]:
    status, answer = await browser.get(f"{ROOT}/t/feedback")
    assert status == 200, answer
    found: list[Any] = answer["feedback"]
    return found


async def test_a_rating_is_given_changed_and_withdrawn(browser: LiveServer) -> None:
    turn = await talk(browser)
    status, given = await give(browser, turn, rating="up")
    assert (status, given["rating"], given["skill"], given["turn"]) == (200, "up", "parrot", turn)
    assert await read(browser) == [given]
    status, changed = await give(
        browser, turn, rating="down", reason="incomplete", comment="Zeile 1\nقصير"
    )
    assert (status, changed["reason"], changed["comment"]) == (200, "incomplete", "Zeile 1\nقصير")
    assert await read(browser) == [changed]
    for expected in (True, False):
        answer = await request(browser, "DELETE", f"{ROOT}/t/turns/{turn}/feedback")
        assert answer == (200, {"turn": turn, "withdrawn": expected})
    assert await read(browser) == []


@pytest.mark.parametrize("reason", FEEDBACK_REASONS)
async def test_each_reason_is_accepted(browser: LiveServer, reason: str) -> None:
    status, given = await give(browser, await talk(browser), rating="down", reason=reason)
    assert (status, given["reason"]) == (200, reason)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "rating"),
        ({"rating": "sideways"}, "rating"),
        ({"rating": None}, "rating"),
        ({"rating": "up", "reason": "style"}, "reason"),
        ({"rating": "down", "reason": "because"}, "reason"),
        ({"rating": "down", "comment": None}, "comment"),
        ({"rating": "down", "comment": "😀" * (MAX_COMMENT_LENGTH + 1)}, "comment"),
    ],
)
async def test_a_wrong_body_is_refused(
    browser: LiveServer, body: dict[str, Any], named: str
) -> None:
    turn = await talk(browser)
    status, answer = await give(browser, turn, **body)
    assert (status, answer["error"]["code"]) == (400, "invalid_input")
    assert named in answer["error"]["message"]
    assert await read(browser) == []


async def test_the_longest_comment_is_accepted(browser: LiveServer) -> None:
    comment = "😀" * MAX_COMMENT_LENGTH
    status, given = await give(browser, await talk(browser), rating="down", comment=comment)
    assert (status, given["comment"]) == (200, comment)


async def test_what_has_no_reply_cannot_be_rated(browser: LiveServer) -> None:
    status, answer = await give(browser, "abc", rating="up")
    assert (status, answer["error"]["code"]) == (404, "not_found")
    await talk(browser)
    status, answer = await give(browser, "abc", rating="up")
    assert (status, answer["error"]["code"]) == (404, "not_found")
    assert "abc" in answer["error"]["message"]


async def test_nobody_else_rates_or_reads(browser: LiveServer) -> None:
    turn = await talk(browser)
    await give(browser, turn, rating="down", comment="secret")
    async with browser.browser() as other:
        for method, path in (
            ("GET", f"{ROOT}/t/feedback"),
            ("PUT", f"{ROOT}/t/turns/{turn}/feedback"),
            ("DELETE", f"{ROOT}/t/turns/{turn}/feedback"),
        ):
            status, answer = await request(other, method, path, json={"rating": "up"})
            assert (status, answer["error"]["code"]) == (403, "forbidden"), method
    (given,) = await read(browser)
    assert given["comment"] == "secret"


async def test_feedback_is_exported_and_erased(browser: LiveServer) -> None:
    turn = await talk(browser)
    _, given = await give(browser, turn, rating="down", comment="mine")
    _, export = await browser.get("/v1/export")
    assert export["feedback"] == {"default/web/t": [given]}
    await browser.post("/v1/erase", {})
    _, export = await browser.get("/v1/export")
    assert export["feedback"] == {}


async def test_ratings_are_counted_by_skill_once(browser: LiveServer) -> None:
    first, second = await talk(browser), await talk(browser)
    for turn, rating in ((first, "up"), (first, "up"), (second, "up"), (second, "down")):
        await give(browser, turn, rating=rating)
    metrics = browser.server.metrics.exposition().decode()
    assert 'palaver_feedback_total{rating="up",skill="parrot"} 2.0' in metrics
    assert 'palaver_feedback_total{rating="down",skill="parrot"} 1.0' in metrics


@pytest.mark.slow
async def test_too_much_feedback_is_refused(browser: LiveServer) -> None:
    comment = "😀" * MAX_COMMENT_LENGTH
    status = 200
    for number in range(FEEDBACK_BYTES // len(comment.encode()) + 1):
        assert status == 200
        status, answer = await give(
            browser, await talk(browser, str(number)), rating="up", comment=comment
        )
    assert (status, answer["error"]["code"]) == (429, "too_many")
    assert "withdraw" in answer["error"]["message"]


@pytest.mark.parametrize("is_group", [True, False])
async def test_an_erased_member_rates_nothing_any_more(is_group: bool) -> None:
    async with open_live_server() as live_server:
        as_ada: dict[str, Any] = {"params": {"person": "ada"}}
        turn = await talk(live_server, **as_ada)
        if is_group:
            conversation = Conversation("default", "web", "t")
            await live_server.server.accept(
                Message(conversation=conversation, id="b", person="bob", text="me too"),
                members_only=False,
            )
        assert (await live_server.post("/v1/erase?person=ada"))[0] == 200
        path = f"{ROOT}/t/turns/{turn}/feedback"
        status, _ = await request(live_server, "PUT", path, json={"rating": "up"}, **as_ada)
        assert status == (403 if is_group else 404)
        _, exported = await live_server.get("/v1/export?person=ada")
        assert exported["feedback"] == {}
