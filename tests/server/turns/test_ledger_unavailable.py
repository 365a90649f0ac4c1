"""The ledger is away for a while: nothing is accepted, nothing is lost, and the engine is free."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from tests.server.skills_under_test import Parrot
from tests.server.turns.test_takeover import CONVERSATION, LEASE, until

from palaver import Skill, Tool, Turn, tool
from palaver.config.settings import DispatchSettings, RoutingSettings, Settings
from palaver.errors import LedgerUnavailable
from palaver.ledger import Ledger
from palaver.messages import Started, TextReset
from palaver.server import Server
from palaver.testing import (
    ChatClient,
    ListKnowledge,
    MemoryLedger,
    RecordingSubscriber,
    ScriptedEngine,
    ScriptedReply,
)
from palaver.turns import writer

pytestmark = pytest.mark.slow


class Link:
    """One process's way to a shared ledger. While it is cut every call fails; with ``deaf`` it is
    the answer that gets lost, after the ledger has done as told."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.cut = False
        self.deaf = False
        self.refused: list[str] = []
        """The calls that failed, by name."""
        self.passed: list[str] = []

    def __getattr__(self, name: str) -> Any:  # Any: the ledger's method
        method = getattr(self._ledger, name)
        if name in ("start", "close"):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.cut and not self.deaf:
                self.refused.append(name)
                raise LedgerUnavailable("cut")
            result = await method(*args, **kwargs)
            if self.cut:
                self.refused.append(name)
                raise LedgerUnavailable("deaf")
            self.passed.append(name)
            return result

        return call


@asynccontextmanager
async def linked(
    ledger: MemoryLedger, engine: ScriptedEngine, skill: type[Skill] = Parrot, *tools: Tool
) -> AsyncIterator[tuple[Server, Link]]:
    link = Link(ledger)
    server = Server(
        Settings(
            dispatch=DispatchSettings(lease=LEASE), routing=RoutingSettings(default=skill.name)
        ).model_copy(update={"server": Settings().server.model_copy(update={"drain": 0.0})}),
        ledger=cast(Ledger, link),
        engine=engine,
        knowledge=ListKnowledge(),
        skills={skill.name: skill()},
        tools={tool.name: tool for tool in tools},
    )
    async with server:
        yield server, link


@asynccontextmanager
async def watching(server: Server, recorder: RecordingSubscriber) -> AsyncIterator[ChatClient]:
    chat = ChatClient(server, CONVERSATION, "alice")
    chat.recorder = recorder
    subscription = await server.subscribe(CONVERSATION, recorder)
    yield chat
    server.unsubscribe(subscription)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(writer), "MAX_UNSTORED_SECONDS", 0.1)


def idle(engine: ScriptedEngine) -> Callable[[], bool]:
    return lambda: engine._running == 0


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_short_outage_has_no_effect(deaf: bool) -> None:
    engine = ScriptedEngine(ScriptedReply(text="one two three four", pause_after=2))
    async with linked(MemoryLedger(), engine) as (server, link):
        async with watching(server, RecordingSubscriber()) as chat:
            turn = await chat.send("go")
            await chat.recorder.wait_for(turn, text="one two")
            link.deaf, link.cut = deaf, True
            engine.resume()
            await until(idle(engine))
            await until(lambda: "append" in link.refused or "settle" in link.refused)
            link.cut = False
            reply = await chat.reply(turn)
    assert (reply, reply.outcome) == ("one two three four", "done")
    assert len(engine.requests) == 1


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_long_outage_pauses_the_turn_and_frees_the_engine(
    deaf: bool, impatient: None
) -> None:
    text = " ".join(f"word{number}" for number in range(400))
    engine = ScriptedEngine(text, seconds_per_token=0.002)
    ledger = MemoryLedger()
    async with linked(ledger, engine) as (server, link):
        async with watching(server, RecordingSubscriber()) as chat:
            turn = await chat.send("go")
            await chat.recorder.wait_for(turn, text="word5 ")
            link.deaf, link.cut = deaf, True
            await until(idle(engine))
            seen = chat.recorder.texts[turn]
            assert 0 < len(seen) < len(text)
            engine._seconds_per_token = 0
            link.cut = False
            reply = await chat.reply(turn)
            attempts = {event.attempt for event in chat.recorder.events_of(turn, Started)}
            assert not chat.recorder.events_of(turn, TextReset)
    assert (reply, reply.outcome) == (text, "done")
    assert reply.startswith(seen)
    assert engine.requests[1].partial.startswith(seen), "what was buffered is stored first"
    assert attempts == {1}, "an absence is not a failed attempt"


