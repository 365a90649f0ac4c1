"""The history keeps what a reply has beside its text, as the live events show it, within limits."""

import asyncio
from typing import Any

import pytest
from tests.server.turns.test_takeover import taken_over

from palaver import HistoryEntry, Problem, Question, Skill, ToolUse, Turn, tool
from palaver.history import CUT_MARK
from palaver.messages import ReplyParts, ToolCalled, encode
from palaver.testing import ChatClient, ScriptedEngine, ScriptedReply, converse
from palaver.turns.reply_record import (
    MAX_PROBLEM_MESSAGE,
    MAX_TOOL_ARGUMENTS,
    MAX_TOOL_RESULT,
    MAX_TOOL_USES,
    OPTIONS_BYTES,
    TOOLS_BYTES,
    ReplyRecord,
)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def divide(a: int, b: int) -> int:
    """Divide two numbers."""
    return a // b


class Clerk(Skill):
    """Calculate, and ask where the result goes."""

    name = "clerk"
    examples = ("calculate", "add this up")

    async def answer(self, turn: Turn) -> None:
        total = await turn.call_tool("add", a=1, b=2)
        place = await turn.ask(f"It is {total}. Where to?", ["the file", "the bin"])
        await turn.call_tool("add", a=3, b=4)
        await turn.say(f"It is in {place}.")


class Optimist(Skill):
    """Divide by nothing."""

    name = "optimist"
    examples = ("divide by zero",)

    async def answer(self, turn: Turn) -> None:
        await turn.call_tool("divide", a=1, b=0)


def used(entry: HistoryEntry, step: int, **parts: Any) -> ToolUse:  # Any: fields of `ToolUse`
    """Return the use of a tool in that step of the entry's turn."""
    return ToolUse(call=f"{entry.turn}-{step}", **parts)


async def last_reply(chat: ChatClient) -> HistoryEntry:
    return (await chat.server.snapshot(chat.conversation)).history[-1]


async def test_the_history_has_why_the_skill_was_chosen_its_tools_and_its_question() -> None:
    async with converse(Clerk, tools=[add]) as chat:
        asked = await chat.say("/clerk")
        entry = await last_reply(chat)
        assert (entry.reason, entry.outcome) == (asked.reason, "asked")
        assert entry.reason
        assert entry.tools == (
            used(entry, 1, name="add", state="done", arguments={"a": 1, "b": 2}, result="3"),
        )
        assert entry.question == Question(
            text="It is 3. Where to?", options=("the file", "the bin")
        )
        answered = await chat.say("the bin")
        entry = await last_reply(chat)
    # The first tool belongs to the turn that asked, although the skill has run from its beginning.
    assert entry.tools == (
        used(entry, 3, name="add", state="done", arguments={"a": 3, "b": 4}, result="7"),
    )
    assert (entry.reason, entry.question or None) == (answered.reason, None)


async def test_the_history_has_the_problem_of_a_failed_reply() -> None:
    async with converse(Optimist, tools=[divide]) as chat:
        reply = await chat.say("/optimist")
        entry = await last_reply(chat)
    assert reply.problem is not None
    assert (entry.problem, entry.outcome) == (reply.problem, "failed")
    assert entry.tools == (
        used(entry, 1, name="divide", state="failed", arguments={"a": 1, "b": 0}),
    )


async def test_the_history_tells_that_the_limit_of_tokens_cut_a_reply() -> None:
    class Talker(Skill):
        """Talk."""

        name = "talker"
        examples = ("talk to me", "say something")

        async def answer(self, turn: Turn) -> None:
            await turn.stream("talk")

    async with converse(Talker, engine=ScriptedEngine()) as chat:  # it never ends by itself
        await chat.say("/talker")
        assert (await last_reply(chat)).finish_reason == "length"


class Adder(Skill):
    """Add, then talk."""

    name = "adder"
    examples = ("add", "sum up")

    async def answer(self, turn: Turn) -> None:
        await turn.call_tool("add", a=1, b=2)
        await turn.stream("talk")


@pytest.mark.slow
async def test_after_a_takeover_the_history_has_the_tools_of_the_first_attempt() -> None:
    first = ScriptedEngine(ScriptedReply(text="one two three", pause_after=2))
    second = ScriptedEngine("one two three")
    async with taken_over(first, second, Adder, until="two", tools=(add,)) as (chat, turn):
        await chat.reply(turn)
        assert chat.recorder.events_of(turn, ToolCalled) == []  # it was not called again
        entry = await last_reply(chat)
    assert entry.tools == (
        used(entry, 1, name="add", state="done", arguments={"a": 1, "b": 2}, result="3"),
    )


