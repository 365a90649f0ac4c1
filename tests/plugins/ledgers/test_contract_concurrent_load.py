"""Contract: under concurrent load, any policy and lost claims, every message is recorded once,
answered in one turn, and in the history once."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.chaos.history import HistoryChecker
from tests.proof_settings import SEED, short_or_long

from palaver.errors import Fenced, TooMany
from palaver.ledger import (
    Claim,
    ConcurrencyPolicies,
    ConcurrencyPolicy,
    Ledger,
    LogEntry,
    PendingQuestion,
    Progress,
)
from palaver.messages import NO_PARTS, Conversation, Finished, Message, Outcome, ReplyParts, Text
from palaver.testing import MemoryLedger

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest, SubjectFactory

pytestmark = pytest.mark.slow

POLICIES: list[ConcurrencyPolicy] = ["queue", "merge", "interrupt", "steer"]
WINDOW = 0.02
LEASE = 0.2


class ConcurrentLoad:
    """Clients that send, and workers that answer, release, take steering, obey stops and fail."""

    def __init__(self, subject: "LedgerUnderTest", messages: int) -> None:
        self.subject = subject
        self.checker = HistoryChecker()
        self.random = random.Random(SEED)
        self.left = messages
        self.sending = 0
        self.accepted: list[Message] = []
        self.taken: Counter[str] = Counter()
        """Messages that settled turns took, by id."""
        self.lost_claims = self.joined = 0

    async def run(self) -> None:
        async with asyncio.timeout(short_or_long(60, 600)), asyncio.TaskGroup() as group:
            for person in range(6):
                group.create_task(self.send(f"person{person}"))
            for _ in range(4):
                group.create_task(self.work())
            group.create_task(self.advance_time())

    async def is_over(self) -> bool:
        depth = await self.subject.ledger.queue_depth()
        return not (self.left or self.sending or depth.queued or depth.running)

    async def advance_time(self) -> None:
        """Move the clock, if it is the test's."""
        while not await self.is_over():
            await self.subject.advance_clock(0.01)
            await asyncio.sleep(0.001)

    async def send(self, person: str) -> None:
        while self.left > 0:
            self.left -= 1
            self.sending += 1
            message = Message(
                conversation=Conversation("acme", "web", f"t{self.random.randrange(3)}"),
                id=f"{person}-{self.left}",
                person=person,
                text=f"{self.left}",
            )
            await self.send_until_accepted(message)
            self.accepted.append(message)
            self.sending -= 1

    async def send_until_accepted(self, message: Message) -> None:
        """Send a message until it is accepted, and sometimes once more."""
        policies = ConcurrencyPolicies(default=self.random.choice(POLICIES), merge_window=WINDOW)
        for _ in range(self.random.choice([1, 1, 2])):
            while True:
                try:
                    receipt = await self.subject.ledger.accept(message, policies)
                    break
                except TooMany:
                    await asyncio.sleep(0.002)
            self.joined += receipt.joined
            if not receipt.duplicate:
                self.checker.record_accepted(message, receipt.turn)

    async def work(self) -> None:
        ledger = self.subject.ledger
        while not await self.is_over():
            claim = await ledger.claim("worker", lease=LEASE, history=0)
            if claim is None:
                await asyncio.sleep(0.002)
                continue
            try:
                await self.answer(ledger, claim)
            except Fenced:
                self.lost_claims += 1

    async def answer(self, ledger: Ledger, claim: Claim) -> None:
        index, said, stop = claim.index, len(claim.reply), claim.stop_requested
        for word in ("one ", "two ", "three"):
            draw = self.random.random()
            if draw < 0.05:
                self.lost_claims += 1
                return
            if draw < 0.1:
                await ledger.release(claim)
                return
            if not stop:
                text = Text(turn=claim.turn, position=said, text=word)
                progress = await ledger.append(claim, [text], expect=index, lease=LEASE)
                index, said, stop = progress.index, said + len(word), progress.stop_requested
            await asyncio.sleep(0)
        await self.end(ledger, claim, index, said, "stopped" if stop else "done")

    async def end(
        self, ledger: Ledger, claim: Claim, index: int, said: int, outcome: Outcome
    ) -> None:
        """Settle with some of the steering messages, and sometimes once more."""
        steering = await ledger.read_steering(claim)
        taken_steering = steering[: self.random.randint(0, len(steering))]
        finished = Finished(turn=claim.turn, outcome=outcome, length=said)
        for _ in range(self.random.choice([1, 1, 2])):
            await ledger.settle(claim, [finished], expect=index, taken_steering=taken_steering)
        self.record(claim, taken_steering)

    def record(self, claim: Claim, taken_steering: Sequence[Message]) -> None:
        self.taken.update(message.id for message in (*claim.messages, *taken_steering))


async def user_texts(subject: "LedgerUnderTest") -> Counter[str]:
    """Return the texts of all messages in a history."""
    found: Counter[str] = Counter()
    for thread in range(3):
        where = Conversation("acme", "web", f"t{thread}")
        lines = (await subject.ledger.snapshot(where, 99_999)).history
        found.update(line.text for line in lines if line.role == "user")
    return found


async def test_no_message_is_lost_or_doubled_under_any_policy(subject: "LedgerUnderTest") -> None:
    await subject.reopen(events_kept=1_000_000)
    load = ConcurrentLoad(subject, short_or_long(300, 5_000))
    await load.run()
    findings = await load.checker.check(subject.ledger)
    assert findings.is_clean, (SEED, findings)
    assert await user_texts(subject) == Counter(message.text for message in load.accepted)
    assert load.taken == Counter(message.id for message in load.accepted)
    assert load.lost_claims > 0
    assert load.joined > 10


class TakesAllSteering(MemoryLedger):
    """Mutant: a settled turn takes all its steering messages."""

    async def settle(
        self,
        claim: Claim,
        entries: Sequence[LogEntry],
        *,
        expect: int,
        pending_question: PendingQuestion | None = None,
        taken_steering: Sequence[Message] = (),
        dead_letter_reason: str = "",
        parts: ReplyParts = NO_PARTS,
    ) -> Progress:
        with contextlib.suppress(Fenced):
            taken_steering = await self.read_steering(claim)
        return await super().settle(
            claim,
            entries,
            expect=expect,
            pending_question=pending_question,
            taken_steering=taken_steering,
            dead_letter_reason=dead_letter_reason,
            parts=parts,
        )


async def test_a_ledger_that_takes_all_steering_is_detected(
    subject_factories: "dict[str, SubjectFactory]", tmp_path: Path
) -> None:
    async with subject_factories["memory"](tmp_path) as subject:
        subject.ledger = TakesAllSteering(clock=subject.require_clock())
        load = ConcurrentLoad(subject, 300)
        await load.run()
    assert load.taken != Counter(message.id for message in load.accepted)