async def test_the_owner_of_a_paused_turn_claims_it_before_other_replicas(
    impatient: None,
) -> None:
    text = "left right left right left right and so on"
    clock = [1000.0]
    ledger = MemoryLedger(clock=lambda: clock[0])
    first = ScriptedEngine(ScriptedReply(text=text, pause_after=4))
    async with (
        linked(ledger, first) as (owner, link),
        watching(owner, RecordingSubscriber()) as chat,
    ):
        turn = await chat.send("go")
        await chat.recorder.wait_for(turn, text="left right left right")
        async with linked(ledger, ScriptedEngine(text)) as (_, others_link):
            link.cut = others_link.cut = True
            first.resume()
            await until(idle(first))
            clock[0] += 60
            await until(lambda: "wait_for_work" in others_link.refused)
            others_link.cut = False
            looks = others_link.passed.count("wait_for_work")
            await until(lambda: others_link.passed.count("wait_for_work") > looks)
            link.cut = False
            assert await chat.reply(turn) == text
        assert {event.attempt for event in chat.recorder.events_of(turn, Started)} == {1}


async def test_a_paused_turn_stays_with_the_replica_that_took_it_over(impatient: None) -> None:
    text = "left right left right left right and so on"
    clock = [1000.0]
    ledger = MemoryLedger(clock=lambda: clock[0])
    first = ScriptedEngine(ScriptedReply(text=text, pause_after=4))
    async with (
        linked(ledger, first) as (cut_off, link),
        watching(cut_off, RecordingSubscriber()) as here,
    ):
        turn = await here.send("go")
        await here.recorder.wait_for(turn, text="left right left right")
        link.cut = True
        first.resume()
        async with linked(ledger, ScriptedEngine(text)) as (other, _):
            async with watching(other, RecordingSubscriber()) as there:
                clock[0] += 60
                assert await there.reply(turn) == text
                link.cut = False
                await until(lambda: cut_off._dispatcher.running == 0)
                assert await here.reply(turn) == text
                assert here.recorder.events_of(turn, Started)[-1].attempt == 2
    assert await settled_replies(ledger) == [text]


async def settled_replies(ledger: MemoryLedger) -> list[str]:
    held = await ledger.snapshot(CONVERSATION, 100)
    return [line.text for line in held.history if line.role == "assistant"]


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_finished_turn_is_settled_when_the_ledger_is_back(deaf: bool) -> None:
    clock = [1000.0]
    ledger = MemoryLedger(clock=lambda: clock[0])
    engine = ScriptedEngine(ScriptedReply(text="one two", pause_after=1))
    async with linked(ledger, engine) as (server, link):
        async with watching(server, RecordingSubscriber()) as chat:
            turn = await chat.send("go")
            await chat.recorder.wait_for(turn, text="one")
            link.deaf, link.cut = deaf, True
            engine.resume()
            await until(idle(engine))
            await until(lambda: link.refused.count("settle") > 2)  # for as long as it takes
            assert server._dispatcher.running == 1
            link.cut = False
            reply = await chat.reply(turn)
    assert (reply, reply.outcome) == ("one two", "done")
    assert len(engine.requests) == 1
    assert await settled_replies(ledger) == ["one two"]


async def test_nothing_is_accepted_and_the_client_is_told_when_to_retry() -> None:
    async with linked(MemoryLedger(), ScriptedEngine("later")) as (server, link):
        async with watching(server, RecordingSubscriber()) as chat:
            link.cut = True
            with pytest.raises(LedgerUnavailable) as raised:
                await chat.send("now", id="m")
            assert raised.value.retry_after
            link.cut = False
            assert await chat.say("now", id="m") == "later"


class Caller(Skill):
    """Call a tool."""

    name = "caller"
    examples = ("call the tool", "use the tool")

    async def answer(self, turn: Turn) -> None:
        await turn.stream("first")
        await turn.say(" " + await turn.call_tool("bell"))


async def test_a_tool_runs_once_after_its_intent_could_not_be_stored() -> None:
    rung: list[str] = []

    @tool
    async def bell() -> str:
        """Ring."""
        rung.append("ding")
        return "ding"

    engine = ScriptedEngine(ScriptedReply(text="one", pause_after=1))
    async with linked(MemoryLedger(), engine, Caller, bell) as (server, link):
        async with watching(server, RecordingSubscriber()) as chat:
            turn = await chat.send("go")
            await chat.recorder.wait_for(turn, text="one")
            link.cut = True
            engine.resume()
            await until(idle(engine))
            assert not rung
            link.cut = False
            assert await chat.reply(turn) == "one ding"
    assert rung == ["ding"]


class Diary(Skill):
    """Remember."""

    name = "diary"
    examples = ("note this", "write it down")

    async def answer(self, turn: Turn) -> None:
        await turn.stream("first")
        await turn.remember("last", turn.message.text)
        await turn.say(" " + (await turn.recall("last") or "nothing"))


async def test_a_step_that_needs_the_ledger_does_not_fail_the_turn() -> None:
    engine = ScriptedEngine(ScriptedReply(text="noted:", pause_after=1))
    async with linked(MemoryLedger(), engine, Diary) as (server, link):
        async with watching(server, RecordingSubscriber()) as chat:
            turn = await chat.send("milk")
            await chat.recorder.wait_for(turn, text="noted:")
            link.cut = True
            engine.resume()
            await until(idle(engine))
            link.cut = False
            reply = await chat.reply(turn)
    assert (reply, reply.outcome) == ("noted: milk", "done")
