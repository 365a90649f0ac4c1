"""Tools of a program, in Chat Completions: they reach the engine's own model, and its calls come
back as the client expects them."""

import copy
import json
from typing import Any

import openai
import pytest
from tests.plugins.channels.openai_support import MODEL, NamedEngine, ask, open_openai_server, user

from palaver import NamedTool, ToolCall
from palaver.testing import ScriptedReply, tool_call

pytestmark = pytest.mark.slow

THERMOMETER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How warm it is.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
TWO_CALLS = ScriptedReply(
    text="Let me see.",
    tool_calls=(
        ToolCall("call_1", "weather", '{"city": "Göttingen"}'),
        ToolCall("call_2", "weather", '{"city": "' + "x" * 500 + '"}'),
    ),
)


async def test_the_calls_of_the_model_are_those_of_the_reply() -> None:
    async with open_openai_server(TWO_CALLS) as (_, client):
        answer = await ask(client, user("How warm?"), model=MODEL, tools=[THERMOMETER, CLOCK])
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    found = [(it.id, it.type, it.function.name) for it in choice.message.tool_calls]
    assert found == [("call_1", "function", "weather"), ("call_2", "function", "weather")]
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Göttingen"}


async def test_a_call_without_text_has_no_content() -> None:
    async with open_openai_server(tool_call("clock")) as (_, client):
        answer = await ask(client, user("Which time?"), model=MODEL, tools=[CLOCK])
    assert answer.choices[0].message.content is None
    assert answer.choices[0].message.tool_calls[0].function.arguments == "{}"


async def test_a_stream_has_the_name_first_then_pieces_of_the_arguments() -> None:
    async with open_openai_server(TWO_CALLS) as (_, client):
        stream = await ask(
            client,
            user("How warm?"),
            model=MODEL,
            tools=[THERMOMETER],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    heads = [(it.index, it.id, it.function.name, it.function.arguments) for it in calls if it.id]
    assert heads == [(0, "call_1", "weather", ""), (1, "call_2", "weather", "")]
    for index, arguments in ((0, '{"city": "Göttingen"}'), (1, TWO_CALLS.tool_calls[1].arguments)):
        pieces = [it.function.arguments for it in calls if it.index == index and not it.id]
        assert "".join(pieces) == arguments
        assert all(it.function.name is None for it in calls if it.index == index and not it.id)
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] == "tool_calls"
    assert chunks[-1].choices == []
    assert "".join(delta.content or "" for delta in deltas) == "Let me see."


async def test_the_stream_helper_of_the_client_collects_the_calls() -> None:
    async with (
        open_openai_server(TWO_CALLS) as (_, client),
        client.chat.completions.stream(
            model=MODEL, messages=[user("How warm?")], tools=[THERMOMETER]
        ) as stream,
    ):
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    assert len(final.choices[0].message.tool_calls or ()) == 2


async def test_the_model_gets_tools_choice_calls_and_results_as_they_were_sent() -> None:
    engine = NamedEngine("15 degrees.")
    sent = [
        user("How warm?"),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"degrees": 15}'},
    ]
    async with open_openai_server(engine=engine) as (_, client):
        answer = await ask(
            client, *sent, model=MODEL, tools=[THERMOMETER], parallel_tool_calls=False
        )
    assert answer.choices[0].message.content == "15 degrees."
    request = engine.requests[-1]
    asked, called, result = request.messages
    assert (asked.role, asked.content) == ("user", "How warm?")
    (call,) = called.tool_calls  # the engine gets ids of its own
    assert (call.name, call.arguments) == ("weather", '{"city": "Rome"}')
    assert (result.role, result.content, result.tool_call_id) == (
        "tool",
        '{"degrees": 15}',
        call.id,
    )
    assert [tool.name for tool in request.tools] == ["weather"]
    assert request.tools[0].parameters == THERMOMETER["function"]["parameters"]
    assert request.parallel_tool_calls is False


