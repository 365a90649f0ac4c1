"""Tools of a program beside a skill's own: the skill waits for their results, and goes on."""

import json
from typing import Any

import openai
import pytest
from tests.plugins.channels.openai_support import NamedEngine, ask, open_openai_server, user
from tests.plugins.channels.test_openai_tools import THERMOMETER

from palaver import GenerationRequest, ToolCall, tool
from palaver.config.settings import AgentSettings
from palaver.testing import ScriptedReply, tool_call
from palaver_skills.agent import Agent
from palaver_skills.chat import Chat

pytestmark = pytest.mark.slow

RESPONSE_TOOL: Any = {"type": "function", "strict": False, **THERMOMETER["function"]}
HOW_WARM = tool_call("weather", city="Rome")


class Purse:
    """A tool of the server with an effect, which must come once."""

    def __init__(self) -> None:
        self.paid: list[int] = []

        @tool
        def pay(amount: int) -> str:
            """Pay."""
            self.paid.append(amount)
            return f"paid {amount}"

        self.tool = pay


def agent_server(*replies: Any, purse: Purse, engine: NamedEngine | None = None) -> Any:
    """Open a server whose skills `agent` and `chat` may pay."""
    return open_openai_server(
        engine=engine or NamedEngine(*replies),
        skills=(Agent(), Chat()),
        tools=[purse.tool],
        agents=AgentSettings(tools=("pay",)),
    )


def result_of(answer: Any, text: str = "15 degrees") -> list[Any]:
    """Return the messages that bring the result of the call in an answer."""
    said = answer.choices[0].message.model_dump(exclude_none=True)
    (call,) = said["tool_calls"]
    return [said, {"role": "tool", "tool_call_id": call["id"], "content": text}]


def seen(request: GenerationRequest) -> list[tuple[str, str]]:
    """Return the messages of a request after the system text, with calls as their names."""
    return [
        (it.role, it.content or ",".join(call.name for call in it.tool_calls))
        for it in request.messages
        if it.role != "system"
    ]


PAID = ("tool", "<result>\npaid 5\n</result>")
WARM = ("tool", "<result>\n15 degrees\n</result>")


@pytest.mark.parametrize("model", ["agent", "chat"])
async def test_the_result_of_the_program_continues_the_work_of_the_skill(model: str) -> None:
    purse = Purse()
    engine = NamedEngine(tool_call("pay", amount=5), HOW_WARM, "Paid, and it is warm.")
    async with agent_server(purse=purse, engine=engine) as (_, client):
        asked = [user("Pay 5. How warm?")]
        first = await ask(client, *asked, model=model, tools=[THERMOMETER])
        assert first.choices[0].finish_reason == "tool_calls"
        (call,) = first.choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == (
            "weather",
            {"city": "Rome"},
        )
        asked += result_of(first)
        second = await ask(client, *asked, model=model, tools=[THERMOMETER])
    assert second.choices[0].message.content == "Paid, and it is warm."
    assert second.choices[0].finish_reason == "stop"
    assert purse.paid == [5]
    request = engine.requests[-1]
    assert [each.name for each in request.tools] == ["pay", "weather"]
    assert seen(request) == [
        ("user", "Pay 5. How warm?"),
        *(("assistant", "pay"), PAID),
        *(("assistant", "weather"), WARM),
    ]


async def test_calls_of_both_kinds_in_one_step() -> None:
    purse = Purse()
    both = ScriptedReply(text="Now.", tool_calls=(HOW_WARM, tool_call("pay", amount=5)))
    engine = NamedEngine(both, "Done.")
    async with agent_server(purse=purse, engine=engine) as (_, client):
        first = await ask(client, user("x"), model="agent", tools=[THERMOMETER])
        assert first.choices[0].message.content == "Now."
        assert purse.paid == [5]
        second = await ask(client, user("x"), *result_of(first), model="agent", tools=[THERMOMETER])
    assert second.choices[0].message.content == "Done."
    assert seen(engine.requests[-1])[1:] == [("assistant", "Now."), WARM, PAID]
    assert purse.paid == [5]


