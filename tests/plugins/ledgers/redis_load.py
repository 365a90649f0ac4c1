"""Load generator for a Redis ledger during faults, with a history checker."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from tests.chaos.findings import Findings
from tests.chaos.history import HistoryChecker

from palaver.errors import Fenced, LedgerUnavailable, TooMany
from palaver.ledger import Claim, LogEntry
from palaver.messages import Conversation, Finished, Message, Started, Text, new_id
from palaver_plugins.ledgers.redis import RedisLedger

T = TypeVar("T")

RETRY_SECONDS = 0.02
"""Seconds between two attempts while the ledger is unavailable; clients wait longer."""
LEASE = 3.0


def reply_to(message: Message) -> str:
    return " ".join(f"{message.text}:{word}" for word in range(8))


class LoadGenerator:
    """Clients that repeat each message until it is acknowledged, and workers that repeat each
    write until it is stored."""

    def __init__(self, ledger: RedisLedger) -> None:
        self.checker = HistoryChecker(reply_to)
        self.accepted = 0
        self.settled = 0
        self.refused = 0
        """Calls that failed with `LedgerUnavailable`."""
        self._ledger = ledger
        self._changed = asyncio.Condition()
        self._sending = True

    @contextlib.asynccontextmanager
    async def running(self, *, people: int = 4, workers: int = 4) -> AsyncIterator["LoadGenerator"]:
        """Generate load; at the end stop sending, and wait for every turn."""
        async with asyncio.TaskGroup() as group:
            senders = [group.create_task(self._send(f"t{person}")) for person in range(people)]
            tasks = [group.create_task(self._work()) for _ in range(workers)]
            yield self
            self._sending = False
            await asyncio.gather(*senders)
            await self._end()
            for task in tasks:
                task.cancel()

    async def _end(self) -> None:
        try:
            await self.wait_for(lambda: self.settled >= self.checker.turn_count)
        except TimeoutError:
            depth = await self._ledger.queue_depth()
            findings = await self.findings()
            raise AssertionError(
                f"{self.settled} of {self.checker.turn_count} turns were settled: "
                f"{depth}, {findings}"
            ) from None

    async def wait_for(self, holds: Callable[[], bool], *, within: float = 30.0) -> None:
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(holds)

    async def wait_for_settled(self, turns: int) -> None:
        """Wait until that many more turns are settled."""
        wanted = self.settled + turns
        await self.wait_for(lambda: self.settled >= wanted)

    async def wait_for_refusal(self) -> None:
        """Wait until another call fails with `LedgerUnavailable`."""
        before = self.refused
        await self.wait_for(lambda: self.refused > before)

    async def findings(self) -> Findings:
        return await self.checker.check(self._ledger)

    async def _send(self, thread: str) -> None:
        number = 0
        while self._sending:
            number += 1
            message = Message(
                conversation=Conversation("acme", "web", thread),
                id=new_id(),
                person="ada",
                text=f"{thread}-{number}",
            )
            receipt = await self._retry(functools.partial(self._ledger.accept, message))
            self.checker.record_accepted(message, receipt.turn)
            await self._record(accepted=1)

    async def _work(self) -> None:
        while True:
            claim = await self._retry(lambda: self._ledger.claim("worker", lease=LEASE, history=0))
            if claim is None:
                await self._retry(lambda: self._ledger.wait_for_work(1.0))
                continue
            with contextlib.suppress(Fenced):
                await self._answer(claim)

    async def _answer(self, claim: Claim) -> None:
        """Continue the reply from its stored part."""
        reply, position, index = reply_to(claim.message), len(claim.reply), claim.index
        entries: list[LogEntry] = [
            Started(turn=claim.turn, attempt=claim.attempt, position=position)
        ]
        for end in (*range(position + 9, len(reply), 9), len(reply)):
            entries.append(Text(turn=claim.turn, position=position, text=reply[position:end]))
            position = end
            index = await self._write(claim, entries, index)
            entries = []
        entries = [Finished(turn=claim.turn, outcome="done", length=len(reply))]
        await self._retry(lambda: self._ledger.settle(claim, entries, expect=index))
        await self._record(settled=1)

    async def _write(self, claim: Claim, entries: list[LogEntry], index: int) -> int:
        progress = await self._retry(
            lambda: self._ledger.append(claim, entries, expect=index, lease=LEASE)
        )
        return progress.index

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except TooMany:
                await asyncio.sleep(RETRY_SECONDS)
            except LedgerUnavailable:
                await self._record(refused=1)
                await asyncio.sleep(RETRY_SECONDS)

    async def _record(self, *, accepted: int = 0, settled: int = 0, refused: int = 0) -> None:
        async with self._changed:
            self.accepted += accepted
            self.settled += settled
            self.refused += refused
            self._changed.notify_all()
