"""Conformance suite of all engines that call tools, natively or by constrained JSON.

The models are tiny: these tests are about the mechanics of calls, not about wise ones.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.plugins.engines.conftest import FACTORIES, MARKS, serving_module
from tests.plugins.engines.models import ENDLESS_PROMPT, write_tool_model
from tests.plugins.engines.support import IDLE, StartedEngine, TextCollector, request

from palaver.engine import ChatMessage, Engine, Generation, NamedTool, ToolCall, ToolDefinition
from palaver.engines.boundary import EngineBoundary
from palaver.engines.tool_calling import ToolCallingEngine
from palaver.errors import EngineUnavailable, InvalidInput, Unsupported
from palaver.schemas import validator_of
from palaver.testing import ScriptedEngine

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

LAMP = ToolDefinition(
    "switch_lamp",
    "Switch a lamp on or off.",
    {
        "type": "object",
        "properties": {
            "lamp": {"enum": ["red", "green", 'the "deep" blue']},
            "is_on": {"type": "boolean"},
            "levels": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2},
        },
        "required": ["lamp", "is_on"],
        "additionalProperties": False,
    },
)
BLIND = ToolDefinition("raise_blind", "Raise the blind.", {"type": "object", "properties": {}})
TOOLS = {tool.name: tool for tool in (LAMP, BLIND)}
QUESTION = ChatMessage("user", ENDLESS_PROMPT)
CALL = ToolCall("aaaaaaaaa", "switch_lamp", '{"lamp": "red", "is_on": true}')

NATIVE, BY_JSON = "native", "json"
ENGINES = [
    ("scripted", NATIVE),
    ("scripted", BY_JSON),
    ("openvino", NATIVE),
    ("openvino", BY_JSON),
    ("llamacpp", NATIVE),
    ("llamacpp", BY_JSON),
    ("transformers", NATIVE),
    ("vllm", NATIVE),
    ("vllm", BY_JSON),
    ("openai", NATIVE),
    ("openai", BY_JSON),
]
WITHOUT_SCHEMAS = ("transformers",)
"""Engines that do not hold the arguments of a call to its schema."""


@asynccontextmanager
async def make_engine(name: str, kind: str, model: Path) -> AsyncIterator[Engine]:
    if name == "scripted":
        missing = ["tools"] if kind == BY_JSON else []
        yield ScriptedEngine(seconds_per_token=0.0005, missing_capabilities=missing)  # type: ignore[arg-type]
    elif name == "openai" and kind == NATIVE:
        parser = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
        async with serving_module().openai_engine(model, parser) as engine:
            yield engine
    else:
        async with FACTORIES[name](model) as engine:
            yield engine


@pytest.fixture(scope="session")
def tool_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tool_model(tmp_path_factory.mktemp("engines") / "walker")


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param(it, marks=MARKS.get(it[0], []), id=f"{it[0]}-{it[1]}") for it in ENGINES],
)
async def calling(
    request: pytest.FixtureRequest, model: Path, tool_model: Path
) -> AsyncIterator[StartedEngine]:
    """Yield each engine as the server has it: behind what adds tools where they are missing."""
    name, kind = request.param
    chosen = tool_model if kind == NATIVE else model
    async with make_engine(name, kind, chosen) as inner:
        try:
            info = await inner.start()
            assert ("tools" in info.capabilities) == (kind == NATIVE)
            engine = ToolCallingEngine(EngineBoundary(inner))
            info = await engine.start()
            assert "tools" in info.capabilities
            yield StartedEngine(name, engine, info, FACTORIES[name], chosen)
        finally:
            await inner.close()


async def generate(calling: StartedEngine, *messages: ChatMessage, **options: Any) -> Generation:
    """Generate with the tools, and check what holds for every generation."""
    collector = TextCollector()
    options = {"tools": (LAMP, BLIND)} | options
    generation = await calling.engine.generate(
        request(messages or (QUESTION,), **options), collector
    )
    assert collector.text == generation.text
    assert all(collector.pieces)
    assert generation.usage.prompt_tokens > 0
    ids = [call.id for call in generation.tool_calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    if generation.tool_calls:
        assert generation.finish_reason in ("tool_calls", "length")
    else:
        assert generation.finish_reason in ("stop", "length")
    if calling.name not in WITHOUT_SCHEMAS:
        for call in generation.tool_calls:
            check_call(call)
    return generation


def check_call(call: ToolCall) -> None:
    arguments = json.loads(call.arguments)
    assert validator_of(TOOLS[call.name].parameters).problem(arguments) == ""


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_required_call_has_valid_arguments(
    calling: StartedEngine, temperature: float
) -> None:
    generation = await generate(
        calling, tool_choice="required", temperature=temperature, max_tokens=200
    )
    if calling.name not in WITHOUT_SCHEMAS:
        assert generation.tool_calls
        assert generation.finish_reason == "tool_calls"
        assert generation.text == ""


@pytest.mark.parametrize("tool", [LAMP, BLIND], ids=lambda tool: tool.name)
async def test_a_named_tool_is_called_and_no_other(
    calling: StartedEngine, tool: ToolDefinition
) -> None:
    generation = await generate(
        calling, tool_choice=NamedTool(tool.name), temperature=1.0, max_tokens=200
    )
    names = {call.name for call in generation.tool_calls}
    assert names == {tool.name} or (calling.name in WITHOUT_SCHEMAS and not names)


async def test_no_tool_is_called_where_none_may_be(calling: StartedEngine) -> None:
    for options in ({"tool_choice": "none"}, {"tools": ()}):
        generation = await generate(calling, max_tokens=20, **options)
        assert generation.text
        assert not generation.tool_calls


async def test_by_itself_the_model_answers_or_calls(calling: StartedEngine) -> None:
    for _ in range(6):
        generation = await generate(calling, temperature=1.0, max_tokens=60)
        assert generation.usage.completion_tokens <= 60


async def test_a_call_may_be_the_only_one(calling: StartedEngine) -> None:
    for choice in ("auto", "required"):
        generation = await generate(
            calling,
            tool_choice=choice,
            parallel_tool_calls=False,
            temperature=1.0,
            max_tokens=200,
        )
        assert len(generation.tool_calls) <= 1


async def test_a_result_is_read_with_its_call(calling: StartedEngine) -> None:
    history = (QUESTION, ChatMessage("assistant", "Wait.", tool_calls=(CALL,)))
    counts = []
    for result in ("It is on.", "It is on. The rain falls on the quiet hills."):
        messages = (*history, ChatMessage("tool", result, tool_call_id=CALL.id))
        generation = await generate(calling, *messages, tools=(), max_tokens=10)
        assert generation.text
        counts.append(await calling.engine.count_tokens(messages))
        assert generation.usage.prompt_tokens == counts[-1]
        assert (await generate(calling, *messages, max_tokens=10)).usage.completion_tokens
    assert counts[1] > counts[0] > await calling.engine.count_tokens((QUESTION,))


async def test_calls_of_one_message_have_their_results(calling: StartedEngine) -> None:
    calls = (CALL, ToolCall("bbbbbbbbb", "raise_blind", "{}"))
    messages = (
        ChatMessage("system", "Be brief."),
        QUESTION,
        ChatMessage("assistant", "", tool_calls=calls),
        ChatMessage("tool", "It is up.", tool_call_id="bbbbbbbbb"),
        ChatMessage("user", "Go on"),
    )
    generation = await generate(calling, *messages, tool_choice="required", max_tokens=200)
    assert generation.tool_calls or calling.name in WITHOUT_SCHEMAS


async def test_tools_are_counted(calling: StartedEngine) -> None:
    counted = await calling.engine.count_tokens((QUESTION,), (LAMP, BLIND))
    assert counted > await calling.engine.count_tokens((QUESTION,), (BLIND,))
    assert counted > await calling.engine.count_tokens((QUESTION,)) + 10
    generation = await generate(calling, max_tokens=5)
    assert generation.usage.prompt_tokens == counted


@pytest.mark.parametrize("limit", [1, 4])
async def test_a_limit_inside_a_call_leaves_none(calling: StartedEngine, limit: int) -> None:
    generation = await generate(calling, tool_choice=NamedTool("switch_lamp"), max_tokens=limit)
    assert (generation.tool_calls, generation.finish_reason) == ((), "length")
    assert generation.text == ""


async def test_cancelling_frees_the_slots(calling: StartedEngine) -> None:
    for choice in ("auto", "required"):
        tasks = [
            asyncio.create_task(
                generate(calling, tool_choice=choice, temperature=1.0, max_tokens=3000)
            )
            for _ in range(8)
        ]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert {type(end) for end in ends} <= {asyncio.CancelledError, Generation}, ends
        await calling.wait_until_idle()
    assert (await generate(calling, tools=(), max_tokens=5)).text


async def test_generations_with_and_without_tools_do_not_disturb_each_other(
    calling: StartedEngine,
) -> None:
    alone = await generate(calling, tools=(), max_tokens=20)
    async with asyncio.TaskGroup() as group:
        bound = [
            group.create_task(generate(calling, tool_choice="required", max_tokens=200))
            for _ in range(4)
        ]
        free = [group.create_task(generate(calling, tools=(), max_tokens=20)) for _ in range(4)]
    assert {task.result().text for task in free} == {alone.text}
    if calling.name not in WITHOUT_SCHEMAS:
        assert all(task.result().tool_calls for task in bound)
    assert await calling.engine.stats() == IDLE


async def test_a_partial_reply_is_continued_beside_tools(calling: StartedEngine) -> None:
    if not calling.has("continuation"):
        with pytest.raises(Unsupported):
            await generate(calling, partial="The rain")
        return
    generation = await generate(calling, partial="The old dog", max_tokens=30)
    assert not generation.text.startswith("The old dog")
    assert generation.usage.completion_tokens <= 30


@pytest.mark.parametrize(
    "options",
    [
        {"tools": (ToolDefinition("a b", "", LAMP.parameters),)},
        {"tools": (ToolDefinition("a", "", {"type": "object", "properties": 1}),)},
        {"tool_choice": NamedTool("no_such_tool")},
    ],
    ids=["name", "schema", "choice"],
)
async def test_wrong_tools_are_refused(calling: StartedEngine, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await generate(calling, **options)
    assert (await generate(calling, tools=(), max_tokens=2)).text


async def test_a_closed_engine_is_unavailable(calling: StartedEngine) -> None:
    await calling.engine.close()
    with pytest.raises(EngineUnavailable):
        await generate(calling)
    assert await calling.engine.start() == calling.engine_info
    assert (await generate(calling, tools=(), max_tokens=2)).text
