"""Approvals of calls, with OpenAI's own client: items of Responses, text in Chat Completions."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from tests.plugins.channels.openai_support import MODEL, NamedEngine, ask, open_openai_server, user

from palaver import tool
from palaver.config.settings import AgentSettings, AuthKey, Secret
from palaver.testing import tool_call
from palaver_skills.agent import Agent

pytestmark = pytest.mark.slow

PAYMENTS: list[int] = []


@tool(needs_approval=True)
def pay(amount: int, currency: str = "EUR") -> str:
    """Pay."""
    PAYMENTS.append(amount)
    return f"paid {amount} {currency}"


@pytest.fixture(name="client")
async def opened_client() -> AsyncIterator[AsyncOpenAI]:
    PAYMENTS.clear()
    engine = NamedEngine(tool_call("pay", amount=5), "It is done.", tool_call("pay", amount=7))
    async with open_openai_server(
        engine=engine, skills=(Agent(),), tools=[pay], agents=AgentSettings(tools=("pay",))
    ) as (_, client):
        yield client


async def create(client: AsyncOpenAI, input: Any, **fields: Any) -> Any:
    return await client.responses.create(model="agent", input=input, **fields)


def answer(request: str, approve: bool, **fields: Any) -> list[Any]:
    return [
        {
            "type": "mcp_approval_response",
            "approval_request_id": request,
            "approve": approve,
            **fields,
        }
    ]


async def test_the_request_shows_the_exact_call_in_the_response_and_in_its_stream(
    client: AsyncOpenAI,
) -> None:
    stream = await create(client, "Pay 5", stream=True)
    events = [event async for event in stream]
    added = [event.item for event in events if event.type == "response.output_item.added"]
    final = events[-1].response
    assert [item.type for item in added] == ["message", "mcp_approval_request"]
    assert [item.id for item in final.output] == [item.id for item in added]
    text, request = final.output
    assert "May I use the tool `pay`" in text.content[0].text
    assert (request.name, request.server_label) == ("pay", "palaver")
    assert json.loads(request.arguments) == {"amount": 5, "currency": "EUR"}
    assert (await client.responses.retrieve(final.id)).output == final.output
    assert PAYMENTS == []


@pytest.mark.parametrize("way", ["alone", "previous", "whole", "conversation"])
async def test_an_approval_continues_the_response(client: AsyncOpenAI, way: str) -> None:
    more: Any = {}
    if way == "conversation":
        more = {"conversation": (await client.conversations.create()).id}
    first = await create(client, "Pay 5", **more)
    request = first.output[-1]
    sent = answer(request.id, True)
    if way == "previous":
        more = {"previous_response_id": first.id}
    elif way == "whole":
        items = [item.model_dump(exclude_none=True) for item in first.output]
        sent = [user("Pay 5"), *items, *sent]
    second = await create(client, sent, **more)
    call, said = second.output
    assert (call.type, call.name, call.output) == ("mcp_call", "pay", "paid 5 EUR")
    assert said.content[0].text == "It is done."
    assert PAYMENTS == [5]
    with pytest.raises(openai.BadRequestError) as raised:
        await create(client, answer(request.id, True))
    assert "has its answer already" in raised.value.message
    assert PAYMENTS == [5]


@pytest.mark.parametrize("reason", [None, "Approve", "too much"])
async def test_a_denial_makes_no_call_whatever_its_reason_says(
    client: AsyncOpenAI, reason: str | None
) -> None:
    first = await create(client, "Pay 5")
    second = await create(client, answer(first.output[-1].id, False, reason=reason))
    call, said = second.output
    assert (call.type, call.status) == ("mcp_call", "failed")
    assert said.content[0].text == "It is done."
    assert PAYMENTS == []


async def test_a_repeated_approval_with_its_key_is_the_same_response(client: AsyncOpenAI) -> None:
    first = await create(client, "Pay 5")
    sent, key = answer(first.output[-1].id, True), {"Idempotency-Key": "k"}
    answers = [await create(client, sent, extra_headers=key) for _ in range(2)]
    assert answers[0].id == answers[1].id
    assert PAYMENTS == [5]


async def test_a_text_answers_as_well(client: AsyncOpenAI) -> None:
    first = await create(client, "Pay 5")
    second = await create(client, "approve", previous_response_id=first.id)
    assert second.output_text == "It is done."
    assert PAYMENTS == [5]


async def test_what_is_no_answer_to_an_open_request_is_refused_by_name(client: AsyncOpenAI) -> None:
    first = await create(client, "Pay 5")
    text, request = first.output
    other = (await client.conversations.create()).id
    param = "input[0].approval_request_id"
    refused: tuple[tuple[Any, dict[str, Any], str | None], ...] = (
        ([{"type": "mcp_approval_response", "approval_request_id": "x"}], {}, "input[0]"),
        ([*answer(request.id, True), user("and 7")], {}, "input[0]"),
        (answer(request.id, True), {"conversation": other}, param),
    )
    for sent, fields, name in refused:
        with pytest.raises(openai.BadRequestError) as raised:
            await create(client, sent, **fields)
        assert raised.value.param == name
    for id in ("mcpr_x", text.id.replace("1", "2")):
        with pytest.raises(openai.NotFoundError):
            await create(client, answer(id, True))
    assert PAYMENTS == []


async def test_a_client_may_name_the_server_among_its_tools(client: AsyncOpenAI) -> None:
    named: Any = {"type": "mcp", "server_label": "palaver", "server_url": "http://127.0.0.1"}
    first = await create(client, "Pay 5", tools=[named])
    assert first.output[-1].type == "mcp_approval_request"
    assert first.tools[0].server_label == "palaver"
    for model, label in ((MODEL, "palaver"), ("agent", "another")):
        tools: Any = [{**named, "server_label": label}]
        with pytest.raises(openai.BadRequestError) as raised:
            await client.responses.create(model=model, input="Pay 5", tools=tools)
        assert raised.value.param in ("tools", "tools[0].type")


async def test_nobody_else_approves(monkeypatch: pytest.MonkeyPatch) -> None:
    PAYMENTS.clear()
    keys = {}
    for name in ("ada", "eve"):
        monkeypatch.setenv(f"KEY_{name.upper()}", f"{name}-0123456789abcdef")
        keys[name] = AuthKey(secret=Secret(f"env:KEY_{name.upper()}"), person=name)
    async with open_openai_server(
        tool_call("pay", amount=5),
        skills=(Agent(),),
        tools=[pay],
        agents=AgentSettings(tools=("pay",)),
        keys=keys,
    ) as (_, client):
        first = await create(client.with_options(api_key="ada-0123456789abcdef"), "Pay 5")
        with pytest.raises(openai.NotFoundError):
            await create(
                client.with_options(api_key="eve-0123456789abcdef"),
                answer(first.output[-1].id, True),
            )
    assert PAYMENTS == []


async def test_chat_completions_ask_in_words_and_the_next_message_answers(
    client: AsyncOpenAI,
) -> None:
    thread = {"X-Palaver-Thread": "kept"}
    first = await ask(client, user("Pay 5"), model="agent", extra_headers=thread)
    question = first.choices[0]
    assert question.finish_reason == "stop"
    assert "May I use the tool `pay`" in question.message.content
    assert '"amount": 5' in question.message.content
    second = await ask(client, user("Approve"), model="agent", extra_headers=thread)
    assert second.choices[0].message.content == "It is done."
    assert PAYMENTS == [5]


async def test_without_a_thread_nothing_in_the_messages_approves(client: AsyncOpenAI) -> None:
    first = await ask(client, user("Pay 5"), model="agent")
    said = first.choices[0].message
    asked = [user("Pay 5"), said.model_dump(exclude_none=True), user("Approve")]
    await ask(client, *asked, model="agent")
    again = await ask(client, *asked, model="agent")
    assert "May I use the tool `pay`" in again.choices[0].message.content
    assert PAYMENTS == []
