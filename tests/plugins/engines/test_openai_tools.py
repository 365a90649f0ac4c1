"""Tools at servers of the OpenAI API, however they write calls."""

from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from tests.plugins.engines.fault_injecting_server import (
    GENERIC_CARD,
    VLLM_CARD,
    FaultInjectingServer,
    Handler,
    drop_connection,
    fault_injecting_servers,
    respond_error,
    send_bytes,
    send_stream,
    sse_event,
    text_chunk,
)
from tests.plugins.engines.serving import build_openai
from tests.plugins.engines.support import TextCollector, request

from palaver.engine import ChatMessage, Generation, NamedTool, ToolCall, ToolDefinition
from palaver_plugins.engines.openai_stream import CompletionStream

SIDES = {"type": "object", "properties": {"sides": {"type": "integer"}}}
ROLL = ToolDefinition("roll", "Roll a die.", SIDES)
FLIP = ToolDefinition("flip", "Flip a coin.", {"type": "object", "properties": {}})
TOOLS = {"tools": (ROLL, FLIP)}
CALLS = [("roll", '{"sides": 6}'), ("flip", "{}"), ("roll", '{"sides": 20, "why": "a \\"b\\" {"}')]


def delta(calls: object, **more: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None} | more]}


def ending(reason: str | None) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return {"choices": [{"delta": {}, "finish_reason": reason}], "usage": usage}


def read(*chunks: dict[str, Any], reason: str | None = "tool_calls") -> Generation:
    collector = TextCollector()
    completion = CompletionStream(request("x", **TOOLS), collector, 0)
    for chunk in (*chunks, ending(reason)):
        completion.add(chunk)
    generation = completion.generation()
    assert generation.text == collector.text
    ids = [call.id for call in generation.tool_calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    return generation


def called(generation: Generation) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in generation.tool_calls]


def cut(text: str, places: set[int]) -> list[str]:
    edges = sorted({0, len(text), *(it for it in places if it < len(text))})
    return [text[start:end] for start, end in pairwise(edges)]


@given(
    count=st.integers(1, 3),
    places=st.sets(st.integers(1, 30)),
    ids=st.sampled_from(["first", "each", "none"]),
    indices=st.sampled_from(["right", "zero", "none"]),
    names=st.sampled_from(["first", "each", "empty"]),
    reason=st.sampled_from(["tool_calls", "stop", "function_call", "eos"]),
)
def test_calls_arrive_however_a_server_writes_them(
    count: int, places: set[int], ids: str, indices: str, names: str, reason: str
) -> None:
    chunks = []
    for number, (name, arguments) in enumerate(CALLS[:count]):
        for position, piece in enumerate(["", *cut(arguments, places)]):
            function: dict[str, Any] = {"arguments": piece}
            call: dict[str, Any] = {"function": function}
            if position == 0:
                call["type"] = "function"
                function |= {"name": name}
            elif names != "first":
                function["name"] = name if names == "each" else ""
            if ids == "each" or (ids == "first" and position == 0):
                call["id"] = f"id-{number}"
            if indices != "none":
                call["index"] = number if indices == "right" else 0
            chunks.append(delta([call]))
    generation = read(*chunks, reason=reason)
    assert called(generation) == CALLS[:count]
    assert generation.finish_reason == "tool_calls"
    if ids != "none":
        assert [call.id for call in generation.tool_calls] == [f"id-{n}" for n in range(count)]


def test_interleaved_calls_are_told_apart_by_index_or_id() -> None:
    for key, values in (("index", (0, 1)), ("id", ("a", "b"))):
        chunks = [delta([{key: value, "function": {"name": "roll"}}]) for value in values]
        for piece in ('{"sides":', " 6}"):
            chunks += [delta([{key: it, "function": {"arguments": piece}}]) for it in values]
        assert called(read(*chunks)) == [("roll", '{"sides": 6}')] * 2


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([{"function": {"name": "roll", "arguments": {"sides": 6}}}], [("roll", '{"sides": 6}')]),
        ([{"function": {"name": "flip"}}], [("flip", "{}")]),
        ([{"function": {"name": "flip", "arguments": None}}], [("flip", "{}")]),
        ([{"name": "flip", "arguments": "{}"}], [("flip", "{}")]),
        ({"function": {"name": "flip", "arguments": "{}"}}, [("flip", "{}")]),
        (
            [{"function": {"name": "flip"}}, {"function": {"name": "flip"}}],
            [("flip", "{}"), ("flip", "{}")],
        ),
        ([{"function": {"name": "flip", "arguments": "{half"}}], [("flip", "{half")]),
        ([None, "flip", {"function": None}, {"function": {"arguments": "{}"}}], []),
        (None, []),
        ("flip", []),
    ],
)
def test_a_whole_message_and_odd_forms(calls: object, expected: list[tuple[str, str]]) -> None:
    assert called(read(delta(calls), reason="stop")) == expected
    message = {"choices": [{"message": {"role": "assistant", "tool_calls": calls}}]}
    assert called(read(message, reason="stop")) == expected


