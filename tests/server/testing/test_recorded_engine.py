"""A recorded engine replays what a real one has generated, and names what was not recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

from palaver import Skill, Turn
from palaver.engine import (
    ChatMessage,
    Choice,
    Engine,
    EngineInfo,
    GenerationRequest,
    Image,
    JsonSchema,
    Sampling,
    ToolCall,
    ToolDefinition,
)
from palaver.errors import ConfigurationError, InvalidInput
from palaver.testing import (
    RecordedEngine,
    ScriptedEngine,
    ScriptedReply,
    converse,
)
from palaver.testing.engine import tool_call
from palaver.testing.redaction import Redaction

ADD = ToolDefinition(
    name="add",
    description="Add two numbers.",
    parameters={"type": "object", "properties": {"a": {"type": "integer"}}},
)


class Poet(Skill):
    """Writes a poem, with the first words of the message in mind."""

    name = "poet"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text, system="You are a poet.", history=turn.history)


def request(text: str = "hello", **values: Any) -> GenerationRequest:
    messages = values.pop("messages", (ChatMessage("user", text),))
    return GenerationRequest(id="1", messages=messages, tenant="t", **values)


def ignore(text: str) -> None: ...


async def record(path: Path, engine: Engine, *requests: GenerationRequest, **options: Any) -> None:
    recorded = RecordedEngine(path, lambda: engine, record=True, **options)
    await recorded.start()
    for each in requests:
        await recorded.generate(each, ignore)
    await recorded.close()


async def test_a_conversation_is_replayed_without_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "recordings" / "poem.json"
    engine = RecordedEngine(path, lambda: ScriptedEngine("Old pond.", "A frog."), record=True)
    async with converse(Poet, engine=engine) as chat:
        replies = [await chat.say("of a pond"), await chat.say("go on")]
    replayed = RecordedEngine(path, environment={})
    async with converse(Poet, engine=replayed) as chat:
        assert [await chat.say("of a pond"), await chat.say("go on")] == replies
        assert chat.server.engine_info.model == "scripted"
    assert len(replayed.requests) == 2
    recording = path.read_text()
    assert '"content": "You are a poet."' in recording
    assert "tenant" not in recording, "what a reply does not depend on is not kept"


async def test_the_variable_of_the_environment_records(tmp_path: Path) -> None:
    def make() -> Engine:
        return ScriptedEngine("Old pond.")

    engine = RecordedEngine(tmp_path / "a.json", make, environment={"PALAVER_RECORD": "1"})
    await engine.start()
    await engine.generate(request(), ignore)
    await engine.close()
    again = RecordedEngine(tmp_path / "a.json", make, environment={"PALAVER_RECORD": "0"})
    await again.start()
    assert (await again.generate(request(), ignore)).text == "Old pond."


def test_recording_needs_an_engine(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make_engine"):
        RecordedEngine(tmp_path / "a.json", record=True)


async def test_a_request_without_a_recording_fails_the_test_with_its_difference(
    tmp_path: Path,
) -> None:
    path = tmp_path / "poem.json"
    engine = RecordedEngine(path, lambda: ScriptedEngine("Old pond.", "A frog."), record=True)
    async with converse(Poet, engine=engine) as chat:
        await chat.say("a poem of a pond in spring")
        await chat.say("go on")

    async def talk() -> None:
        async with converse(Poet, engine=RecordedEngine(path, environment={})) as chat:
            assert (await chat.say("a poem of a pond in autumn")).problem

    with pytest.raises(AssertionError) as caught:
        await talk()
    problem = str(caught.value)
    assert "'poem.json' has no recording of a request: messages[1].content differs" in problem
    assert "at character 20: recorded" in problem
    assert "in spring'" in problem
    assert "in autumn'" in problem
    assert "PALAVER_RECORD=1" in problem


DIFFERENCES = [
    (request("hello you"), "messages[0].content differs at character 5"),
    (
        request(messages=(ChatMessage("user", "hello"), ChatMessage("assistant", "b"))),
        "messages[1]",
    ),
    (request(sampling=Sampling(temperature=0.5)), "sampling is requested and not recorded"),
    (request(tools=(ADD,)), "tools is requested and not recorded"),
    (request(partial="x"), 'partial is requested and not recorded: "x"'),
    (
        request(messages=(ChatMessage("user", "", images=(Image("image/png", b"1"),)),)),
        "messages[0]",
    ),
]


@pytest.mark.parametrize(("changed", "difference"), DIFFERENCES)
async def test_the_first_difference_is_named(
    tmp_path: Path, changed: GenerationRequest, difference: str
) -> None:
    path = tmp_path / "a.json"
    await record(path, ScriptedEngine("one"), request())
    engine = RecordedEngine(path, environment={})
    await engine.start()
    with pytest.raises(InvalidInput) as caught:
        await engine.generate(changed, ignore)
    assert difference in str(caught.value)
    with pytest.raises(AssertionError):
        await engine.close()
    await engine.close()


async def test_the_nearest_recording_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    long = request(messages=(ChatMessage("system", "s"), ChatMessage("user", "weather in Rome")))
    await record(path, ScriptedEngine("one", "two"), request("other"), long)
    engine = RecordedEngine(path, environment={})
    await engine.start()
    near = request(messages=(ChatMessage("system", "s"), ChatMessage("user", "weather in Riga")))
    with pytest.raises(InvalidInput, match=r"recorded 'weather in Rome', requested 'weather in R"):
        await engine.generate(near, ignore)


async def test_an_empty_recording_says_so(tmp_path: Path) -> None:
    await record(tmp_path / "a.json", ScriptedEngine())
    engine = RecordedEngine(tmp_path / "a.json", environment={})
    await engine.start()
    with pytest.raises(InvalidInput, match="it is empty"):
        await engine.generate(request(), ignore)


async def test_equal_requests_get_their_generations_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    await record(path, ScriptedEngine("one", "two", "three"), request(), request("b"), request())
    engine = RecordedEngine(path, environment={})
    await engine.start()
    texts = [(await engine.generate(request(), ignore)).text for _ in range(3)]
    assert texts == ["one", "three", "three"]


async def test_calls_of_tools_are_recorded_whatever_their_ids(tmp_path: Path) -> None:
    def step(call_id: str) -> GenerationRequest:
        call = ToolCall(id=call_id, name="add", arguments='{"a": 1}')
        return request(
            messages=(
                ChatMessage("user", "add"),
                ChatMessage("assistant", "", tool_calls=(call,)),
                ChatMessage("tool", "2", tool_call_id=call_id),
            ),
            tools=(ADD,),
        )

    path = tmp_path / "a.json"
    replies = (
        ScriptedReply(text="Let me see.", tool_calls=(tool_call("add", a=1),)),
        tool_call("add", a=2),
        "2",
    )
    first = request("add", tools=(ADD,))
    await record(path, ScriptedEngine(*replies), first, first, step("call_x"))
    engine = RecordedEngine(path, environment={})
    await engine.start()
    generation = await engine.generate(first, ignore)
    (call,) = generation.tool_calls
    assert (generation.text, call.name, call.arguments) == ("Let me see.", "add", '{"a": 1}')
    assert generation.finish_reason == "tool_calls"
    assert (await engine.generate(step("call_other"), ignore)).text == "2"
    stored = json.loads(path.read_text())["generations"][0]["generation"]["tool_calls"][0]
    assert stored["arguments"] == {"a": 1}, "arguments are JSON that people can read"


@pytest.mark.parametrize("arguments", ['{"a":1}', "not json", '"text"', '{"a": 1, "a": 2}', ""])
async def test_arguments_are_replayed_as_the_model_wrote_them(
    tmp_path: Path, arguments: str
) -> None:
    path = tmp_path / "a.json"
    reply = ScriptedReply(tool_calls=(ToolCall(id="1", name="add", arguments=arguments),))
    await record(path, ScriptedEngine(reply), request(tools=(ADD,)))
    engine = RecordedEngine(path, environment={})
    await engine.start()
    generation = await engine.generate(request(tools=(ADD,)), ignore)
    assert generation.tool_calls[0].arguments == arguments


async def test_structured_output_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    requests = [
        request(sampling=Sampling(structure=Choice(("yes", "no")))),
        request(sampling=Sampling(structure=JsonSchema({"type": "object"}), stop=("x",))),
    ]
    await record(path, ScriptedEngine("yes", "{}"), *requests)
    engine = RecordedEngine(path, environment={})
    await engine.start()
    assert [(await engine.generate(each, ignore)).text for each in requests] == ["yes", "{}"]


async def test_recording_twice_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        call = ToolCall(id="1", name="add", arguments="{}")
        replies = (ScriptedReply(tool_calls=(call,)), "two")
        requests = (request(tools=(ADD,)), request("b", sampling=Sampling(max_tokens=9)))
        await record(tmp_path / name, ScriptedEngine(*replies), *requests)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


# Secrets

ENVIRONMENT = {
    "WEATHER_API_KEY": "wx-12345-abcde",
    "PASSWORD": "short",
    "HOME": "/home/person",
    "MY_TOKEN": "wx-12345-abcde-and-more",
}


async def test_secrets_are_neither_stored_nor_compared(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    text = "key wx-12345-abcde, token wx-12345-abcde-and-more, order 4711, home /home/person"
    engine = ScriptedEngine("Your key is wx-12345-abcde.")
    options = {"redact": {r"order \d+": "ORDER"}, "environment": ENVIRONMENT}
    await record(path, engine, request(text), **options)
    stored = path.read_text()
    assert "wx-12345" not in stored
    assert "4711" not in stored
    assert "key [WEATHER_API_KEY], token [MY_TOKEN], [ORDER], home /home/person" in stored
    other = {"WEATHER_API_KEY": "another-value-here"}
    replayed = RecordedEngine(path, redact={r"order \d+": "ORDER"}, environment=other)
    await replayed.start()
    text = "key another-value-here, token [MY_TOKEN], order 1, home /home/person"
    generation = await replayed.generate(request(text), ignore)
    assert generation.text == "Your key is [WEATHER_API_KEY]."


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("sk-abcdefghijklmnop1234", "[API_KEY]"),
        ("Authorization: Bearer abcdefgh.1234", "Authorization: [BEARER_TOKEN]"),
        ("ghp_abcdefghijklmnop1234", "[ACCESS_TOKEN]"),
        ("AKIAABCDEFGHIJKLMNOP", "[AWS_KEY]"),
        ("xoxb-1234567890-abc", "[SLACK_TOKEN]"),
        ("https://ada:secret@host/", "https://[USER_AND_PASSWORD]@host/"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeK", "[JWT]"),
        ("a risk-averse bearer of news", "a risk-averse bearer of news"),
    ],
)
def test_usual_forms_of_secrets_are_replaced(text: str, redacted: str) -> None:
    redact = Redaction(environment={})
    assert redact({text: [text, 1, None]}) == {redacted: [redacted, 1, None]}


# Files


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', "\udcff"])
async def test_a_file_that_is_no_recording_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError, match=r"a\.json' is not a recording"):
        await RecordedEngine(path, environment={}).start()


async def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="PALAVER_RECORD=1"):
        await RecordedEngine(tmp_path / "a.json", environment={}).start()


async def test_the_replayed_engine_lacks_what_is_not_recorded(tmp_path: Path) -> None:
    await record(tmp_path / "a.json", ScriptedEngine())
    info: EngineInfo = await RecordedEngine(tmp_path / "a.json", environment={}).start()
    assert "generate" in info.capabilities
    assert not info.capabilities & {"embed", "classify", "logprobs"}
