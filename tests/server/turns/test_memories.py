"""Memories: written with the turn, once, and never about an erased person."""

import asyncio

import pytest
from tests.server.turns.test_takeover import LEASE, die, replica, server_runs, until

from palaver import MAX_MEMORIES, MAX_MEMORY_BYTES, Skill, Turn
from palaver.exports import collect_export
from palaver.messages import Conversation, Message
from palaver.server import Server
from palaver.testing import MemoryLedger, ScriptedEngine, converse
from palaver.testing.harness import ChatClient

TENANT = "default"


class Diarist(Skill):
    """Remember what was said, when the test lets it."""

    name = "diarist"
    examples = ("note this", "write it down")

    def __init__(self) -> None:
        super().__init__()
        self.started = 0
        self.may_go = asyncio.Event()

    async def answer(self, turn: Turn) -> None:
        self.started += 1
        await self.may_go.wait()
        await turn.remember("note", turn.message.text)
        await turn.say("Noted.")


def diarist_of(server: Server) -> Diarist:
    skill = server._skills["diarist"]
    assert isinstance(skill, Diarist)
    return skill


async def test_no_person_who_was_erased_elsewhere_is_remembered_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = MemoryLedger()
    people = [f"person-{number}" for number in range(20)]
    async with (
        replica(ledger, ScriptedEngine(), Diarist) as here,
        replica(ledger, ScriptedEngine(), Diarist) as elsewhere,
    ):
        await elsewhere._dispatcher.drain(0)  # all turns run here
        for person in people:
            where = Conversation(TENANT, "test", person)
            message = Message(conversation=where, id="m", person=person, text="my secret")
            await here.accept(message)
        await until(lambda: diarist_of(here).started == len(people))
        for person in people:
            await elsewhere.erase(TENANT, person)
        diarist_of(here).may_go.set()
        await until(lambda: server_runs(here) == 0)
    found = [it for it in caplog.records if it.name != "palaver.watchdog"]  # of a busy machine
    assert found == [], "a turn that is over is no failure"
    for person in people:
        export = await collect_export(ledger.export(TENANT, person))
        assert (export.memories, export.conversations) == ({}, {})


class Forgetful(Skill):
    """Remember what was said, and wait."""

    name = "forgetful"
    examples = ("note this", "write it down")
    may_end = asyncio.Event()

    async def answer(self, turn: Turn) -> None:
        await turn.remember("note", turn.message.text)
        await turn.say("Noted")
        await self.may_end.wait()
        await turn.say(f": {await turn.recall('note')}")


async def test_a_replay_does_not_repeat_a_memory() -> None:
    """Check that a turn that is taken over does not replace what another turn wrote since."""
    seconds = [0.0]
    ledger = MemoryLedger(clock=lambda: seconds[0])
    Forgetful.may_end = asyncio.Event()
    async with replica(ledger, ScriptedEngine(), Forgetful) as dying:
        chat = ChatClient(dying, Conversation(TENANT, "test", "one"), "alice")
        subscription = await dying.subscribe(chat.conversation, chat.recorder)
        turn = await chat.send("old")
        await chat.recorder.wait_for(turn, text="Noted")
        await die(dying)
        dying.unsubscribe(subscription)
    Forgetful.may_end.set()
    async with converse(
        Forgetful, ledger=ledger, person="alice", thread="two", engine=ScriptedEngine()
    ) as chat:
        assert await chat.say("new") == "Noted: new"
    seconds[0] += LEASE  # until now, nobody takes the first turn over
    async with replica(ledger, ScriptedEngine(), Forgetful) as heir:
        chat = ChatClient(heir, Conversation(TENANT, "test", "one"), "alice")
        await heir.subscribe(chat.conversation, chat.recorder)
        assert await chat.reply(turn) == "Noted: new"
    assert await ledger.recall(TENANT, "alice", "forgetful.note") == "new"


class Hoarder(Skill):
    """Remember much: ``COUNT SIZE``."""

    name = "hoarder"
    examples = ("remember much", "keep it all")

    async def answer(self, turn: Turn) -> None:
        count, size = map(int, turn.message.text.split())
        for number in range(count):
            await turn.remember(f"k{number}", "é" * (size // 2))
        await turn.say("done")


async def test_a_large_value_is_refused() -> None:
    ledger = MemoryLedger()
    async with converse(Hoarder, ledger=ledger) as chat:
        assert (await chat.say(f"1 {MAX_MEMORY_BYTES}")).outcome == "done"
        refused = await chat.say(f"1 {MAX_MEMORY_BYTES + 2}")
        assert refused.outcome == "failed"
        assert refused.problem is not None
        assert refused.problem.code == "skill"
        metrics = chat.server.metrics.exposition().decode()
    assert 'palaver_memories_refused_total{limit="bytes"} 1.0' in metrics
    stored = await ledger.recall(TENANT, "alice", "hoarder.k0")
    assert stored is not None
    assert len(stored.encode()) == MAX_MEMORY_BYTES


@pytest.mark.parametrize("person", ["alice", "bob"])
async def test_too_many_values_about_a_person_are_refused(person: str) -> None:
    ledger = MemoryLedger()
    async with converse(Hoarder, ledger=ledger, person="alice") as chat:
        assert (await chat.say(f"{MAX_MEMORIES} 2")).outcome == "done"
        assert (await chat.say(f"{MAX_MEMORIES} 4")).outcome == "done", "these exist"
    async with converse(Hoarder, ledger=ledger, person=person, thread="other") as chat:
        reply = await chat.say(f"{MAX_MEMORIES + 1} 6")
        assert reply.outcome == "failed"
        assert 'limit="count"} 1.0' in chat.server.metrics.exposition().decode()
    assert await ledger.count_memories(TENANT, person) == MAX_MEMORIES
    assert await ledger.recall(TENANT, person, "hoarder.k0") == "é" * 3
