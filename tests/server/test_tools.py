"""A tool is a typed function: its name, description and schema come from the function."""

import asyncio
import datetime
import threading
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic
import pytest
from pydantic import Field
from tests.server.tool_services import NoServices

from palaver import (
    Conversation,
    InvalidInput,
    NotFound,
    PluginLoadError,
    ProgramRequest,
    Skill,
    Tool,
    ToolContext,
    Turn,
    tool,
)
from palaver.config.settings import ServerSettings, Settings
from palaver.messages import ToolCalled
from palaver.testing import ChatClient, Reply, converse

CONTEXT = ToolContext(
    call="turn-3",
    conversation=Conversation("acme", "web", "t"),
    person="ada",
    services=NoServices(),
)


@tool
def roll(
    sides: Annotated[int, Field(ge=2, le=100, description="Sides of the die")] = 6,
    *,
    copy: bool = False,
    label: str = Field(default="die", description="What to call it"),
) -> str:
    """Roll a die
    with some sides.

    This paragraph is for programmers.
    """
    return f"{label}: {sides} {copy}"


def test_name_description_and_schema_come_from_the_function() -> None:
    assert (roll.name, roll.description) == ("roll", "Roll a die with some sides.")
    assert roll.json_schema == {
        "title": "roll",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "sides": {
                "title": "Sides",
                "type": "integer",
                "minimum": 2,
                "maximum": 100,
                "default": 6,
                "description": "Sides of the die",
            },
            "copy": {"title": "Copy", "type": "boolean", "default": False},
            "label": {
                "title": "Label",
                "type": "string",
                "default": "die",
                "description": "What to call it",
            },
        },
    }


async def test_arguments_are_validated_and_defaults_are_filled_in() -> None:
    arguments = roll.validate({"sides": "20"})
    assert arguments == {"sides": 20, "copy": False, "label": "die"}
    assert await roll.run(arguments, CONTEXT) == "die: 20 False"


def test_a_tool_is_still_a_function() -> None:
    assert roll(4, copy=True, label="d4") == "d4: 4 True"


def test_the_decorator_takes_a_name_and_says_whether_a_second_run_does_harm() -> None:
    @tool(name="lights-off", idempotent=True)
    async def turn_off() -> None:
        """Turn the lights off."""

    assert isinstance(turn_off, Tool)
    assert (turn_off.name, turn_off.idempotent, roll.idempotent) == ("lights-off", True, False)


async def test_a_plain_function_runs_in_a_thread_and_a_coroutine_function_does_not() -> None:
    @tool
    def plain() -> str:
        """Tell the thread."""
        return threading.current_thread().name

    @tool
    async def coroutine() -> str:
        """Tell the thread."""
        return threading.current_thread().name

    here = threading.current_thread().name
    assert await plain.run({}, CONTEXT) != here
    assert await coroutine.run({}, CONTEXT) == here


class Point(pydantic.BaseModel):
    x: int
    on: datetime.date = datetime.date(2026, 1, 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (3, "3"),
        (None, "null"),
        ({"a": [1, "é"]}, '{"a":[1,"é"]}'),
        (Point(x=1), '{"x":1,"on":"2026-01-02"}'),
    ],
)
async def test_a_result_that_is_no_text_becomes_json(value: object, text: str) -> None:
    @tool
    def give() -> object:
        """Give a value."""
        return value

    assert await give.run({}, CONTEXT) == text


async def test_a_function_gets_the_types_that_it_declares() -> None:
    @tool
    def move(to: Point, on: datetime.date | None = None, then: list[Point] = []) -> str:  # noqa: B006
        """Move."""
        then.append(to)
        return f"{to.x} {on!r} {len(then)}"

    arguments = move.validate({"to": {"x": 2}, "on": "2026-05-31"})
    assert await move.run(arguments, CONTEXT) == "2 datetime.date(2026, 5, 31) 1"
    assert await move.run(move.validate({"to": {"x": 2}}), CONTEXT) == "2 None 1", (
        "defaults are copied"
    )