async def test_a_tool_that_a_stop_interrupted_may_or_may_not_have_run() -> None:
    begun = asyncio.Event()

    @tool(name="add")
    async def wait(a: int, b: int) -> int:
        """Wait for ever."""
        begun.set()
        await asyncio.Event().wait()
        return a + b

    async with converse(Adder, tools=[wait]) as chat:
        turn = await chat.send("/adder")
        await asyncio.wait_for(begun.wait(), 5)
        await chat.stop(turn)
        await chat.reply(turn)
        entry = await last_reply(chat)
    assert entry.tools == (used(entry, 1, name="add", state="unknown", arguments={"a": 1, "b": 2}),)


# Limits


def record(**arguments: Any) -> ToolUse:  # Any: JSON values
    recorded = ReplyRecord()
    recorded.set_tool(0, ToolUse(name="t", arguments=arguments, state="done", result="r"))
    (use,) = recorded.parts(None, "stop").tools
    return use


def test_long_arguments_are_cut_and_short_ones_stay() -> None:
    short = {"text": "x" * (MAX_TOOL_ARGUMENTS - len('{"text":""}'))}
    assert record(**short).arguments == short
    use = record(text="x" * 5_000, number=7, table=[["é"] * 2_000], flag=True)
    assert use.arguments["text"] == "x" * (MAX_TOOL_ARGUMENTS // 4) + CUT_MARK
    assert (use.arguments["number"], use.arguments["flag"]) == (7, True)
    assert use.arguments["table"].startswith('[["é","é",')
    assert len(encode(use)) < 2 * MAX_TOOL_ARGUMENTS


def test_a_long_result_is_cut() -> None:
    recorded = ReplyRecord()
    recorded.set_tool(
        0, ToolUse(name="t", arguments={}, state="done", result="r" * 10 * MAX_TOOL_RESULT)
    )
    assert recorded.parts(None, "stop").tools[0].result == "r" * MAX_TOOL_RESULT


def test_of_many_tools_the_last_are_kept_and_the_newest_with_their_results() -> None:
    recorded = ReplyRecord()
    for step in range(3 * MAX_TOOL_USES):
        recorded.set_tool(
            step,
            ToolUse(
                name=f"tool-{step}",
                arguments={"n": step},
                state="done",
                result="r" * MAX_TOOL_RESULT,
            ),
        )
    uses = recorded.parts(None, "stop").tools
    assert [use.name for use in uses] == [
        f"tool-{step}" for step in range(2 * MAX_TOOL_USES, 3 * MAX_TOOL_USES)
    ]
    complete = [bool(use.result) for use in uses]
    assert complete == sorted(complete)
    assert sum(complete) == TOOLS_BYTES // len(encode(uses[-1]))
    assert all(bool(use.arguments) == bool(use.result) for use in uses)


def test_a_tool_keeps_its_last_state() -> None:
    recorded = ReplyRecord()
    recorded.set_tool(4, ToolUse(name="t", arguments={}, state="started"))
    recorded.set_tool(4, ToolUse(name="t", arguments={}, state="failed", result="It is closed."))
    recorded.set_tool(9, ToolUse(name="t", arguments={}, state="done", result="open"))
    assert [use.state for use in recorded.parts(None, "stop").tools] == ["failed", "done"]


def test_options_and_problems_are_bounded() -> None:
    recorded = ReplyRecord()
    recorded.set_question("Which?", [f"{number:0100}" for number in range(1_000)])
    parts = recorded.parts(Problem("skill", "x" * 100_000), "stop")
    assert parts.question is not None
    assert parts.question.options[0] == f"{0:0100}"
    assert OPTIONS_BYTES - 200 < len(encode(parts.question.options)) <= OPTIONS_BYTES + 200
    assert parts.problem == Problem("skill", "x" * MAX_PROBLEM_MESSAGE + CUT_MARK)


def test_a_reply_without_parts_has_no_fields() -> None:
    assert ReplyRecord().parts(None, "stop").present == {}
    assert ReplyParts(score=0.0).present == {"score": 0.0}
