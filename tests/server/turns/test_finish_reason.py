"""A reply that the limit of tokens cuts says so, from the engine to the client."""

import asyncio

import pytest
from tests.server.turns.test_takeover import taken_over

from palaver import Sampling, Skill, Turn
from palaver.errors import PalaverError
from palaver.messages import Finished, Message
from palaver.replies import follow_reply
from palaver.testing import ScriptedEngine, ScriptedReply, converse
from palaver.testing.harness import ChatClient

LONG = "one two three four five six"


class Short(Skill):
    """Say at most three words of the model."""

    name = "short"
    then_wait: asyncio.Event | None = None

    async def answer(self, turn: Turn) -> None:
        await turn.stream("go", sampling=Sampling(max_tokens=3))
        if self.then_wait is not None and turn.attempt == 1:
            await turn.remember("stored", "yes")  # all before it is stored, too
            self.then_wait.set()
            await asyncio.Event().wait()


class Notes(Skill):
    """Generate what nobody sees, cut, and then a whole reply."""

    name = "notes"

    async def answer(self, turn: Turn) -> None:
        await turn.generate("go", sampling=Sampling(max_tokens=2))
        await turn.stream("go")


class Several(Skill):
    """Say two generations, the first of which is cut."""

    name = "several"

    async def answer(self, turn: Turn) -> None:
        await turn.stream("go", sampling=Sampling(max_tokens=2))
        await turn.stream("go on", sampling=Sampling(max_tokens=20))


async def finished(chat: ChatClient, turn: str) -> Finished:
    await chat.reply(turn)
    event: Finished = chat.recorder.events_of(turn, Finished)[-1]
    return event


@pytest.mark.parametrize(
    ("skill", "replies", "reason"),
    [
        (Short, [LONG], "length"),
        (Short, ["one two three"], "stop"),
        (Notes, [LONG, LONG], "stop"),
        (Several, [LONG, LONG], "length"),
    ],
)
async def test_a_turn_knows_whether_its_reply_was_cut(
    skill: type[Skill], replies: list[str], reason: str
) -> None:
    async with converse(skill, engine=ScriptedEngine(*replies)) as chat:
        assert (await finished(chat, await chat.send("go"))).finish_reason == reason


async def test_a_reply_that_is_waited_for_knows_it() -> None:
    async with converse(Short, engine=ScriptedEngine(LONG)) as chat:
        message = Message(conversation=chat.conversation, id="m", person="alice", text="go")
        async with follow_reply(chat.server, message) as reply:
            assert (await reply.wait()).finish_reason == "length"


async def test_a_recorded_generation_was_still_cut_after_a_takeover() -> None:
    said = asyncio.Event()

    class Recorded(Short):
        """Say at most three words, and then wait until the replica dies."""

        name = "recorded"
        then_wait = said

    first, second = ScriptedEngine(LONG), ScriptedEngine(LONG)
    async with taken_over(first, second, Recorded, when=said.wait) as (chat, turn):
        assert (await finished(chat, turn)).finish_reason == "length"


async def test_a_continued_generation_is_cut_after_a_takeover() -> None:
    paused = ScriptedEngine(ScriptedReply(text=LONG, pause_after=2))
    async with taken_over(paused, ScriptedEngine(LONG), Short, until="one two") as (chat, turn):
        assert (await finished(chat, turn)).finish_reason == "length"


async def test_a_failed_turn_has_not_reached_a_limit() -> None:
    broken = ScriptedEngine(ScriptedReply(text="one", error=PalaverError()))
    async with converse(Short, engine=broken) as chat:
        turn = await chat.send("go")
        event = await finished(chat, turn)
        assert (event.outcome, event.finish_reason) == ("failed", "stop")
