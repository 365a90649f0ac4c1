"""The scripted engine calls tools as a model does."""

import json

import pytest

from palaver.engine import (
    ChatMessage,
    Generation,
    GenerationRequest,
    NamedTool,
    Sampling,
    ToolCall,
    ToolDefinition,
)
from palaver.errors import EngineUnavailable, Unsupported
from palaver.testing import ScriptedEngine, ScriptedReply, tool_call

ROLL = ToolDefinition(
    "roll",
    "Roll a die.",
    {
        "type": "object",
        "properties": {"sides": {"type": "integer"}, "name": {"type": "string"}},
        "required": ["sides"],
        "additionalProperties": False,
    },
)
FLIP = ToolDefinition("flip", "Flip a coin.", {"type": "object", "properties": {}})


async def generate(engine: ScriptedEngine, text: str = "hi", **options: object) -> Generation:
    pieces: list[str] = []
    sampling = Sampling(max_tokens=int(str(options.pop("max_tokens", 512))))
    options = {"tools": (ROLL, FLIP)} | options
    request = GenerationRequest(
        id="r",
        messages=(ChatMessage("user", text),),
        tenant="t",
        sampling=sampling,
        **options,  # type: ignore[arg-type]
    )
    generation = await engine.generate(request, pieces.append)
    assert "".join(pieces) == generation.text
    return generation


async def started(*replies: object, **options: object) -> ScriptedEngine:
    engine = ScriptedEngine(*replies, **options)  # type: ignore[arg-type]
    await engine.start()
    return engine


def called(generation: Generation) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in generation.tool_calls]


async def test_a_call_and_then_the_answer() -> None:
    engine = await started(tool_call("roll", sides=6), "You have a 4.")
    first = await generate(engine)
    assert (called(first), first.finish_reason) == ([("roll", {"sides": 6})], "tool_calls")
    assert first.text == ""
    second = await generate(engine)
    assert (second.text, second.finish_reason, second.tool_calls) == ("You have a 4.", "stop", ())


async def test_text_comes_before_parallel_calls() -> None:
    calls = (tool_call("roll", sides=6), tool_call("flip"))
    engine = await started(lambda _: ScriptedReply(text="Let me see.", tool_calls=calls))
    generation = await generate(engine)
    assert generation.text == "Let me see."
    assert called(generation) == [("roll", {"sides": 6}), ("flip", {})]
    one = await generate(engine, parallel_tool_calls=False)
    assert called(one) == [("roll", {"sides": 6})]


async def test_an_id_is_given_where_the_script_has_none() -> None:
    engine = await started(lambda _: tool_call("flip"))
    ids = {(await generate(engine)).tool_calls[0].id for _ in range(3)}
    assert len(ids) == 3
    own = await started(ToolCall("mine", "flip", "{not JSON"))
    assert (await generate(own)).tool_calls == (ToolCall("mine", "flip", "{not JSON"),)


async def test_the_choice_of_tools_holds() -> None:
    calling = await started(lambda _: ScriptedReply(text="Well.", tool_calls=(tool_call("flip"),)))
    for options in ({"tool_choice": "none"}, {"tools": ()}):
        generation = await generate(calling, **options)
        assert (generation.text, generation.tool_calls) == ("Well.", ())
        assert generation.finish_reason == "stop"
    named = await generate(calling, tool_choice=NamedTool("roll"))
    assert called(named) == [("roll", {"sides": 0})]
    talking = await started(lambda _: "No.")
    assert called(await generate(talking, tool_choice="required")) == [("roll", {"sides": 0})]
    assert not (await generate(talking)).tool_calls


async def test_the_limit_of_tokens_leaves_out_half_a_call() -> None:
    calls = (tool_call("flip"), tool_call("roll", sides=6))  # 2 and 3 tokens
    engine = await started(lambda _: ScriptedReply(text="Let me see.", tool_calls=calls))
    for limit, text, count, reason in (
        (2, "Let me", 0, "length"),
        (4, "Let me see.", 0, "length"),
        (5, "Let me see.", 1, "length"),
        (7, "Let me see.", 1, "length"),
        (8, "Let me see.", 2, "tool_calls"),
    ):
        generation = await generate(engine, max_tokens=limit)
        assert generation.usage.completion_tokens == limit
        assert (generation.text, len(generation.tool_calls)) == (text, count)
        assert generation.finish_reason == reason


async def test_a_crash_inside_a_call_delivers_none_of_it() -> None:
    reply = ScriptedReply(text="Wait.", tool_calls=(tool_call("roll", sides=6),), crash_after=2)
    engine = await started(reply)
    with pytest.raises(EngineUnavailable):
        await generate(engine)
    await engine.start()
    rest = await generate(engine, partial="Wait.")
    assert (rest.text, called(rest)) == ("", [("roll", {"sides": 6})])


async def test_tools_and_calls_are_counted() -> None:
    engine = await started("One.", "Two.")
    plain = await generate(engine, tools=())
    with_tools = await generate(engine)
    assert with_tools.usage.prompt_tokens > plain.usage.prompt_tokens
    question = [ChatMessage("user", "hi")]
    assert await engine.count_tokens(question, [ROLL, FLIP]) == with_tools.usage.prompt_tokens
    calls = (ToolCall("1", "roll", '{"sides": 6}'),)
    called = [*question, ChatMessage("assistant", "", tool_calls=calls)]
    assert await engine.count_tokens(called) > await engine.count_tokens(question) + 2


async def test_the_capability_may_be_missing() -> None:
    engine = await started("Hi.", missing_capabilities=["tools"])
    assert (await generate(engine, tools=())).text == "Hi."
    with pytest.raises(Unsupported, match="'tools'"):
        await generate(engine)
    with pytest.raises(Unsupported, match="'tools'"):
        await engine.count_tokens([ChatMessage("user", "hi")], [FLIP])
