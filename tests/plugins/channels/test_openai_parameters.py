"""Parameters of OpenAI's requests: they reach the engine, or are refused by name."""

import itertools
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from tests.plugins.channels.openai_support import (
    MODEL,
    NamedEngine,
    ask,
    assistant,
    message,
    open_openai_server,
    prompt_of,
    user,
)
from tests.server.web.live_server import eventually

from palaver import Choice, GenerationRequest, JsonSchema, OnText, Sampling, Skill, Turn
from palaver.engine import Capability, EngineInfo, Generation, TokenLogprob
from palaver.errors import EngineTimeout
from palaver.testing import ScriptedEngine, ScriptedReply
from palaver_plugins.channels.openai_api.chat_request import program_request, read_request

pytestmark = pytest.mark.slow

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


class LogprobEngine(NamedEngine):
    """An engine that also gives log-probabilities."""

    async def start(self) -> EngineInfo:
        await super().start()
        more: frozenset[Capability] = frozenset({"logprobs", "alternatives", "penalties"})
        self._info = EngineInfo(
            model=MODEL, context_window=500, capabilities=self._info.capabilities | more
        )
        return self._info

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        generation = await super().generate(request, on_text)
        if request.sampling.logprobs is None:
            return generation
        alternatives = (("no", float("-inf")),) * min(request.sampling.logprobs, 1)
        tokens = [TokenLogprob(word, -0.5, alternatives) for word in generation.text.split()]
        return Generation(
            text=generation.text,
            finish_reason=generation.finish_reason,
            usage=generation.usage,
            logprobs=tuple(tokens),
        )


async def sampling_of(engine: ScriptedEngine, client: AsyncOpenAI, **fields: Any) -> Sampling:
    fields.setdefault("model", MODEL)
    await ask(client, user("go"), **fields)
    return engine.requests[-1].sampling


REACHING: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"max_tokens": 7}, {"max_tokens": 7}),
    ({"max_completion_tokens": 8}, {"max_tokens": 8}),
    ({"max_tokens": 9, "max_completion_tokens": 8}, {"max_tokens": 8}),
    ({"stop": "x"}, {"stop": ("x",)}),
    ({"stop": ["x", "\n\n"]}, {"stop": ("x", "\n\n")}),
    ({"seed": 5}, {"seed": 5}),
    ({"seed": -(2**63)}, {"seed": -(2**63)}),
    ({"temperature": 0.9}, {"temperature": 0.9}),
    ({"temperature": 0}, {"temperature": 0.0}),
    ({"top_p": 0.4}, {"top_p": 0.4}),
    ({"response_format": {"type": "text"}}, {"structure": None}),
    (
        {"response_format": {"type": "json_object"}},
        {"structure": JsonSchema({"type": "object"})},
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": OBJECT, "strict": True},
            }
        },
        {"structure": JsonSchema(OBJECT)},
    ),
    ({"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}}, {}),
    ({"tools": [], "tool_choice": "auto", "stop": [], "metadata": {"a": "b"}}, {"stop": ()}),
    ({"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False}, {}),
    ({"functions": [TOOL["function"]], "function_call": "none"}, {}),
)


async def test_parameters_reach_the_engine() -> None:
    engine = NamedEngine(lambda request: "one two")
    async with open_openai_server(engine=engine) as (_, client):
        for fields, expected in REACHING:
            sampling = await sampling_of(engine, client, **fields)
            reached = {name: getattr(sampling, name) for name in expected}
            assert (fields, reached) == (fields, expected)


async def test_the_engine_gets_the_messages_as_they_are() -> None:
    engine = NamedEngine("sure")
    async with open_openai_server(engine=engine) as (live_server, client):
        sent = (message("system", "Pirate."), user("hi"), assistant("Arr."), user("go"))
        answer = await ask(client, *sent, model=MODEL)
        assert prompt_of(engine) == [(each["role"], each["content"]) for each in sent]
        assert (answer.model, answer.choices[0].message.content) == (MODEL, "sure")
        assert answer.usage.completion_tokens == 1
        assert answer.usage.prompt_tokens == 12
        assert answer.usage.total_tokens == 13
        assert b'skill="@engine"' in live_server.server.metrics.exposition()


async def test_the_engines_model_stands_beside_the_skills() -> None:
    async with open_openai_server("hi") as (_, client):
        names = [model.id async for model in client.models.list()]
        assert names[0] == "auto"
        assert names[-1] == MODEL
        assert "parrot" in names
        assert "@engine" not in names
        assert (await client.models.retrieve(MODEL)).id == MODEL
        for model in ("@engine", "acme", "parrot/x"):
            with pytest.raises(openai.NotFoundError) as refused:
                await ask(client, user("x"), model=model)
            assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


async def test_a_person_cannot_name_the_engine_as_a_skill() -> None:
    async with open_openai_server("hi") as (live_server, _):
        path = "/v1/conversations/t/messages"
        status, _ = await live_server.post(path, {"text": "x", "skill": "@engine"})
        assert status == 404


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 2**70}, "seed"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"presence_penalty": 1}, "presence_penalty"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -1}, "frequency_penalty"),
    ({"logit_bias": {"50": 1}}, "logit_bias"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"tools": [TOOL, TOOL], "tool_choice": "auto"}, "tools[1].function.name"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
    ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format"),
    ({"tools": [TOOL], "tool_choice": {"type": "magic"}}, "tool_choice"),
    ({"audio": {"voice": "ash", "format": "wav"}}, "audio"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"functions": [TOOL["function"]]}, "functions"),
    ({"tools": "f"}, "tools"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [user("x"), {"role": "bot"}]}, "messages[1].role"),
    ({"response_format": {"type": "grammar"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"temperature": "hot"}, "temperature"),
    ({"stream_options": {"include_usage": 3}}, "stream_options.include_usage"),
)


