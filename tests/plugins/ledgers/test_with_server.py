"""Contract: a whole server applies every concurrency policy, on every ledger."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest_asyncio
from tests.plugins.engines.templated_engine import make_silent_engine, take_turns_without_a_reply
from tests.server.skills_under_test import Parrot
from tests.server.turns.test_concurrency_policy import Deaf, Guide, chosen, prompts
from tests.server.turns.test_takeover import stored, until

from palaver.ledger import Ledger
from palaver.testing import ScriptedEngine, ScriptedReply, converse

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest


@pytest_asyncio.fixture
async def ledger(subject: "LedgerUnderTest") -> AsyncIterator[Ledger]:
    """Return a ledger that the server starts and closes."""
    await subject.ledger.close()
    subject.ledger = subject.build()
    yield subject.ledger


async def test_a_burst_becomes_one_turn(subject: "LedgerUnderTest", ledger: Ledger) -> None:
    engine = ScriptedEngine("Hello Bob.")
    settings = chosen(default="merge", merge_window=5.0)
    async with converse(Parrot, engine=engine, ledger=ledger, settings=settings) as chat:
        turn = await chat.send("Hello")
        await subject.advance_clock(4)
        assert await chat.send("I am Bob") == turn
        await subject.advance_clock(6)
        assert await chat.reply(turn) == "Hello Bob."
    assert prompts(engine, 0) == ["Hello\n\nI am Bob"]


async def test_an_interruption_is_answered_with_the_interrupted_message(ledger: Ledger) -> None:
    engine = ScriptedEngine(ScriptedReply(text="Paris is lovely in", pause_after=3), "Rome is too.")
    settings = chosen(default="interrupt")
    async with converse(Parrot, engine=engine, ledger=ledger, settings=settings) as chat:
        first = await chat.send("Tell me of Paris")
        await stored(chat.server, first, "Paris is lovely")
        second = await chat.send("I mean Rome")
        assert (await chat.reply(first)).outcome == "stopped"
        assert await chat.reply(second) == "Rome is too."
    assert prompts(engine, 1) == ["Tell me of Paris\n\nI mean Rome"]


async def test_a_skill_is_steered(ledger: Ledger) -> None:
    engine = ScriptedEngine(
        ScriptedReply(text="straight on for", pause_after=2), "left it is", "on"
    )
    async with converse(Guide, engine=engine, ledger=ledger) as chat:
        turn = await chat.send("go")
        await chat.recorder.wait_for(turn, text="straight on")
        assert await chat.send("left") == turn
        assert await chat.reply(turn) == "straight on [left] left it is"
        assert await chat.say("and now?") == "on"


async def test_untaken_steering_becomes_the_next_turn(ledger: Ledger) -> None:
    engine = ScriptedEngine(ScriptedReply(text="one", pause_after=1), "two")
    async with converse(Deaf, engine=engine, ledger=ledger) as chat:
        turn = await chat.send("first")
        await chat.recorder.wait_for(turn, text="one")
        assert await chat.send("second", id="m") == turn
        engine.resume()
        assert await chat.reply(turn) == "one"
        await until(lambda: chat.recorder.turns["m"] != turn)
        assert await chat.reply(chat.recorder.turns["m"]) == "two"


async def test_a_conversation_goes_on_after_turns_without_a_reply(ledger: Ledger) -> None:
    """Although the model's chat template demands that user and assistant take turns."""
    async with converse(
        Parrot, engine=(engine := make_silent_engine("gemma")), ledger=ledger
    ) as chat:
        await take_turns_without_a_reply(chat, engine)
    assert "first\n\nsecond\n\nthird\n\nfourth\n\nAre you there?" in engine.prompts[-1]
