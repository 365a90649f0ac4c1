"""Models that call tools, when a server dies between and within their steps."""

import asyncio

import pytest
from tests.server.turns.test_agent import Sources, agent_with, double, results
from tests.server.turns.test_takeover import taken_over

from palaver import Skill, Tool, Turn, tool
from palaver.messages import Started, TextReset, ToolCalled
from palaver.testing import ScriptedEngine, ScriptedReply, tool_call
from palaver.testing.harness import ChatClient

pytestmark = pytest.mark.slow


def payments() -> tuple[Tool, list[int]]:
    """Return a tool that must not run twice, and the log of its effects."""
    paid: list[int] = []

    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return f"paid {amount}"

    return pay, paid


class Hang:
    """A tool that never ends on the first server, and knows when it runs."""

    def __init__(self, *, idempotent: bool, parallel: bool = False) -> None:
        self.calls = 0
        self.running = asyncio.Event()

        @tool(idempotent=idempotent, parallel=parallel)
        async def hang() -> str:
            """Hang."""
            self.calls += 1
            self.running.set()
            if self.calls == 1:
                await asyncio.Event().wait()
            return "done at last"

        self.tool = hang


def states(chat: ChatClient, turn: str, name: str) -> list[str]:
    return [it.state for it in chat.recorder.events_of(turn, ToolCalled) if it.name == name]


async def test_finished_steps_are_replayed_and_the_answer_goes_on_at_its_last_character() -> None:
    pay, paid = payments()
    answer = "\n\nAll of it is paid now."
    first = ScriptedEngine(
        ScriptedReply(text="First this.", tool_calls=(tool_call("pay", amount=1),)),
        tool_call("pay", amount=2),
        ScriptedReply(text=answer.strip(), pause_after=3),
    )
    second = ScriptedEngine(answer.strip())
    agent = agent_with(pay)
    async with taken_over(first, second, agent, until="All of it", tools=(pay,)) as (chat, turn):
        reply = await chat.reply(turn)
        assert reply == "First this." + answer
        assert not chat.recorder.events_of(turn, TextReset)
        assert chat.recorder.events_of(turn, Started)[-1].attempt == 2
    assert paid == [1, 2]
    (request,) = second.requests
    assert request.partial == "All of it"
    assert request.messages == first.requests[-1].messages


async def test_a_text_before_calls_that_was_half_said_goes_on() -> None:
    pay, paid = payments()
    step = ScriptedReply(text="I shall pay it now.", tool_calls=(tool_call("pay", amount=1),))
    first = ScriptedEngine(ScriptedReply(text=step.text, tool_calls=step.tool_calls, pause_after=2))
    second = ScriptedEngine(step, "Paid.")
    async with taken_over(first, second, agent_with(pay), until="I shall", tools=(pay,)) as (
        chat,
        turn,
    ):
        assert await chat.reply(turn) == "I shall pay it now.\n\nPaid."
        assert not chat.recorder.events_of(turn, TextReset)
    assert second.requests[0].partial == "I shall"
    assert paid == [1]


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_call_whose_outcome_is_unknown_is_not_repeated_and_the_model_is_told(
    idempotent: bool,
) -> None:
    hang = Hang(idempotent=idempotent)
    second = ScriptedEngine("Answer.")
    async with taken_over(
        ScriptedEngine(tool_call("hang")),
        second,
        agent_with(hang.tool),
        when=hang.running.wait,
        tools=(hang.tool,),
    ) as (chat, turn):
        assert await chat.reply(turn) == "Answer."
        seen = states(chat, turn, "hang")
    (result,) = results(second.requests[-1])
    if idempotent:
        assert (hang.calls, result, seen) == (2, "done at last", ["started", "done"])
    else:
        assert (hang.calls, seen) == (1, ["unknown"])
        assert result.startswith("It is not known whether this call had its effect")