async def test_the_skill_sees_the_same_history_in_both_turns() -> None:
    engine = NamedEngine(HOW_WARM, HOW_WARM, "Warm.")
    begun = [
        {"role": "developer", "content": "Be brief."},
        user("I am Bob"),
        {"role": "assistant", "content": "Hello Bob"},
        user("How warm?"),
    ]
    async with agent_server(purse=Purse(), engine=engine) as (_, client):
        for _ in range(2):
            answer = await ask(client, *begun, model="agent", tools=[THERMOMETER])
            begun += result_of(answer)
        last = await ask(client, *begun, model="agent", tools=[THERMOMETER])
    assert last.choices[0].message.content == "Warm."
    for request in engine.requests:
        assert "Be brief." in request.messages[0].content
        assert seen(request)[:3] == [(it["role"], it["content"]) for it in begun[1:4]]
    assert seen(engine.requests[-1])[-4:] == [("assistant", "weather"), WARM] * 2


async def test_a_stream_ends_with_the_calls_and_goes_on_after_their_results() -> None:
    async with agent_server(HOW_WARM, "It is warm.", purse=Purse()) as (_, client):
        async with client.chat.completions.stream(
            model="agent", messages=[user("x")], tools=[THERMOMETER]
        ) as stream:
            first = await stream.get_final_completion()
        messages = [user("x"), *result_of(first)]
        async with client.chat.completions.stream(
            model="agent", messages=messages, tools=[THERMOMETER]
        ) as stream:
            second = await stream.get_final_completion()
    assert second.choices[0].message.content == "It is warm."


async def test_a_conversation_that_the_server_keeps_goes_on_as_well() -> None:
    headers = {"X-Palaver-Thread": "kept"}
    purse = Purse()
    replies = [tool_call("pay", amount=5), HOW_WARM, "Warm."]
    async with agent_server(*replies, purse=purse) as (_, client):
        fields: Any = {"model": "agent", "tools": [THERMOMETER], "extra_headers": headers}
        first = await ask(client, user("x"), **fields)
        second = await ask(client, *result_of(first), **fields)
    assert second.choices[0].message.content == "Warm."
    assert purse.paid == [5]


@pytest.mark.parametrize("way", ["previous", "whole", "conversation"])
async def test_a_response_goes_on_after_the_output_of_its_call(way: str) -> None:
    purse = Purse()
    replies = [tool_call("pay", amount=5), HOW_WARM, "Warm."]
    async with agent_server(*replies, purse=purse) as (_, client):
        more: Any = {}
        if way == "conversation":
            more = {"conversation": (await client.conversations.create()).id}
        create = client.responses.create
        first = await create(model="agent", input="x", tools=[RESPONSE_TOOL], **more)
        paid, call = first.output
        assert (paid.type, call.type, call.name) == ("mcp_call", "function_call", "weather")
        assert first.status == "completed"
        output: Any = {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": "15 degrees",
        }
        sent = [output]
        if way == "previous":
            more = {"previous_response_id": first.id}
        elif way == "whole":
            items = [item.model_dump(exclude_none=True) for item in first.output]
            sent = [user("x"), *items, output]
        second = await create(model="agent", input=sent, tools=[RESPONSE_TOOL], **more)
        again = await client.responses.retrieve(first.id)
    assert second.output_text == "Warm."
    assert purse.paid == [5]
    assert again.output == first.output


async def test_tools_with_one_name_are_refused_by_it() -> None:
    clash = {"type": "function", "function": {"name": "pay"}}
    async with agent_server("x", purse=Purse()) as (_, client):
        with pytest.raises(openai.BadRequestError) as raised:
            await ask(client, user("x"), model="agent", tools=[clash])
    assert "'pay' of the program has the name of another tool" in raised.value.message


