"""Limits of size of a turn: history, prompt, reply, journal and waiting messages."""

from collections.abc import Sequence

import pytest
from tests.server.skills_under_test import Parrot

from palaver import Skill, Turn, tool
from palaver.config.settings import (
    AdmissionSettings,
    DispatchSettings,
    LedgerSettings,
    RoutingSettings,
    Settings,
)
from palaver.engine import MAX_CHARACTERS_PER_TOKEN, ChatMessage, ToolDefinition, count_characters
from palaver.errors import PromptTooLong, TooMany
from palaver.history import CUT_MARK
from palaver.ledger import HistoryEntry
from palaver.messages import new_id
from palaver.testing import MemoryLedger, ScriptedEngine, ScriptedReply, converse
from palaver.turns.prompt import fit_prompt

WINDOW = 8_192
MAX_COUNTED = (WINDOW + 1) * MAX_CHARACTERS_PER_TOKEN


class CountingEngine(ScriptedEngine):
    """An engine that notes the lengths of the texts that it would tokenize."""

    def __init__(self, *script: str) -> None:
        super().__init__(*script or (lambda _: "fine",), context_window=WINDOW)
        self.counted: list[int] = []

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        self.counted.append(count_characters(messages))
        return await super().count_tokens(messages, tools)


def limited(limit: str, times: int = 1) -> bytes:
    return f'palaver_limits_total{{limit="{limit}"}} {times}.0'.encode()


def settings(**sections: object) -> Settings:
    routing = RoutingSettings(default="parrot", threshold=1.0, consult_engine=False)
    return Settings(routing=routing, **sections)


# History


async def test_a_skill_gets_no_more_bytes_of_history_than_set() -> None:
    engine = ScriptedEngine(lambda _: "yes")
    chosen = settings(ledger=LedgerSettings(history_bytes=1_000))
    async with converse(Parrot, settings=chosen, engine=engine) as chat:
        await chat.say("x" * 800)
        await chat.say("y" * 2_000)
        await chat.say("hi")
        exposition = chat.server.metrics.exposition()
    contents = [message.content for message in engine.requests[-1].messages]
    assert contents[1:] == ["yes", "hi"]
    assert contents[0].startswith("yyy")
    assert contents[0].endswith(CUT_MARK)
    assert len(contents[0]) < 1_000
    assert limited("history_bytes", 2) in exposition  # the second turn and the third


@pytest.mark.parametrize("text", ["word " * 180_000, "x" * 900_000, "é€" * 190_000])
async def test_a_huge_history_reaches_no_tokenizer(text: str) -> None:
    ledger, engine = MemoryLedger(), CountingEngine()
    async with converse(Parrot, settings=settings(), ledger=ledger, engine=engine) as chat:
        for _ in range(20):
            await chat.say(text)
        engine.counted.clear()
        reply = await chat.say("hi")
    assert reply == "fine"
    assert max(engine.counted, default=0) <= MAX_COUNTED
    assert len(engine.counted) <= 6


# Prompts


def entries_of(*lengths: int) -> list[HistoryEntry]:
    return [
        HistoryEntry(role="user", text="x" * length, turn=new_id(), at=0.0) for length in lengths
    ]


async def test_a_prompt_that_cannot_fit_is_not_counted() -> None:
    counted: list[int] = []

    async def count(messages: Sequence[ChatMessage]) -> int:
        counted.append(count_characters(messages))
        return count_characters(messages) // 4

    with pytest.raises(PromptTooLong):
        await fit_prompt("", entries_of(), "x" * 900_000, budget=1_000, count_tokens=count)
    assert counted == []
    messages = await fit_prompt(
        "", entries_of(*[900_000] * 20), "hi", budget=1_000, count_tokens=count
    )
    assert [message.content for message in messages] == ["hi"]
    assert counted == []


@pytest.mark.parametrize("budget", [300, 1_000, 2_000, 4_000, 100_000])
async def test_as_much_history_is_kept_as_fits(budget: int) -> None:
    counts = 0

    async def count(messages: Sequence[ChatMessage]) -> int:
        nonlocal counts
        counts += 1
        return count_characters(messages) // 4

    history = entries_of(*[400] * 100)
    messages = await fit_prompt("system", history, "hi", budget=budget, count_tokens=count)
    assert await count(messages) <= budget
    assert counts <= 9
    kept = len(messages) - 2
    assert messages[1:-1] == [ChatMessage("user", entry.text) for entry in history[100 - kept :]]
    assert kept == 100 or (kept + 30) * 100 > budget  # cuts are made in steps


