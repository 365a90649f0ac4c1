"""An engine that writes JSON by a schema calls tools."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from palaver.engine import (
    Capability,
    ChatMessage,
    EngineInfo,
    Generation,
    GenerationRequest,
    JsonSchema,
    NamedTool,
    OnText,
    Regex,
    Sampling,
    ToolCall,
    ToolDefinition,
)
from palaver.engines.boundary import EngineBoundary
from palaver.engines.tool_calling import ToolCallingEngine
from palaver.engines.tool_schemas import output_schema, without_titles
from palaver.errors import EngineRefused, EngineUnavailable, InvalidInput, Unsupported
from palaver.schemas import validator_of
from palaver.testing import ScriptedEngine, ScriptedReply

ROLL = ToolDefinition(
    "roll",
    "Roll a die.",
    {
        "title": "roll",
        "type": "object",
        "properties": {"sides": {"title": "Sides", "type": "integer", "minimum": 2}},
        "required": ["sides"],
    },
)
FLIP = ToolDefinition("flip", "Flip a coin.", {"type": "object", "properties": {}})
CALL = '{"tool": "roll", "arguments": {"sides": 6}}'
ANSWER = '{"answer": "You have a \\"4\\".\\nGr\\u00fc\\u00dfe \\ud83d\\ude00"}'
TEXT = 'You have a "4".\nGrüße 😀'


class Conversation:
    """A `ToolCallingEngine` around a scripted engine without tools."""

    def __init__(
        self, *replies: Any, missing: tuple[Capability, ...] = ("tools",), **options: Any
    ) -> None:
        self.inner = ScriptedEngine(*replies, missing_capabilities=missing, **options)
        self.engine = ToolCallingEngine(EngineBoundary(self.inner))
        self.pieces: list[str] = []

    async def start(self) -> EngineInfo:
        return await self.engine.start()

    async def ask(self, *messages: ChatMessage, **options: Any) -> Generation:
        if not self.inner.requests:
            await self.start()
        sampling = options.pop("sampling", Sampling())
        request = GenerationRequest(
            id="r",
            messages=messages or (ChatMessage("user", "Roll"),),
            tenant="t",
            sampling=sampling,
            **({"tools": (ROLL, FLIP)} | options),
        )
        self.pieces.clear()
        generation = await self.engine.generate(request, self.pieces.append)
        assert "".join(self.pieces) == generation.text
        return generation

    def schema(self, index: int = -1) -> dict[str, Any]:
        structure = self.inner.requests[index].sampling.structure
        assert isinstance(structure, JsonSchema)
        return structure.schema


async def test_the_capability_is_added_where_there_are_json_schemas() -> None:
    assert "tools" in (await Conversation().start()).capabilities
    without = await Conversation(missing=("tools", "json_schema")).start()
    assert "tools" not in without.capabilities


async def test_an_engine_with_tools_gets_them() -> None:
    talk = Conversation("Hi.", missing=())
    await talk.ask()
    assert talk.inner.requests[0].tools == (ROLL, FLIP)
    assert talk.inner.requests[0].sampling.structure is None


async def test_a_call_and_then_the_answer() -> None:
    talk = Conversation(CALL, ANSWER)
    question = ChatMessage("user", "Roll")
    first = await talk.ask(ChatMessage("system", "Be brief."), question)
    (call,) = first.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("roll", {"sides": 6})
    assert (first.text, first.finish_reason) == ("", "tool_calls")
    assert call.id

    second = await talk.ask(
        question,
        ChatMessage("assistant", "", tool_calls=first.tool_calls),
        ChatMessage("tool", "4", tool_call_id=call.id),
    )
    assert (second.text, second.finish_reason, second.tool_calls) == (TEXT, "stop", ())
    assert len(talk.pieces) > 2, "the answer is passed on as it is written"
    _, _, called, result = talk.inner.requests[1].messages
    assert (called.role, called.content) == ("assistant", CALL)
    assert (result.role, result.content) == ("user", "Result of roll:\n4")


async def test_the_model_is_told_of_the_tools() -> None:
    talk = Conversation(CALL)
    await talk.ask(ChatMessage("system", "Be brief."), ChatMessage("user", "Roll"))
    system, user = talk.inner.requests[0].messages
    assert system.content.startswith("Be brief.\n\n")
    assert "- roll: Roll a die." in system.content
    assert '"minimum": 2' in system.content
    assert "title" not in system.content
    assert user.content == "Roll"
    assert await talk.engine.count_tokens([user], [ROLL]) > (
        await talk.engine.count_tokens([user]) + 20
    )


async def test_the_output_is_a_call_or_an_answer() -> None:
    talk = Conversation(CALL)
    await talk.ask()
    validator = validator_of(talk.schema())
    good: list[Any] = [
        {"tool": "roll", "arguments": {"sides": 6}},
        {"tool": "flip", "arguments": {}},
        {"answer": "Hi"},
    ]
    bad: list[Any] = [
        {"tool": "roll", "arguments": {}},
        {"tool": "roll", "arguments": {"sides": 6, "more": 1}},
        {"tool": "other", "arguments": {}},
        {"tool": "flip"},
        {"answer": "Hi", "tool": "flip", "arguments": {}},
        "Hi",
    ]
    assert [validator.problem(it) for it in good] == [""] * 3
    assert all(map(validator.problem, bad))


async def test_a_tool_must_be_called_where_one_is_required() -> None:
    talk = Conversation(lambda _: '{"tool": "flip", "arguments": {}}')
    await talk.ask(tool_choice="required")
    assert validator_of(talk.schema()).problem({"answer": "Hi"})
    assert '"answer"' not in talk.inner.requests[0].messages[0].content
    generation = await talk.ask(tool_choice=NamedTool("flip"))
    assert generation.tool_calls[0].name == "flip"
    assert validator_of(talk.schema()).problem({"tool": "roll", "arguments": {"sides": 6}})
    assert "Call the tool flip" in talk.inner.requests[1].messages[0].content


async def test_no_tool_is_called_where_none_may_be() -> None:
    talk = Conversation("Hello.")
    generation = await talk.ask(tool_choice="none")
    assert (generation.text, generation.finish_reason) == ("Hello.", "stop")
    assert talk.inner.requests[0].sampling.structure is None
    assert talk.inner.requests[0].messages == (ChatMessage("user", "Roll"),)


async def test_a_wrong_call_is_written_again() -> None:
    talk = Conversation('{"tool": "roll", "arguments": {"sides": 1}}', CALL)
    generation = await talk.ask()
    assert json.loads(generation.tool_calls[0].arguments) == {"sides": 6}
    first, second = talk.inner.requests
    assert second.messages[-2].content == '{"tool": "roll", "arguments": {"sides": 1}}'
    assert "sides: 1 is less than the minimum of 2" in second.messages[-1].content
    assert first.id != second.id
    tokens = [await talk.inner.count_tokens(it.messages) for it in (first, second)]
    assert generation.usage.prompt_tokens == sum(tokens)
    assert generation.usage.completion_tokens == 10


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ('{"tool": "fly", "arguments": {}}', "there is no tool 'fly'"),
        ('{"tool": "flip"}', "'arguments' is missing"),
        ('{"tool": 5, "arguments": {}}', "not such a JSON object"),
        ('{"tool": "flip", "arguments": {', "not such a JSON object"),
        ('{"tool": "flip", "arguments": []}', "is not of type"),
    ],
)
async def test_after_two_wrong_calls_the_model_answers_without_tools(
    wrong: str, problem: str
) -> None:
    talk = Conversation(wrong, wrong, "I cannot do it.")
    generation = await talk.ask()
    assert (generation.text, generation.tool_calls) == ("I cannot do it.", ())
    assert generation.finish_reason == "stop"
    _, second, third = talk.inner.requests
    assert problem in second.messages[-1].content
    assert third.messages == (ChatMessage("user", "Roll"),)
    assert third.sampling.structure is None


async def test_a_required_call_that_stays_wrong_is_returned_as_it_is() -> None:
    wrong = '{"tool": "roll", "arguments": {"sides": 1}}'
    talk = Conversation(wrong, wrong)
    generation = await talk.ask(tool_choice="required")
    assert json.loads(generation.tool_calls[0].arguments) == {"sides": 1}


async def test_a_partial_answer_is_continued_inside_the_object() -> None:
    talk = Conversation(ANSWER, missing=("tools",))
    partial = TEXT[:14]
    generation = await talk.ask(partial=partial)
    assert (partial + generation.text, generation.finish_reason) == (TEXT, "stop")
    assert talk.inner.requests[0].partial == '{"answer": "You have a \\"4\\"'


async def test_the_rest_of_an_answer_is_held_to_its_form_where_patterns_are() -> None:
    class Matching(ScriptedEngine):
        async def start(self) -> EngineInfo:
            info = await super().start()
            self._info = EngineInfo(
                model=info.model,
                context_window=info.context_window,
                capabilities=info.capabilities | {"regex"},
            )
            return self._info

    talk = Conversation()
    talk.inner = Matching('{"answer": "One two"}', missing_capabilities=("tools",))
    talk.engine = ToolCallingEngine(EngineBoundary(talk.inner))
    assert (await talk.ask(partial="One")).text == " two"
    structure = talk.inner.requests[0].sampling.structure
    assert isinstance(structure, Regex)


@pytest.mark.parametrize(
    ("limit", "text", "reason"), [(4, "You have", "length"), (9, TEXT, "stop")]
)
async def test_the_limit_of_tokens_cuts_an_answer(limit: int, text: str, reason: str) -> None:
    talk = Conversation(lambda _: ANSWER)
    generation = await talk.ask(sampling=Sampling(max_tokens=limit))
    assert (generation.text.rstrip(" a"), generation.finish_reason) == (text, reason)


async def test_the_limit_of_tokens_leaves_out_half_a_call() -> None:
    talk = Conversation(lambda _: CALL)
    for limit in (1, 2, 3, 4):
        generation = await talk.ask(sampling=Sampling(max_tokens=limit))
        assert (generation.text, generation.tool_calls) == ("", ())
        assert generation.finish_reason == "length"
        assert generation.usage.completion_tokens == limit
    assert (await talk.ask(sampling=Sampling(max_tokens=5))).tool_calls


async def test_the_repair_has_what_is_left_of_the_time() -> None:
    talk = Conversation('{"tool": "flip"}', CALL, seconds_per_token=0.001)
    await talk.ask(timeout=50.0)
    first, second = talk.inner.requests
    assert second.timeout < first.timeout <= 50.0


async def test_the_repair_has_what_is_left_of_the_tokens() -> None:
    talk = Conversation(lambda _: '{"tool": "flip"}')
    generation = await talk.ask(sampling=Sampling(max_tokens=3))
    assert (generation.text, generation.finish_reason) == ("", "length")
    assert generation.usage.completion_tokens == 3
    assert [it.sampling.max_tokens for it in talk.inner.requests] == [3, 1]


async def test_a_stop_string_ends_the_text_of_an_answer() -> None:
    talk = Conversation(lambda _: ANSWER)
    for stop, text in (('"4', "You have a "), ("\nGr", 'You have a "4".'), ("never", TEXT)):
        generation = await talk.ask(sampling=Sampling(stop=(stop,)))
        assert (generation.text, generation.finish_reason) == (text, "stop")


async def test_what_is_no_object_is_the_answer() -> None:
    talk = Conversation("Hello you.")
    generation = await talk.ask()
    assert (generation.text, generation.tool_calls) == ("Hello you.", ())


class Refusing(ScriptedEngine):
    """An engine that refuses schemas with limits."""

    def __init__(self, refuses: Callable[[str], bool]) -> None:
        super().__init__(lambda _: CALL, missing_capabilities=("tools",))
        self._refuses = refuses
        self.refused = 0

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        if self._refuses(str(request.sampling.structure)):
            self.refused += 1
            raise InvalidInput("this schema cannot be compiled")
        return await super().generate(request, on_text)


async def test_arguments_may_be_any_where_the_engine_refuses_their_schema() -> None:
    talk = Conversation()
    inner = talk.inner = Refusing(lambda structure: "minimum" in structure)
    talk.engine = ToolCallingEngine(EngineBoundary(inner))
    assert json.loads((await talk.ask()).tool_calls[0].arguments) == {"sides": 6}
    assert inner.refused == 1
    stubborn = talk.inner = Refusing(lambda structure: "tool" in structure)
    talk.engine = ToolCallingEngine(EngineBoundary(stubborn))
    with pytest.raises(EngineRefused):
        await talk.ask()
    assert stubborn.refused == 2


async def test_log_probabilities_beside_tools_are_refused() -> None:
    talk = Conversation(CALL)
    await talk.start()
    with pytest.raises(Unsupported):
        await talk.ask(sampling=Sampling(logprobs=0))


async def test_wrong_tools_are_refused_by_name() -> None:
    talk = Conversation(CALL)
    await talk.start()
    wrong = ToolDefinition("a b", "", {"type": "object"})
    with pytest.raises(InvalidInput, match="'a b'"):
        await talk.ask(tools=(wrong,))
    with pytest.raises(InvalidInput, match="'a b'"):
        await talk.engine.count_tokens([ChatMessage("user", "Hi")], [wrong])


async def test_a_cancelled_generation_frees_its_slot() -> None:
    talk = Conversation(ScriptedReply(text=ANSWER, pause_after=3))
    await talk.start()
    begun = asyncio.Event()
    request = GenerationRequest(
        id="r", messages=(ChatMessage("user", "Roll"),), tenant="t", tools=(ROLL,)
    )
    task = asyncio.create_task(talk.engine.generate(request, lambda _: begun.set()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await talk.engine.stats()).running == 0


async def test_a_crash_is_the_engines() -> None:
    talk = Conversation(ScriptedReply(text=CALL, crash_after=2))
    with pytest.raises(EngineUnavailable):
        await talk.ask()


# Schemas


def test_titles_are_left_out_but_no_property_of_that_name() -> None:
    schema = {
        "title": "Book",
        "properties": {"title": {"type": "string", "title": "Title"}},
        "default": {"title": "x"},
    }
    assert without_titles(schema) == {
        "properties": {"title": {"type": "string"}},
        "default": {"title": "x"},
    }


@pytest.mark.parametrize("keyword", ["$defs", "definitions"])
def test_references_stay_within_their_tool(keyword: str) -> None:
    def plant(kind: str) -> ToolDefinition:
        reference = {"$ref": f"#/{keyword}/leaf"}
        tree = {"$ref": f"#/{keyword}/tree"}
        return ToolDefinition(
            kind,
            "",
            {
                "$id": "http://127.0.0.1/",
                "type": "object",
                "properties": {"tree": tree, "self": {"$ref": "#/properties/tree"}},
                keyword: {
                    "leaf": {"type": kind},
                    "tree": {"anyOf": [reference, {"type": "array", "items": tree}]},
                },
            },
        )

    schema = output_schema([plant("string"), plant("integer")], may_answer=True)
    validator = validator_of(schema)
    for kind, leaf, other in (("string", "x", 1), ("integer", 1, "x")):
        for arguments in ({"tree": [leaf, [leaf]]}, {"self": [leaf]}, {}):
            assert validator.problem({"tool": kind, "arguments": arguments}) == ""
        for arguments in ({"tree": [leaf, [other]]}, {"self": [other]}):
            assert validator.problem({"tool": kind, "arguments": arguments})


def test_an_object_that_names_its_members_has_no_others() -> None:
    def takes(parameters: dict[str, Any], arguments: object) -> bool:
        schema = output_schema([ToolDefinition("t", "", parameters)], may_answer=False)
        return not validator_of(schema).problem({"tool": "t", "arguments": arguments})

    member = {"x": {"type": "integer"}}
    assert not takes({"type": "object", "properties": member}, {"y": 1})
    assert not takes({"type": "object", "properties": {}}, {"y": 1})
    assert takes({"type": "object"}, {"y": 1})
    open_object = {"type": "object", "properties": member, "additionalProperties": True}
    assert takes(open_object, {"y": 1})
    assert takes({"type": "object", "properties": member, "allOf": [{}]}, {"y": 1})


def test_a_call_of_the_history_is_what_is_asked_for() -> None:
    from palaver.engines.normalization import describe_call

    described = json.loads(describe_call(ToolCall("1", "roll", '{"sides": 6}')))
    assert validator_of(output_schema([ROLL], may_answer=True)).problem(described) == ""
