"""HistoryChecker with branches: what the ledger shows is what the acknowledged steps say."""

from collections.abc import Awaitable, Callable

import pytest
from tests.chaos.history import HistoryChecker

from palaver.ledger import Claim
from palaver.messages import Conversation, Finished, Message, Text, new_id
from palaver.testing import MemoryLedger

CONVERSATION = Conversation("default", "web", "branching")


async def answer(ledger: MemoryLedger, reply: str) -> Claim:
    claim = await ledger.claim("worker", lease=30, history=10)
    assert claim is not None
    entries = (
        Text(turn=claim.turn, position=0, text=reply),
        Finished(turn=claim.turn, outcome="done", length=len(reply)),
    )
    await ledger.settle(claim, entries, expect=0)
    return claim


class Rig:
    """Ledger with a conversation of three turns, one of which is edited, and its checker."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.checker = HistoryChecker(lambda message: f"re {message.text}")
        self.branches = self.checker.branches_of(CONVERSATION)

    async def say(self, text: str, after: str | None = None) -> str:
        message = Message(
            conversation=CONVERSATION, id=new_id(), person="ada", text=text, after=after
        )
        receipt = await self.ledger.accept(message)
        self.checker.record_accepted(message, receipt.turn)
        self.branches.add(receipt.turn, after)
        await answer(self.ledger, f"re {text}")
        return receipt.turn

    async def prepare(self) -> None:
        a = await self.say("a")
        await self.say("b")
        await self.say("B", after=a)


async def accept_unknown(rig: Rig) -> None:
    """A message was stored twice."""
    message = Message(conversation=CONVERSATION, id=new_id(), person="ada", text="B")
    rig.checker.record_accepted(message, (await rig.ledger.accept(message)).turn)
    await answer(rig.ledger, "re B")


async def lose_a_selection(rig: Rig) -> None:
    rig.branches.select(rig.branches.lines[0][0])


async def move_an_edit(rig: Rig) -> None:
    rig.branches.parents[rig.branches.path[-1]] = ""


async def answer_wrongly(rig: Rig) -> None:
    message = Message(conversation=CONVERSATION, id=new_id(), person="ada", text="c")
    turn = (await rig.ledger.accept(message)).turn
    rig.checker.record_accepted(message, turn)
    rig.branches.add(turn, None)
    await answer(rig.ledger, "re b")


async def test_branches_as_acknowledged_are_clean() -> None:
    rig = Rig()
    await rig.prepare()
    await rig.ledger.select(CONVERSATION, rig.branches.lines[0][0])
    rig.branches.select(rig.branches.lines[0][0])
    await rig.say("c")
    assert (await rig.checker.check(rig.ledger)).is_clean


@pytest.mark.parametrize(
    ("violate", "kind"),
    [
        (accept_unknown, "duplicated"),
        (lose_a_selection, "reordered"),
        (move_an_edit, "wrong"),
        (answer_wrongly, "wrong"),
    ],
)
async def test_violations_are_found(violate: Callable[[Rig], Awaitable[None]], kind: str) -> None:
    rig = Rig()
    await rig.prepare()
    await violate(rig)
    findings = await rig.checker.check(rig.ledger)
    assert getattr(findings, kind) > 0, findings