async def test_what_cannot_be_honoured_is_refused_by_name() -> None:
    async with open_openai_server("hi") as (live_server, _):
        for fields, param in REFUSED:
            body = {"model": MODEL, "messages": [user("x")], **fields}
            status, answer = await live_server.post("/v1/chat/completions", body)
            error = answer["error"]
            found = (fields, status, error["param"], error["type"])
            assert found == (fields, 400, param, "invalid_request_error")
            assert param.split(".")[0].split("[")[0] in error["message"]
            assert error["code"]


async def test_a_missing_parameter_is_named() -> None:
    async with open_openai_server("hi") as (live_server, _):
        for body, param in (
            ({"model": MODEL}, "messages"),
            ({"messages": [user("x")]}, "model"),
            ({"model": MODEL, "messages": [user([{"text": "x"}])]}, "messages[0].content[0].type"),
        ):
            status, answer = await live_server.post("/v1/chat/completions", body)
            assert (status, answer["error"]["param"]) == (400, param)


async def test_a_skill_refuses_what_it_cannot_honour() -> None:
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"n": 2}, "n"),
        ({"stop": "x"}, "stop"),
        ({"stop": ["x"]}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
    )
    async with open_openai_server("hi") as (_, client):
        for model, (fields, param) in itertools.product(("auto", "talker"), refused):
            with pytest.raises(openai.BadRequestError) as error:
                await ask(client, user("x"), model=model, **fields)
            assert error.value.param == param


async def test_a_skill_honours_the_other_parameters() -> None:
    engine = NamedEngine(lambda request: "one two three")
    async with open_openai_server(engine=engine) as (_, client):
        sampling = await sampling_of(
            engine, client, model="talker", temperature=1.1, top_p=0.5, seed=3, max_tokens=2
        )
        assert (sampling.temperature, sampling.top_p, sampling.seed) == (1.1, 0.5, 3)
        answer = await ask(client, user("go"), model="talker", max_tokens=2)
        assert answer.choices[0].message.content == "one two"
        assert answer.choices[0].finish_reason == "length"
        unchanged = await sampling_of(engine, client, model="talker", max_tokens=9000)
        assert (unchanged.temperature, unchanged.max_tokens) == (0.3, 50)