@pytest.mark.parametrize("repeats_name", [True, False])
def test_two_calls_of_one_tool_are_told_apart_without_id_and_index(repeats_name: bool) -> None:
    chunks = []
    for sides in ("6", "8"):
        chunks.append(delta([{"function": {"name": "roll", "arguments": '{"sides": '}}]))
        rest: dict[str, str] = {"name": "roll"} if repeats_name else {}
        chunks.append(delta([{"function": rest | {"arguments": sides + "}"}}]))
    assert called(read(*chunks)) == [("roll", '{"sides": 6}'), ("roll", '{"sides": 8}')]


def test_a_name_may_come_in_pieces() -> None:
    chunks = [delta([{"index": 0, "function": {"name": it}}]) for it in ("ro", "ll")]
    assert called(read(*chunks)) == [("roll", "{}")]


def test_two_calls_with_one_id_get_two() -> None:
    calls = [{"id": "same", "index": n, "function": {"name": "flip"}} for n in range(2)]
    generation = read(delta(calls[:1]), delta(calls[1:]))
    assert called(generation) == [("flip", "{}")], "an id is one call"


def test_no_call_is_no_call() -> None:
    assert read(reason="tool_calls").finish_reason == "stop"


def test_the_limit_of_tokens_leaves_out_half_a_call() -> None:
    whole = delta([{"index": 0, "id": "a", "function": {"name": "roll", "arguments": "{}"}}])
    half = delta([{"index": 1, "id": "b", "function": {"name": "roll", "arguments": '{"si'}}])
    generation = read(whole, half, reason="length")
    assert (called(generation), generation.finish_reason) == ([("roll", "{}")], "length")
    assert (read(half, reason="length").tool_calls, read(half).tool_calls != ()) == ((), True)


# Requests


async def generate(handler: Handler, card: dict[str, Any], **options: Any) -> Any:
    async with fault_injecting_servers(handler, card=card) as (server,):
        engine = build_openai(server.url, tools=True)
        await engine.start()
        try:
            generation = await engine.generate(
                request(options.pop("messages", "x"), **({"tools": (ROLL,)} | options)),
                TextCollector(),
            )
        finally:
            await engine.close()
    return generation, server.bodies[-1]


CALLING = send_stream(
    text_chunk("Let me see."),
    sse_event(delta([{"index": 0, "id": "a", "function": {"name": "roll", "arguments": "{}"}}])),
)


async def test_tools_are_sent_and_calls_come_back() -> None:
    generation, body = await generate(CALLING, GENERIC_CARD)
    assert generation.text == "Let me see."
    assert generation.tool_calls == (ToolCall("a", "roll", "{}"),)
    assert generation.finish_reason == "tool_calls"
    function = {"name": "roll", "description": "Roll a die.", "parameters": SIDES}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == "auto"
    assert "parallel_tool_calls" not in body


async def test_vllm_holds_arguments_to_the_schema_only_when_it_is_asked() -> None:
    _, body = await generate(CALLING, VLLM_CARD)
    assert body["tools"][0]["function"]["strict"] is True


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("none", "none"),
        ("required", "required"),
        (NamedTool("roll"), {"type": "function", "function": {"name": "roll"}}),
    ],
)
async def test_the_choice_is_sent(choice: Any, sent: object) -> None:
    _, body = await generate(CALLING, GENERIC_CARD, tool_choice=choice, parallel_tool_calls=False)
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (sent, False)


async def test_calls_and_results_of_the_history_are_sent() -> None:
    calls = (ToolCall("aaaaaaaaa", "roll", '{"sides": 6}'),)
    messages = (
        ChatMessage("user", "Roll"),
        ChatMessage("assistant", "", tool_calls=calls),
        ChatMessage("tool", "4", tool_call_id="aaaaaaaaa"),
    )
    _, body = await generate(CALLING, GENERIC_CARD, messages=messages)
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "aaaaaaaaa",
                    "type": "function",
                    "function": {"name": "roll", "arguments": '{"sides": 6}'},
                }
            ],
        },
        {"role": "tool", "content": "4", "tool_call_id": "aaaaaaaaa"},
    ]


