"""A turn that needs an approval is taken over at any point: the call runs once at most."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from tests.server.turns.test_approvals import Bank, Payer
from tests.server.turns.test_takeover import CONVERSATION, die, replica

from palaver import Claim, LogEntry, OutcomeUnknown, Skill, ToolContext, Turn, tool
from palaver.ledger import Progress
from palaver.testing import ChatClient, MemoryLedger, ScriptedEngine
from palaver.turns.approvals import OVER

pytestmark = pytest.mark.slow

Lost = Literal["write", "reply"]


class FailingLedger(MemoryLedger):
    """Ledger that the writer of a turn loses at one of its writes: before the write is stored, or
    before its reply has come back. Later ones of other replicas work."""

    def __init__(self) -> None:
        super().__init__()
        self.fails_at = 0
        """Number of the next write that fails, from 1; 0: none."""
        self.lost: Lost = "write"
        self.failed = asyncio.Event()
        self.writes = 0

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        if not await self._fails():
            return await super().append(claim, entries, expect=expect, lease=lease)
        if self.lost == "reply":
            await super().append(claim, entries, expect=expect, lease=lease)
        return await self._hang()

    async def settle(self, claim: Claim, entries: Sequence[LogEntry], **more: object) -> Progress:
        if not await self._fails():
            return await super().settle(claim, entries, **more)  # type: ignore[arg-type]
        if self.lost == "reply":
            await super().settle(claim, entries, **more)  # type: ignore[arg-type]
        return await self._hang()

    async def _fails(self) -> bool:
        self.writes += 1
        return self.writes == self.fails_at

    async def _hang(self) -> Progress:
        self.failed.set()
        await asyncio.Event().wait()
        raise AssertionError


class Cautious(Payer):
    """Pay, and say what is not known."""

    async def answer(self, turn: Turn) -> None:
        try:
            await super().answer(turn)
        except OutcomeUnknown:
            await turn.say("perhaps paid")


async def talk(ledger: MemoryLedger, bank: Any, skill: type[Skill] = Cautious) -> ChatClient:
    server = replica(ledger, ScriptedEngine(), skill, tools=(bank.pay,))
    await server.__aenter__()
    chat = ChatClient(server, CONVERSATION, "alice")
    await server.subscribe(CONVERSATION, chat.recorder)
    return chat


async def crash(chat: ChatClient) -> None:
    await die(chat.server)
    await chat.server.__aexit__(None, None, None)


@pytest.mark.parametrize("lost", ["write", "reply"])
@pytest.mark.parametrize("number", [1, 2])
async def test_an_approved_call_runs_once_at_most(number: int, lost: Lost) -> None:
    """The turn that asks, and the one that is approved, lose their ledger at each write."""
    ledger, bank = FailingLedger(), Bank()
    chat = await talk(ledger, bank)
    asked = await chat.say("Bob")
    assert asked.question is not None
    assert asked.question.approval
    ledger.writes, ledger.fails_at, ledger.lost = 0, number, lost
    turn = await chat.send("Approve", answers=asked.question.approval.id)
    finished = asyncio.create_task(chat.recorder.wait_for(turn))
    failed = asyncio.create_task(ledger.failed.wait())
    async with asyncio.timeout(5):
        await asyncio.wait({finished, failed}, return_when=asyncio.FIRST_COMPLETED)
    for task in (finished, failed):
        task.cancel()
    assert ledger.failed.is_set(), f"the turn has fewer than {number} writes"
    await crash(chat)
    ledger.fails_at = 0
    heir = await talk(ledger, bank)
    heir.recorder.texts.update(chat.recorder.texts)
    heir.recorder.events.update(chat.recorder.events)
    await heir.recorder.wait_for(turn)
    text = heir.recorder.texts[turn]
    assert text in ("paid 5 to Bob", "perhaps paid")
    assert len(bank.paid) <= 1
    assert bank.paid or text == "perhaps paid"
    assert await heir.say("Approve", answers=asked.question.approval.id) == OVER
    assert len(bank.paid) <= 1
    await heir.server.__aexit__(None, None, None)


@pytest.mark.parametrize("lost", ["write", "reply"])
async def test_a_turn_that_dies_while_it_asks_can_be_approved(lost: Lost) -> None:
    ledger, bank = FailingLedger(), Bank()
    ledger.fails_at, ledger.lost = 1, lost
    chat = await talk(ledger, bank)
    turn = await chat.send("Bob")
    async with asyncio.timeout(5):
        await ledger.failed.wait()
    await crash(chat)
    heir = await talk(ledger, bank)
    if lost == "write":
        await heir.recorder.wait_for(turn)
    question = (await heir.server.snapshot(CONVERSATION)).history[-1].question
    assert question
    assert question.approval
    assert await heir.say("Approve", answers=question.approval.id) == "paid 5 to Bob"
    assert bank.paid == [("Bob", 5)]
    await heir.server.__aexit__(None, None, None)


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_server_dies_while_the_approved_tool_runs(idempotent: bool) -> None:
    """Only an idempotent tool runs again, and the person is not asked again."""
    runs: list[str] = []
    began = asyncio.Event()

    @tool(name="pay", needs_approval=True, idempotent=idempotent)
    async def pay(to: str, context: ToolContext) -> str:
        """Pay money."""
        runs.append(context.call)
        began.set()
        if len(runs) == 1:
            await asyncio.Event().wait()
        return f"paid {to}"

    ledger, bank = MemoryLedger(), SimpleNamespace(pay=pay)
    chat = await talk(ledger, bank)
    asked = await chat.say("Bob")
    assert asked.question is not None
    assert asked.question.approval
    turn = await chat.send("Approve", answers=asked.question.approval.id)
    async with asyncio.timeout(5):
        await began.wait()
    await crash(chat)
    heir = await talk(ledger, bank)
    heir.recorder.texts.update(chat.recorder.texts)
    await heir.recorder.wait_for(turn)
    assert heir.recorder.texts[turn] == ("paid Bob" if idempotent else "perhaps paid")
    assert runs == [runs[0]] * (2 if idempotent else 1)
    await heir.server.__aexit__(None, None, None)