class Verses(Skill):
    """Let the model write again and again."""

    name = "verses"

    async def answer(self, turn: Turn) -> None:
        for number in range(4):
            if number % 2:
                await turn.say(await turn.generate(f"verse {number}", for_reply=True) + " ")
            else:
                await turn.stream(f"verse {number}")
                await turn.say(" ")


async def test_a_limit_of_tokens_holds_for_all_that_the_model_writes() -> None:
    engine = NamedEngine(lambda request: "one two three")
    async with open_openai_server(engine=engine, skills=(Verses(),)) as (_, client):
        answer = await ask(client, user("go"), model="verses", max_tokens=5)
        assert answer.choices[0].message.content == "one two three one two "
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 5
        answer = await ask(client, user("go"), model="verses")
        assert answer.choices[0].finish_reason == "stop"
        assert len(answer.choices[0].message.content.split()) == 12


async def test_a_seed_that_the_engine_does_not_know_is_refused() -> None:
    engine = NamedEngine("hi", missing_capabilities=["seed", "json_schema"])
    async with open_openai_server(engine=engine) as (_, client):
        for fields in ({"seed": 1}, {"response_format": {"type": "json_object"}}):
            with pytest.raises(openai.BadRequestError) as refused:
                await ask(client, user("x"), model=MODEL, **fields)
            assert refused.value.param == next(iter(fields))
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(client, user("x"), model="talker", seed=1)
        assert refused.value.param == "seed"


async def test_several_choices_are_several_generations() -> None:
    engine = NamedEngine(lambda request: f"reply {request.sampling.seed} and so on")
    async with open_openai_server(engine=engine) as (_, client):
        answer = await ask(client, user("go"), model=MODEL, n=3, seed=7, max_tokens=2)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        texts = ["reply 7", "reply 8", "reply 9"]
        assert [choice.message.content for choice in answer.choices] == texts
        assert {choice.finish_reason for choice in answer.choices} == {"length"}
        assert answer.usage.completion_tokens == 6
        assert answer.usage.prompt_tokens == 3
        streamed = [""] * 3
        reasons = {}
        stream = await ask(client, user("go"), model=MODEL, n=3, seed=7, max_tokens=2, stream=True)
        async for chunk in stream:
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
                reasons[choice.index] = choice.finish_reason
        assert streamed == texts
        assert set(reasons.values()) == {"length"}


async def test_repeated_choices_are_those_of_the_first_request() -> None:
    numbers = itertools.count()
    engine = NamedEngine(lambda request: f"reply {next(numbers)}")
    async with open_openai_server(engine=engine) as (_, client):
        headers = {"Idempotency-Key": "k"}
        answers = [
            await ask(client, user("go"), model=MODEL, n=2, extra_headers=headers) for _ in range(2)
        ]
        first, again = ([c.message.content for c in answer.choices] for answer in answers)
        assert first == again
        assert len(set(first)) == 2


async def test_one_choice_that_fails_fails_the_request_and_stops_the_others() -> None:
    def reply(request: GenerationRequest) -> ScriptedReply:
        if request.sampling.seed == 1:
            return ScriptedReply(text="", error=EngineTimeout("too slow"))
        return ScriptedReply(text="endless", pause_after=0)

    async with open_openai_server(engine=NamedEngine(reply)) as (live_server, client):
        with pytest.raises(openai.InternalServerError):
            await ask(client, user("go"), model=MODEL, n=2, seed=0)
        exposition = live_server.server.metrics.exposition
        await eventually(lambda: b"palaver_turns_here 0.0" in exposition())


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_have_openais_form(stream: bool) -> None:
    engine = LogprobEngine(lambda request: "one zwölf " * 250)
    async with open_openai_server(engine=engine) as (_, client):
        fields: Any = {"model": MODEL, "logprobs": True, "top_logprobs": 1, "max_tokens": 450}
        answer = await ask(client, user("x"), stream=stream, **fields)
        if stream:
            found = [c.choices[0].logprobs async for c in answer if c.choices[0].logprobs]
            content = [token for part in found for token in part.content]
        else:
            content = answer.choices[0].logprobs.content
        assert len(content) == 450
        assert (content[1].token, content[1].logprob) == ("zwölf", -0.5)
        assert bytes(content[1].bytes).decode() == "zwölf"
        assert content[1].top_logprobs[0].token == "no"
        assert content[1].top_logprobs[0].logprob == -9999.0
        plain = await ask(client, user("x"), model=MODEL, logprobs=True, max_tokens=3)
        assert plain.choices[0].logprobs.content[0].top_logprobs == []
        without = await ask(client, user("x"), model=MODEL, logprobs=False, max_tokens=3)
        assert without.choices[0].logprobs is None


