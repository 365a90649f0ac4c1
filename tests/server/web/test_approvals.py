"""The call of a tool is approved over HTTP and the websocket."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.server.web.live_server import Frame, LiveServer, open_live_server

from palaver import Denied, Skill, Turn, tool
from palaver.turns.approvals import OVER

pytestmark = pytest.mark.slow

PAID: list[str] = []


@tool(needs_approval=True)
def pay(to: str, amount: int = 10**17) -> str:
    """Pay money."""
    PAID.append(to)
    return f"paid {to}"


class Payer(Skill):
    """Pay."""

    name = "payer"

    async def answer(self, turn: Turn) -> None:
        try:
            await turn.say(await turn.call_tool("pay", to=turn.message.text))
        except Denied:
            await turn.say("not paid")


@pytest.fixture
async def server() -> AsyncIterator[LiveServer]:
    PAID.clear()
    async with open_live_server(skills=[Payer()], tools=[pay]) as opened:
        yield opened


async def post(server: LiveServer, text: str, **fields: object) -> Any:  # Any: a JSON object
    status, reply = await server.post(
        "/v1/conversations/t/messages?wait=true", {"text": text, **fields}
    )
    assert status == 200, reply
    return reply


def check(approval: Frame) -> None:
    assert approval["tool"] == "pay"
    assert approval["arguments"] == {"to": "Bob", "amount": 10**17}
    assert '"amount": 100000000000000000' in approval["shown_arguments"]
    assert len(approval["definition"]) == 64
    assert approval["expires_at"] > 1e9


async def test_over_http(server: LiveServer) -> None:
    asked = await post(server, "Bob", skill="payer")
    check(asked["approval"])
    assert (await post(server, "Approve", answers="0" * 32))["text"] == OVER
    assert PAID == []
    reply = await post(server, "Approve", answers=asked["approval"]["id"])
    assert (reply["text"], PAID) == ("paid Bob", ["Bob"])
    again = await post(server, "Approve", answers=asked["approval"]["id"])
    assert (again["text"], PAID) == (OVER, ["Bob"])


async def test_over_the_websocket(server: LiveServer) -> None:
    async with server.connect("t") as client:
        turn = await client.send_message("Bob", skill="payer")
        question = await client.wait_for("question", turn=turn)
        check(question["approval"])
        assert question["options"] == ["Approve", "Deny"]
        await client.wait_for("finished", turn=turn)
        async with server.connect("t") as other:
            entry = other.frames[0]["snapshot"]["history"][-1]
        assert entry["question"]["approval"] == question["approval"]
        turn = await client.send_message("Deny", answers=question["approval"]["id"])
        assert await client.wait_for_reply(turn) == "not paid"
        assert (await client.wait_for("tool", turn=turn))["state"] == "denied"
    assert PAID == []


async def test_an_answer_with_a_wrong_id_is_refused(server: LiveServer) -> None:
    body = {"text": "Approve", "answers": "a\nb"}
    status, _ = await server.post("/v1/conversations/t/messages", body)
    assert status == 400


async def test_a_question_without_a_call_has_no_approval(server: LiveServer) -> None:
    asked = await post(server, "/waiter now")
    assert "approval" not in asked
