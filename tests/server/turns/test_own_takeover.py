"""A process that was stalled for longer than a lease claims a turn that it runs already."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.proofs.virtual_time import VirtualTimeLoop
from tests.server.skills_under_test import Parrot

from palaver import GenerationRequest
from palaver.config.settings import DispatchSettings, RoutingSettings, Settings
from palaver.ledger import HISTORY_BYTES, Claim
from palaver.messages import Conversation, Finished, Started
from palaver.testing import ChatClient, MemoryLedger, ScriptedEngine, ScriptedReply, converse

TEXT = "one two three four five six"
LEASE = 60.0


class ExpiringLedger(MemoryLedger):
    """Ledger on a clock of its own. Until the turn ``expiring`` is claimed again, all claims come
    after the leases."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: self.now)
        self.now = 1e9
        self.expiring = ""
        self.claims: list[Claim] = []

    async def claim(
        self, worker: str, *, lease: float, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Claim | None:
        if self.claims_of(self.expiring) == 1:
            self.now += LEASE * 2
        claim = await super().claim(
            worker, lease=lease, history=history, history_bytes=history_bytes
        )
        if claim is not None:
            self.claims.append(claim)
        return claim

    def claims_of(self, turn: str) -> int:
        return sum(claim.turn == turn for claim in self.claims)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def claimed_again(engine: ScriptedEngine) -> AsyncIterator[tuple[ChatClient, str]]:
    """Yield a turn of which a second run has begun here, after "one two" of the first."""
    ledger = ExpiringLedger()
    settings = Settings(
        dispatch=DispatchSettings(lease=LEASE), routing=RoutingSettings(default="parrot")
    )
    async with converse(Parrot, engine=engine, ledger=ledger, settings=settings) as chat:
        turn = await chat.send("go")
        await chat.recorder.wait_for(turn, text="one two")
        ledger.expiring = turn
        other = Conversation("default", "test", "other")  # its message starts a worker
        await ChatClient(chat.server, other, "bob").send("wake up")
        await until(lambda: ledger.claims_of(turn) > 1)
        yield chat, turn


def engine_with(*, second: ScriptedReply | str = TEXT) -> ScriptedEngine:
    """Return an engine whose first reply to "go" stops in its middle."""
    replies = [ScriptedReply(text=TEXT, pause_after=2), second]

    def reply(request: GenerationRequest) -> ScriptedReply | str:
        if request.messages[-1].content != "go":
            return "awake"
        found = replies.pop(0)
        if isinstance(found, ScriptedReply) and found.pause_after is not None:
            stored = len(request.partial.split())  # the pause counts new tokens
            return dataclasses.replace(found, pause_after=found.pause_after - stored)
        return found

    return ScriptedEngine(reply)


async def test_the_newer_run_of_a_turn_ends_it_and_the_older_one_ends_without_a_write(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with claimed_again(engine_with()) as (chat, turn):
        reply = await chat.reply(turn)
        assert (reply, reply.outcome) == (TEXT, "done")
        assert len(chat.recorder.events_of(turn, Finished)) == 1
        assert chat.recorder.events_of(turn, Started)[-1].attempt == 2
        dispatcher = chat.server._dispatcher
        await until(lambda: dispatcher.running == 0)
        await chat.server._admission.refresh()
        assert chat.server._admission.unsettled_turns == 0
        assert await chat.say("hello") == "awake"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_the_older_run_leaves_the_engine_at_once() -> None:
    engine = engine_with(second=ScriptedReply(text=TEXT, pause_after=4))
    async with claimed_again(engine) as (chat, turn):
        await chat.recorder.wait_for(turn, text="one two three four")
        await until(lambda: chat.server._dispatcher.running == 1)
        assert (await engine.stats()).running == 1
        engine.resume()


async def test_a_stop_reaches_the_newer_run() -> None:
    engine = engine_with(second=ScriptedReply(text=TEXT, pause_after=4))
    async with claimed_again(engine) as (chat, turn):
        await chat.recorder.wait_for(turn, text="one two three four")
        assert await chat.stop(turn) == "stopping"
        reply = await chat.reply(turn)
        assert (reply, reply.outcome) == ("one two three four", "stopped")


async def test_an_ended_run_does_not_hide_the_newer_one_from_a_drain() -> None:
    engine = engine_with(second=ScriptedReply(text=TEXT, pause_after=4))
    async with claimed_again(engine) as (chat, turn):
        await chat.recorder.wait_for(turn, text="one two three four")
        await until(lambda: chat.server._dispatcher.running == 1)
        await chat.server._dispatcher.drain(0)
        (pending,) = (await chat.server.snapshot(chat.conversation)).pending
        assert (pending.running, pending.reply) == (False, "one two three four")


def test_a_stalled_process_renews_its_leases_before_it_claims() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        ledger = ExpiringLedger()
        settings = Settings(routing=RoutingSettings(default="parrot"))
        async with converse(Parrot, engine=engine_with(), ledger=ledger, settings=settings) as chat:
            turn = await chat.send("go")
            await chat.recorder.wait_for(turn, text="one two")
            loop.stall(10.0)
            ledger.now += 10.0
            dispatcher = chat.server._dispatcher
            await asyncio.gather(*(dispatcher._work(chain=False) for _ in range(3)))
            return ledger.claims_of(turn)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == 1