async def test_results_that_come_again_never_repeat_an_effect() -> None:
    purse = Purse()
    engine = NamedEngine(tool_call("pay", amount=5), HOW_WARM, "Warm.", HOW_WARM, "Warm.", "Mild.")
    async with agent_server(purse=purse, engine=engine) as (_, client):
        fields: Any = {"model": "agent", "tools": [THERMOMETER]}
        first = [user("x"), *result_of(await ask(client, user("x"), **fields))]
        key = {"Idempotency-Key": "k"}
        answers = [await ask(client, *first, **fields, extra_headers=key) for _ in range(2)]
        assert answers[0].choices == answers[1].choices
        with pytest.raises(openai.BadRequestError) as raised:
            await ask(client, *first, **fields)
        assert "sent before" in raised.value.message
        assert raised.value.param == "messages[2].tool_call_id"
        second = [user("y"), *result_of(await ask(client, user("y"), **fields))]
        for expected in ("Warm.", "Mild."):  # no tool of the server was called
            answer = await ask(client, *second, **fields)
            assert answer.choices[0].message.content == expected
    assert seen(engine.requests[-1]) == [("user", "y"), ("assistant", "weather"), WARM]
    assert purse.paid == [5]


async def test_results_that_do_not_fit_are_refused_by_name() -> None:
    two = ScriptedReply(text="", tool_calls=(HOW_WARM, tool_call("weather", city="Oslo")))
    unknown = {"role": "tool", "tool_call_id": f"call_{'0' * 32}_1_0", "content": "x"}
    async with agent_server(two, purse=Purse()) as (_, client):
        fields: Any = {"model": "agent", "tools": [THERMOMETER]}
        first = await ask(client, user("x"), **fields)
        said = first.choices[0].message
        one, other = said.tool_calls
        lone = {"role": "tool", "tool_call_id": one.id, "content": "15 degrees"}
        for result, told in ((lone, f"{other.id!r}, too"), (unknown, "no longer stored")):
            with pytest.raises(openai.BadRequestError) as raised:
                await ask(client, user("x"), said.model_dump(), result, **fields)
            assert told in raised.value.message


async def test_results_of_another_program_follow_the_message() -> None:
    engine = NamedEngine("Warm.")
    foreign = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    async with agent_server(purse=Purse(), engine=engine) as (_, client):
        await ask(
            client,
            user("How warm?"),
            {"role": "assistant", "tool_calls": [foreign]},
            {"role": "tool", "tool_call_id": "c", "content": "15 degrees"},
            model="agent",
        )
    assert seen(engine.requests[-1]) == [("user", "How warm?"), ("assistant", "weather"), WARM]


async def test_a_tool_with_an_effect_needs_an_approval_after_a_result_of_the_program() -> None:
    purse = Purse()
    async with agent_server(HOW_WARM, tool_call("pay", amount=5), purse=purse) as (_, client):
        fields: Any = {"model": "agent", "tools": [THERMOMETER]}
        first = await ask(client, user("x"), **fields)
        second = await ask(client, user("x"), *result_of(first), **fields)
    assert "May I use the tool `pay`" in second.choices[0].message.content
    assert purse.paid == []


async def test_the_limits_of_an_agent_begin_anew_with_each_result() -> None:
    engine = NamedEngine(*[HOW_WARM] * 5, "Warm.")
    agents = AgentSettings(tools=(), steps=2, calls=2, repeated_calls=1)
    async with open_openai_server(engine=engine, skills=(Agent(),), agents=agents) as (
        _,
        client,
    ):
        messages = [user("x")]
        for _ in range(5):
            answer = await ask(client, *messages, model="agent", tools=[THERMOMETER])
            messages += result_of(answer)
        last = await ask(client, *messages, model="agent", tools=[THERMOMETER])
    assert last.choices[0].message.content == "Warm."


async def test_a_call_above_the_limit_is_told_to_the_model_and_not_to_the_program() -> None:
    calls = tuple(ToolCall("", "weather", f'{{"city": "{name}"}}') for name in "abc")
    engine = NamedEngine(ScriptedReply(text="", tool_calls=calls), "Warm.")
    agents = AgentSettings(tools=(), calls_per_step=2)
    async with open_openai_server(engine=engine, skills=(Agent(),), agents=agents) as (
        _,
        client,
    ):
        first = await ask(client, user("x"), model="agent", tools=[THERMOMETER])
        said = first.choices[0].message
        assert len(said.tool_calls) == 2
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "15 degrees"}
            for call in said.tool_calls
        ]
        await ask(client, user("x"), said.model_dump(), *results, model="agent")
    *_, one, two, three = seen(engine.requests[-1])
    assert one == two == WARM
    assert "It was not made, since the limit of 2 calls per step" in three[1]
