"""A server claims a turn that it runs already, because its lease has expired, in every ledger."""

import asyncio
from typing import TYPE_CHECKING, Any

from tests.server.skills_under_test import Parrot

from palaver.config.settings import DispatchSettings, RoutingSettings, Settings
from palaver.engine import GenerationRequest
from palaver.ledger import Claim
from palaver.messages import Conversation, Finished
from palaver.testing import ChatClient, ScriptedEngine, ScriptedReply, converse

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

TEXT = "one two three four five six"
LEASE = 60.0
SETTINGS = Settings(
    dispatch=DispatchSettings(lease=LEASE), routing=RoutingSettings(default="parrot")
)


class Expiring:
    """A started ledger. The first claim while there is a turn ``expiring`` comes after its
    lease."""

    def __init__(self, subject: "LedgerUnderTest") -> None:
        self._subject = subject
        self.expiring = ""
        self.claims: list[Claim] = []
        self._is_expired = False

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def claim(self, worker: str, *, lease: float, history: int, **more: Any) -> Claim | None:
        if self.expiring and not self._is_expired:
            self._is_expired = True
            await self._subject.advance_clock(LEASE * 2)
        claim = await self._subject.ledger.claim(worker, lease=lease, history=history, **more)
        self.claims += [claim] if claim is not None else []
        return claim

    def claims_of(self, turn: str) -> int:
        return sum(claim.turn == turn for claim in self.claims)

    def __getattr__(self, name: str) -> Any:  # Any: the other methods of the ledger
        return getattr(self._subject.ledger, name)


async def test_the_newer_run_ends_the_turn_and_the_older_one_writes_nothing(
    subject: "LedgerUnderTest",
) -> None:
    subject.require_clock()
    replies: list[ScriptedReply | str] = [ScriptedReply(text=TEXT, pause_after=2), TEXT]

    def reply(request: GenerationRequest) -> ScriptedReply | str:
        return replies.pop(0) if request.messages[-1].content == "go" else "awake"

    ledger: Any = Expiring(subject)
    engine = ScriptedEngine(reply)
    async with converse(Parrot, engine=engine, ledger=ledger, settings=SETTINGS) as chat:
        turn = await chat.send("go")
        await chat.recorder.wait_for(turn, text="one two")
        ledger.expiring = turn
        other = ChatClient(chat.server, Conversation("default", "test", "other"), "bob")
        await other.send("start a worker")
        said = await chat.reply(turn)
        assert (said, said.outcome) == (TEXT, "done")
        assert len(chat.recorder.events_of(turn, Finished)) == 1
        assert ledger.claims_of(turn) == 2
        async with asyncio.timeout(5):
            while chat.server._dispatcher.running:  # noqa: ASYNC110  it sets no event
                await asyncio.sleep(0.01)
        assert (await engine.stats()).running == 0
        assert await chat.say("hello") == "awake"