async def test_of_calls_side_by_side_only_the_one_that_was_cut_off_is_unknown() -> None:
    hang = Hang(idempotent=False, parallel=True)
    done: list[str] = []

    @tool(parallel=True)
    async def note(text: str) -> str:
        """Note."""
        done.append(text)
        return f"noted {text}"

    async def until_both() -> None:
        await hang.running.wait()
        while len(done) < 2:  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # the results are stored with the next flush

    calls = (tool_call("note", text="a"), tool_call("hang"), tool_call("note", text="b"))
    second = ScriptedEngine("Answer.")
    async with taken_over(
        ScriptedEngine(ScriptedReply(tool_calls=calls)),
        second,
        agent_with(note, hang.tool),
        when=until_both,
        tools=(note, hang.tool),
    ) as (chat, turn):
        assert await chat.reply(turn) == "Answer."
    assert done == ["a", "b"]
    assert hang.calls == 1
    a, unknown, b = results(second.requests[-1])
    assert (a, b) == ("noted a", "noted b")
    assert unknown.startswith("It is not known")


class Shop(Skill):
    """Buy things."""

    name = "shop"
    examples = ("buy",)

    async def answer(self, turn: Turn) -> None:
        first = await turn.call_tool("pay", amount=1)
        written = await turn.generate("write")
        second = await turn.call_tool("pay", amount=2)
        await turn.say(f"{first}, {written}, {second}")


async def test_a_skill_that_runs_as_a_tool_goes_on_within() -> None:
    pay, paid = payments()
    first = ScriptedEngine(
        tool_call("shop", text="go"), ScriptedReply(text="a letter", pause_after=1)
    )
    second = ScriptedEngine("a letter", tool_call("double", number=2), "Bought.")

    async def until_writing() -> None:
        while len(first.requests) < 2:  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # the results are stored with the next flush

    agent = agent_with("shop", double)
    async with taken_over(first, second, agent, Shop, when=until_writing, tools=(pay,)) as (
        chat,
        turn,
    ):
        assert await chat.reply(turn) == "Bought."
        history = (await chat.server.snapshot(chat.conversation)).history
    assert paid == [1, 2]
    assert results(second.requests[-1]) == ["paid 1, a letter, paid 2", "4"]
    tools = history[-1].tools
    assert tools
    assert [(use.name, use.state) for use in tools] == [
        ("shop", "done"),
        ("pay", "done"),
        ("pay", "done"),
        ("double", "done"),
    ]
    assert len({use.call for use in tools}) == 4


async def test_what_a_finished_skill_added_stays_in_the_reply() -> None:
    first = ScriptedEngine(
        ScriptedReply(tool_calls=(tool_call("sources", text="Tea"), tool_call("double", number=1))),
        ScriptedReply(text="Here it is [1].", pause_after=2),
    )
    second = ScriptedEngine("Here it is [1].")
    async with taken_over(
        first, second, agent_with("sources", double), Sources, until="Here it"
    ) as (chat, turn):
        assert await chat.reply(turn) == "Here it is [1]."
        entry = (await chat.server.snapshot(chat.conversation)).history[-1]
    assert entry.citations
    assert [it.title for it in entry.citations] == ["Tea"]
    assert entry.attachments
    assert [it.name for it in entry.attachments] == ["Tea.txt"]
    assert second.requests[0].messages == first.requests[-1].messages


async def test_a_skill_that_failed_is_not_run_again() -> None:
    runs: list[str] = []

    class Broken(Skill):
        """Fail at the engine."""

        name = "broken"
        examples = ("fail",)

        async def answer(self, turn: Turn) -> None:
            runs.append(turn.message.text)
            await turn.call_tool("double", number=1)
            raise ValueError("no")

    first = ScriptedEngine(
        tool_call("broken", text="x"), ScriptedReply(text="It did not work.", pause_after=1)
    )
    second = ScriptedEngine("It did not work.")
    async with taken_over(
        first, second, agent_with("broken"), Broken, until="It", tools=(double,)
    ) as (chat, turn):
        assert await chat.reply(turn) == "It did not work."
        entry = (await chat.server.snapshot(chat.conversation)).history[-1]
    assert runs == ["x"]
    assert [(it.name, it.state) for it in entry.tools or ()] == [
        ("broken", "failed"),
        ("double", "done"),
    ]
    assert second.requests[0].messages == first.requests[-1].messages