@tool
def book(
    seats: int,
    row: Annotated[str, Field(min_length=1, max_length=2)],
    when: datetime.date,
    section: Literal["stalls", "circle"] = "stalls",
    guest: Point = Point(x=0),  # noqa: B008
) -> None:
    """Book seats."""


GOOD = {"seats": 2, "row": "A", "when": "2026-05-31"}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"seats": "many"}, "argument 'seats' must be a whole number, not 'many'"),
        ({"seats": None}, "argument 'seats' must be a whole number"),
        ({"row": ""}, "argument 'row' must have at least 1 character"),
        ({"row": 3}, "argument 'row' must be text"),
        ({"when": "soon"}, "argument 'when' must be a valid date or datetime"),
        ({"section": "attic"}, "argument 'section' must be 'stalls' or 'circle', not 'attic'"),
        ({"guest": {"x": "?"}}, "argument 'guest.x' must be a whole number, not '?'"),
        ({"colour": "red"}, "argument 'colour' is not known"),
    ],
)
def test_wrong_arguments_are_named_in_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        book.validate(GOOD | wrong)
    assert caught.value.public == f"Tool 'book': {sentence}"


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"^Tool 'book': argument 'seats' must be set; argument"):
        book.validate({})


def undocumented(sides: int) -> None: ...


def variable(*sides: int) -> None:
    """Roll."""


def keywords(**sides: int) -> None:
    """Roll."""


def positional(sides: int, /) -> None:
    """Roll."""