class Extractor(Skill):
    """Give the engine a prompt as it is."""

    name = "parrot"
    examples = ("extract this", "extract that")

    async def answer(self, turn: Turn) -> None:
        if turn.message.text.startswith("count"):
            await turn.say(str(await turn.count_tokens(turn.message.text)))
            return
        await turn.say(await turn.choose(turn.message.text, ["yes", "no"]))


async def test_a_prompt_of_any_kind_that_cannot_fit_is_refused_before_the_engine() -> None:
    engine = CountingEngine()
    async with converse(Extractor, settings=settings(), engine=engine) as chat:
        reply = await chat.say("x" * 900_000)
        exposition = chat.server.metrics.exposition()
    assert reply.problem is not None
    assert reply.problem.code == "prompt_too_long"
    assert engine.requests == []
    assert limited("prompt") in exposition


async def test_the_tokens_of_a_huge_text_are_an_estimate_above_the_window() -> None:
    engine = CountingEngine()
    async with converse(Extractor, settings=settings(), engine=engine) as chat:
        engine.counted.clear()  # at the start it counts the tokens of a system message
        reply = await chat.say("count " * 150_000)
    assert int(reply) > WINDOW
    assert engine.counted == []


# Replies and journals


class Babbler(Skill):
    """Say as much as the message asks for."""

    name = "parrot"
    examples = ("babble", "say a lot")

    async def answer(self, turn: Turn) -> None:
        for _ in range(int(turn.message.text)):
            await turn.say("0123456789")


@pytest.mark.parametrize("limit", [1_000, 2_000])
async def test_a_reply_has_no_more_characters_than_set(limit: int) -> None:
    chosen = settings(dispatch=DispatchSettings(max_reply_characters=limit))
    async with converse(Babbler, settings=chosen) as chat:
        assert len(await chat.say(f"{limit // 10}")) == limit
        reply = await chat.say(f"{limit // 10 + 1}")
        exposition = chat.server.metrics.exposition()
    assert reply.problem is not None
    assert reply.problem.code == "limit_exceeded"
    assert len(reply) == limit
    assert limited("max_reply_characters") in exposition


async def test_a_generation_that_does_not_end_is_ended_at_the_limit() -> None:
    chosen = settings(dispatch=DispatchSettings(max_reply_characters=1_000))
    engine = ScriptedEngine("word " * 400)
    async with converse(Parrot, settings=chosen, engine=engine) as chat:
        reply = await chat.say("go on")
    assert reply.problem is not None
    assert reply.problem.code == "limit_exceeded"
    assert len(reply) <= 1_000


@tool
async def fetch(size: int) -> str:
    """Return as many characters."""
    return "x" * size


class Fetcher(Skill):
    """Fetch texts."""

    name = "parrot"
    examples = ("fetch", "get it")

    async def answer(self, turn: Turn) -> None:
        for size in turn.message.text.split():
            await turn.call_tool("fetch", size=int(size))
        await turn.say("fetched")


@pytest.mark.parametrize("sizes", ["20000", "9000 9000 9000"])
async def test_a_journal_has_no_more_bytes_than_set(
    sizes: str, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = MemoryLedger()
    chosen = settings(dispatch=DispatchSettings(max_journal_bytes=20_000))
    async with converse(Fetcher, settings=chosen, ledger=ledger, tools=[fetch]) as chat:
        assert await chat.say("9000 9000") == "fetched"
        reply = await chat.say(sizes)
        exposition = chat.server.metrics.exposition()
    assert reply.problem is not None
    assert reply.problem.code == "limit_exceeded"
    assert "'call_tool'" in caplog.text
    assert "dispatch.max_journal_bytes" in caplog.text
    assert limited("max_journal_bytes") in exposition


# Waiting messages


@pytest.mark.parametrize("size", [2_000, 4_000])
async def test_messages_that_wait_take_no_more_bytes_than_set(size: int) -> None:
    engine = ScriptedEngine(lambda _: ScriptedReply(text="one two", pause_after=1))
    chosen = settings(admission=AdmissionSettings(inbox_bytes=size))
    async with converse(Parrot, settings=chosen, engine=engine) as chat:
        turns = [await chat.send("first")]
        await chat.recorder.wait_for(turns[0], text="one")
        turns += [await chat.send("x" * (size - 1_000))]
        with pytest.raises(TooMany):
            await chat.send("x" * 1_000)
        assert b'palaver_refusals_total{reason="inbox"} 1.0' in chat.server.metrics.exposition()
        engine.resume()
        for turn in turns:
            assert await chat.reply(turn) == "one two"
