"""A skill knows how sure the model was of what it wrote."""

import asyncio
import math

import pytest
from tests.server.turns.test_takeover import taken_over

from palaver import Generation, Sampling, Skill, TokenLogprob, Turn
from palaver.messages import Usage
from palaver.testing import ScriptedEngine, converse


class Unsure(Skill):
    """Say how sure the model was of two texts."""

    name = "unsure"
    waits: asyncio.Event | None = None

    async def answer(self, turn: Turn) -> None:
        asked = Sampling(logprobs=0)
        await turn.generate("go", sampling=asked)
        told = [turn.confidence]
        if self.waits is not None and turn.attempt == 1:
            await turn.remember("stored", "yes")  # all before it is stored, too
            self.waits.set()
            await asyncio.Event().wait()
        await turn.generate("go on", sampling=Sampling())
        told.append(turn.confidence)
        await turn.say(" ".join("unknown" if each is None else f"{each:.2f}" for each in told))


async def test_the_confidence_is_that_of_the_last_text() -> None:
    async with converse(Unsure, engine=ScriptedEngine("a b", "c", probability=0.25)) as chat:
        assert await chat.say("go") == "0.25 unknown"


async def test_a_recorded_text_keeps_its_confidence_after_a_takeover() -> None:
    said = asyncio.Event()

    class Recorded(Unsure):
        """Say how sure the model was, and wait in between until the replica dies."""

        name = "recorded"
        waits = said

    first = ScriptedEngine("a b", probability=0.25)
    second = ScriptedEngine("c", probability=0.5)
    async with taken_over(first, second, Recorded, when=said.wait) as (chat, turn):
        assert await chat.reply(turn) == "0.25 unknown"


@pytest.mark.parametrize(("probabilities", "mean"), [((0.5, 0.5), 0.5), ((1.0, 0.25), 0.5)])
def test_the_confidence_is_a_geometric_mean(probabilities: tuple[float, ...], mean: float) -> None:
    logprobs = tuple(TokenLogprob("a", math.log(each)) for each in probabilities)
    generation = Generation(
        text="a a",
        finish_reason="stop",
        usage=Usage(prompt_tokens=1, completion_tokens=2),
        logprobs=logprobs,
    )
    assert generation.confidence == pytest.approx(mean)