async def test_penalties_reach_an_engine_that_has_them() -> None:
    engine = LogprobEngine(lambda request: "one")
    async with open_openai_server(engine=engine) as (_, client):
        for model in (MODEL, "talker"):
            sampling = await sampling_of(
                engine, client, model=model, presence_penalty=0.5, frequency_penalty=-1
            )
            assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -1)


async def test_a_reply_in_json_satisfies_its_schema() -> None:
    schema = {"name": "a", "schema": OBJECT}
    engine = NamedEngine()  # generates what the schema demands
    async with open_openai_server(engine=engine) as (_, client):
        answer = await ask(
            client,
            user("x"),
            model=MODEL,
            response_format={"type": "json_schema", "json_schema": schema},
        )
        assert json.loads(answer.choices[0].message.content) == {"a": 0}
    assert not isinstance(engine.requests[-1].sampling.structure, Choice)


async def test_a_schema_that_would_keep_the_engine_busy_is_refused() -> None:
    nested: dict[str, Any] = {"type": "integer"}
    for _ in range(40):
        nested = {"type": "array", "items": nested}
    schemas: tuple[dict[str, Any], ...] = (
        nested,
        {"type": "string", "minLength": 1_000_000},
        {"type": "array", "items": {"type": "array", "maxItems": 10**12}},
        {"type": "string", "pattern": "((a{1,900}){1,900}){9}"},
        {"enum": ["x" * 100] * 200},
    )
    async with open_openai_server("hi") as (live_server, client):
        for schema in schemas:
            wanted: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
            with pytest.raises(openai.BadRequestError) as refused:
                await ask(client, user("x"), model=MODEL, response_format=wanted)
            assert refused.value.param == "response_format"
        exposition = live_server.server.metrics.exposition()
        assert b'palaver_limits_total{limit="response_schema"} 5.0' in exposition


def test_usual_schemas_are_not_too_large() -> None:
    address = r"((25[0-5]|2[0-4][0-9]|1[0-9]{2})\.){3}(25[0-5])"
    for schema in (
        {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        {"type": "string", "pattern": address},
        {"type": "object", "properties": {"maxItems": {"type": "string", "maxLength": 1000}}},
        OBJECT,
    ):
        body = {
            "model": MODEL,
            "messages": [user("x")],
            "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
        }
        request = read_request(json.dumps(body).encode())
        wanted = program_request(
            request, is_engine=True, has_thread=False, retention=None, number=0, images={}
        )
        assert wanted.json_schema == schema


NULLS = (
    "stream", "stream_options", "user", "n", "max_tokens", "max_completion_tokens", "temperature",
    "top_p", "seed", "stop", "logprobs", "top_logprobs", "response_format", "presence_penalty",
    "frequency_penalty", "logit_bias", "tools", "tool_choice", "functions", "function_call",
    "modalities", "metadata", "store", "parallel_tool_calls", "service_tier", "reasoning_effort",
)  # fmt: skip


async def test_null_is_absent() -> None:
    earlier = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": None,
        "function_call": None,
        "name": None,
        "audio": None,
    }
    parts = [{"type": "text", "text": None}, {"type": "text", "text": "hi"}]
    messages = [user("a"), earlier, {"role": "user", "content": parts, "name": None}]
    async with open_openai_server("hi ") as (live_server, _):
        for model in ("parrot", "auto", MODEL):
            body = {"model": model, "messages": messages, **dict.fromkeys(NULLS)}
            status, answer = await live_server.post("/v1/chat/completions", body)
            assert (status, answer["choices"][0]["message"]["content"]) == (200, "hi ")