@pytest.mark.parametrize(
    ("choice", "expected", "names"),
    [
        ("auto", "auto", ["weather", "clock"]),
        ("required", "required", ["weather", "clock"]),
        (
            {"type": "function", "function": {"name": "clock"}},
            NamedTool("clock"),
            ["weather", "clock"],
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "clock"}}],
                },
            },
            "required",
            ["clock"],
        ),
        ("none", "auto", []),
    ],
)
async def test_every_choice_of_tools_reaches_the_engine(
    choice: Any, expected: object, names: list[str]
) -> None:
    engine = NamedEngine("hi")
    async with open_openai_server(engine=engine) as (_, client):
        await ask(client, user("x"), model=MODEL, tools=[THERMOMETER, CLOCK], tool_choice=choice)
    request = engine.requests[-1]
    assert (request.tool_choice, [tool.name for tool in request.tools]) == (expected, names)


FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "point", "schema": {"type": "object", "properties": {}}},
}


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
async def test_a_format_means_nothing_where_a_call_is_forced(choice: Any) -> None:
    engine = NamedEngine(lambda _: tool_call("weather", city="Rome"))
    fields: Any = {"model": MODEL, "tools": [THERMOMETER], "response_format": FORMAT}
    async with open_openai_server(engine=engine) as (_, client):
        answer = await ask(client, user("x"), tool_choice=choice, **fields)
        forced: Any = {
            "tools": [{"type": "function", "strict": False, **THERMOMETER["function"]}],
            "tool_choice": "required",
            "text": {"format": {"type": "json_object"}},
        }
        response = await client.responses.create(model=MODEL, input="x", **forced)
        with pytest.raises(openai.BadRequestError) as raised:
            await ask(client, user("x"), **fields)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert response.output[0].type == "function_call"
    assert [request.sampling.structure for request in engine.requests] == [None, None]
    assert raised.value.param == "response_format"


async def test_a_repeated_request_gets_the_same_calls() -> None:
    engine = NamedEngine(TWO_CALLS)
    async with open_openai_server(engine=engine) as (_, client):
        answers = [
            await ask(
                client,
                user("How warm?"),
                model=MODEL,
                tools=[THERMOMETER],
                extra_headers={"Idempotency-Key": "k"},
            )
            for _ in range(2)
        ]
    assert answers[0].choices == answers[1].choices
    assert len(engine.requests) == 1


async def test_tools_are_refused_where_nobody_calls_them() -> None:
    blind = NamedEngine(lambda _: "hi", missing_capabilities=["tools", "json_schema"])
    for engine, model in ((blind, MODEL), (NamedEngine(lambda _: "hi"), "talker")):
        async with open_openai_server(engine=engine) as (_, client):
            await ask(client, user("x"), model=model, tools=[THERMOMETER], tool_choice="none")
            with pytest.raises(openai.BadRequestError) as raised:
                await ask(client, user("x"), model=model, tools=[THERMOMETER])
        assert raised.value.param == "tools"


async def test_a_model_without_tools_reads_calls_as_text() -> None:
    engine = NamedEngine("fine", missing_capabilities=["tools", "json_schema"])
    call = {"id": "c", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    async with open_openai_server(engine=engine) as (_, client):
        await ask(
            client,
            user("Which time?"),
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "noon"},
            model=MODEL,
        )
    contents = [message.content for message in engine.requests[-1].messages]
    assert contents == ["Which time?", "[calls clock({})]", "noon"]


async def test_every_response_has_a_request_id() -> None:
    async with open_openai_server("hi", "hi") as (_, opened):
        raw = await opened.chat.completions.with_raw_response.create(
            model=MODEL, messages=[user("x")]
        )
        assert raw.parse().id == f"chatcmpl-{raw.headers['x-request-id']}"
        with pytest.raises(openai.NotFoundError) as raised:
            await ask(opened, user("x"), model="nobody")
        assert raised.value.request_id


async def test_tools_that_do_not_fit_are_refused_before_anything_is_stored() -> None:
    tool = copy.deepcopy(THERMOMETER)
    tool["function"]["description"] = "word " * 800
    engine = NamedEngine("hi", context_window=512)
    async with open_openai_server(engine=engine) as (_, client):
        with pytest.raises(openai.BadRequestError) as raised:
            await ask(client, user("x"), model=MODEL, tools=[tool])
    assert raised.value.code == "context_length_exceeded"
    assert not engine.requests