def untyped(sides) -> None:  # type: ignore[no-untyped-def]
    """Roll."""


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (undocumented, "tool 'undocumented': it needs a docstring, which describes it"),
        (variable, "tool 'variable': parameter '*sides: int' cannot be given by name"),
        (keywords, "tool 'keywords': parameter '**sides: int' cannot be given by name"),
        (positional, "tool 'positional': parameter 'sides: int' cannot be given by name"),
        (untyped, "tool 'untyped': parameter 'sides' needs a type"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused(
    function: Callable[..., None], problem: str
) -> None:
    with pytest.raises(PluginLoadError) as caught:
        tool(function)
    assert str(caught.value) == problem


def test_a_name_that_models_cannot_write_is_refused() -> None:
    with pytest.raises(PluginLoadError, match="tool 'roll it': a name is 1 to 64 letters"):
        tool(name="roll it")(roll.function)


class Gambler(Skill):
    """Roll a die."""

    name = "gambler"
    examples = ("roll a die", "throw the dice")

    async def answer(self, turn: Turn) -> None:
        await turn.say(await turn.call_tool("roll", sides=turn.message.text))


async def test_the_kit_finds_the_tools_of_a_skills_module() -> None:
    async with converse(Gambler) as chat:
        reply = await chat.say("12")
        assert reply == "die: 12 False"
        states = [event.state for event in reply.events if isinstance(event, ToolCalled)]
        assert states == ["started", "done"]


async def test_a_tool_given_to_the_kit_replaces_one_of_the_module() -> None:
    @tool(name="roll")
    def loaded(sides: int) -> str:
        """Roll a loaded die."""
        return f"always {sides}"

    async with converse(Gambler, tools=[loaded]) as chat:
        assert await chat.say("12") == "always 12"


async def test_a_person_reads_what_is_wrong_with_an_argument() -> None:
    async with converse(Gambler) as chat:
        reply = await chat.say("one")
    assert reply.problem is not None
    assert reply.problem.message == (
        "Tool 'roll': argument 'sides' must be a whole number, not 'one'"
    )


@tool(read_only=True)
async def whereabouts(context: ToolContext, verbose: bool = False) -> str:
    """Say where the call comes from."""
    return f"{context.person} in {context.conversation}, call {context.call} {verbose}"


async def test_a_tool_is_told_where_the_call_comes_from_and_a_model_is_not() -> None:
    assert set(whereabouts.json_schema["properties"]) == {"verbose"}
    arguments = whereabouts.validate({"verbose": True})
    assert await whereabouts.run(arguments, CONTEXT) == "ada in acme/web/t, call turn-3 True"
    with pytest.raises(InvalidInput, match="context"):
        whereabouts.validate({"context": "mine"})


def test_a_tool_without_effects_may_run_twice() -> None:
    assert whereabouts.idempotent


async def test_the_events_of_a_call_have_the_id_that_the_tool_gets() -> None:
    class Asker(Skill):
        """Ask where."""

        name = "asker"

        async def answer(self, turn: Turn) -> None:
            await turn.say(await turn.call_tool("whereabouts"))

    async with converse(Asker, tools=[whereabouts]) as chat:
        reply = await chat.say("where?")
    calls = {event.call for event in reply.events if isinstance(event, ToolCalled)}
    assert len(calls) == 1
    assert f"call {calls.pop()} " in reply


class Sky(pydantic.BaseModel):
    sunny: bool


@tool(read_only=True)
def forecast(town: str) -> Sky:
    """Tell the weather."""
    return Sky(sunny=town != "London")


@tool
def count() -> int:
    """Count."""
    return 1


def test_a_description_has_the_schema_of_a_result_that_is_an_object() -> None:
    description = forecast.describe()
    assert description.result_schema == Sky.model_json_schema(mode="serialization")
    assert (description.read_only, description.idempotent) == (True, True)
    assert count.describe().result_schema is None
    assert roll.describe().result_schema is None


async def send(chat: ChatClient, text: str, **about: Any) -> Reply:
    return await chat.say(text, program=ProgramRequest(), **about)


async def test_a_program_runs_a_tool_in_a_turn() -> None:
    async with converse(Gambler, tools=[forecast]) as chat:
        arguments = {"tool": "forecast", "arguments": {"town": "Rome"}}
        reply = await send(chat, "forecast", skill="@tool", arguments=arguments)
        assert reply == '{"sunny":true}'
        assert [e.state for e in reply.events if isinstance(e, ToolCalled)] == ["started", "done"]
        with pytest.raises(NotFound, match="no skill '@tool'"):
            await chat.say("forecast", skill="@tool", arguments=arguments)


async def test_wrong_arguments_of_a_program_are_one_sentence() -> None:
    async with converse(Gambler, tools=[forecast]) as chat:
        reply = await send(
            chat, "x", skill="@tool", arguments={"tool": "forecast", "arguments": {"city": "x"}}
        )
        assert reply.problem is not None
        assert "Tool 'forecast'" in reply.problem.message


class Confirmer(Skill):
    """Ask before it does anything."""

    name = "confirmer"
    examples = ("please confirm",)

    async def answer(self, turn: Turn) -> None:
        await turn.say(f"You said: {await turn.ask('Which one?')}")


async def test_an_answer_of_a_program_is_one_whatever_it_looks_like() -> None:
    async with converse(Gambler, Confirmer) as chat:
        await send(chat, "please confirm", skill="confirmer")
        answer = ProgramRequest(is_answer=True)
        reply = await chat.say("/gambler roll a die", program=answer)
        assert reply == "You said: /gambler roll a die"
        await send(chat, "please confirm", skill="confirmer")
        other = await chat.say("/gambler 6", program=ProgramRequest())
        assert other.skill == "gambler"


async def test_a_cancelled_tool_learns_whether_its_call_goes_on_elsewhere() -> None:
    learned: list[bool] = []
    begun = asyncio.Event()

    @tool(idempotent=True)
    async def wait(context: ToolContext) -> str:
        """Wait until it is cancelled."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            learned.append(context.services.is_handed_over)
        return ""

    class Waits(Skill):
        """Wait."""

        name = "waits"

        async def answer(self, turn: Turn) -> None:
            await turn.call_tool("wait")

    settings = Settings(server=ServerSettings(drain=0, grace=1))
    async with converse(Waits, tools=[wait], settings=settings) as chat:
        turn = await chat.send("go")
        await begun.wait()
        await chat.stop(turn)
        assert (await chat.reply(turn)).outcome == "stopped"
        assert learned == [False]
        begun.clear()
        await chat.send("go")
        await begun.wait()  # the end of the server gives the turn back
    assert learned == [False, True]