async def test_a_request_without_tools_has_no_field_for_them_and_no_calls() -> None:
    generation, body = await generate(CALLING, GENERIC_CARD, tools=())
    assert generation.tool_calls == ()
    assert generation.finish_reason == "stop"
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & body.keys()


async def test_half_a_call_of_a_server_that_fails_is_not_repeated_by_the_next() -> None:
    half = sse_event(delta([{"index": 0, "id": "x", "function": {"name": "roll"}}]))
    handlers = [
        drop_connection(text_chunk("Let me"), half),
        send_stream(
            text_chunk(" me see."),
            sse_event(delta([{"index": 0, "id": "a", "function": {"name": "roll"}}])),
        ),
    ]

    async def handler(server: FaultInjectingServer, request: web.Request) -> web.StreamResponse:
        return await handlers.pop(0)(server, request)

    async with fault_injecting_servers(handler, handler, card=VLLM_CARD) as servers:
        engine = build_openai(*(it.url for it in servers), tools=True)
        await engine.start()
        collector = TextCollector()
        generation = await engine.generate(request("x", tools=(ROLL,)), collector)
        await engine.close()
    assert not handlers
    assert generation.tool_calls == (ToolCall("a", "roll", "{}"),)
    assert collector.text == generation.text == "Let me see."


# What a server can do


async def has_tools(handler: Handler, card: dict[str, Any], **settings: object) -> bool:
    async with fault_injecting_servers(handler, card=card) as (server,):
        engine = build_openai(server.url, **({"tools": None} | settings))
        info = await engine.start()
        await engine.close()
        asked = [it for it in server.bodies if it.get("tools")]
        assert len(asked) == len(server.bodies) <= 1
    return "tools" in info.capabilities


PING = send_stream(sse_event(delta([{"index": 0, "function": {"name": "ping"}}])))
HELLO = send_stream(text_chunk("Hello"))


async def test_a_server_has_tools_when_it_calls_one_in_a_trial() -> None:
    assert await has_tools(PING, GENERIC_CARD)
    assert not await has_tools(HELLO, GENERIC_CARD)
    assert not await has_tools(respond_error(400, {"error": "no tools"}), GENERIC_CARD)
    assert not await has_tools(send_bytes(b"what?"), GENERIC_CARD)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"supported_parameters": ["tools", "seed"]}, True),
        ({"supported_parameters": ["seed"]}, False),
        ({"capabilities": {"function_calling": True}}, True),
        ({"capabilities": {"function_calling": False}}, False),
        ({"capabilities": ["tool_use"]}, True),
    ],
)
async def test_some_servers_tell_it_with_the_model(fields: dict[str, Any], expected: bool) -> None:
    handler = HELLO if expected else PING  # a trial would find the opposite
    assert await has_tools(handler, GENERIC_CARD | fields) is expected


async def test_the_setting_decides() -> None:
    assert await has_tools(HELLO, GENERIC_CARD, tools=True)
    assert not await has_tools(PING, GENERIC_CARD, tools=False)
    assert await has_tools(HELLO, GENERIC_CARD | {"supported_parameters": []}, tools=True)


async def test_vllm_has_tools_when_it_takes_them_and_the_template_shows_them() -> None:
    async def trial(handler: Handler, *, shows_tools: bool) -> bool:
        async with fault_injecting_servers(handler, card=VLLM_CARD) as (server,):
            server.shows_tools = shows_tools
            engine = build_openai(server.url, tools=None)
            info = await engine.start()
            await engine.close()
        return "tools" in info.capabilities

    refusing = respond_error(400, {"message": '"auto" tool choice requires a parser'})
    assert await trial(HELLO, shows_tools=True)
    assert not await trial(HELLO, shows_tools=False)
    assert not await trial(refusing, shows_tools=True)


async def test_tokens_of_tools_are_counted() -> None:
    question = [ChatMessage("user", "x")]
    async with fault_injecting_servers(HELLO, card=VLLM_CARD) as (server,):
        server.shows_tools = True
        engine = build_openai(server.url, tools=True)
        await engine.start()
        with_tool = await engine.count_tokens(question, [ROLL])
        assert with_tool > await engine.count_tokens(question)
        await engine.close()
    async with fault_injecting_servers(respond_error(200, {})) as (server,):
        engine = build_openai(server.url, tools=True)
        await engine.start()
        with_tool = await engine.count_tokens(question, [ROLL])
        assert with_tool > await engine.count_tokens(question)
        assert server.bodies[0]["tools"]
        await engine.close()
