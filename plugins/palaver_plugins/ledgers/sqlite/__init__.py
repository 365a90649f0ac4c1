"""The embedded ledger: one SQLite file, served by one process."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pydantic

from palaver import (
    QUEUE_ALL,
    Backend,
    BuildContext,
    Claim,
    ConcurrencyPolicies,
    Conversation,
    DeadLetter,
    Erasure,
    Export,
    Guarantee,
    Ledger,
    LedgerUnavailable,
    LogEntry,
    Message,
    OnChange,
    Page,
    PendingQuestion,
    Progress,
    QueueDepth,
    Receipt,
    Snapshot,
    StopState,
    StoredEvent,
    hookimpl,
)
from palaver_plugins.ledgers.retention import RetentionSettings
from palaver_plugins.ledgers.sqlite import closing, inbox, letters, people, records, turns
from palaver_plugins.ledgers.sqlite.applied import Applied, Idle
from palaver_plugins.ledgers.sqlite.rows import number_from
from palaver_plugins.ledgers.sqlite.writer import Outcome, Writer


class SQLiteLedgerSettings(RetentionSettings):
    path: Path | None = None
    """The file. By default ``ledger.sqlite`` in the server's data directory."""
    events_kept: int = pydantic.Field(default=10_000, ge=1)
    """Events that a conversation keeps for resuming clients once a turn has ended."""


class SQLiteLedger:
    """A `Ledger` in one file.

    A single thread owns the file, so what is submitted from the event loop is applied in that
    order. ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        settings: SQLiteLedgerSettings,
        data: Path,
        *,
        clock: Callable[[], float] = time.time,
        writer: type[Writer] = Writer,
    ) -> None:
        self.path = settings.path or data / "ledger.sqlite"
        self._clock = clock
        self._writer = writer(
            self.path,
            self._deliver,
            clock=clock,
            kept=settings.events_kept,
            retention=settings.retention,
        )
        self._hints: dict[str, list[OnChange]] = {}
        self._work = asyncio.Event()
        self._idle_until = float("inf")

    async def start(self) -> None:
        await self._writer.start()

    async def close(self) -> None:
        await self._writer.close()

    # The walk of a turn

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        return await self._writer.submit(inbox.accept, message, policies)

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109 (the protocol's)
        lapse = max(0.0, self._idle_until - self._clock())
        try:
            async with asyncio.timeout(min(timeout, lapse)):
                await self._work.wait()
        except TimeoutError:
            pass

    async def claim(self, worker: str, *, lease: float, history: int) -> Claim | None:
        claim = await self._writer.submit(turns.claim, lease, history)
        return claim if isinstance(claim, Claim) else None

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        return await self._writer.submit(turns.append, claim, entries, expect, lease)

    async def settle(
        self,
        claim: Claim,
        entries: Sequence[LogEntry],
        *,
        expect: int,
        pending_question: PendingQuestion | None = None,
        taken_steering: Sequence[Message] = (),
        dead_letter_reason: str = "",
    ) -> Progress:
        return await self._writer.submit(
            closing.settle,
            claim,
            entries,
            expect,
            pending_question,
            taken_steering,
            dead_letter_reason,
        )

    async def read_steering(self, claim: Claim) -> tuple[Message, ...]:
        return await self._writer.submit(turns.steers, claim)

    async def release(self, claim: Claim) -> None:
        await self._writer.submit(turns.release, claim)

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        return await self._writer.submit(inbox.stop, str(conversation), turn)

    # Reading

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        return await self._writer.submit(records.read, str(conversation), after, limit)

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        name = str(conversation)
        self._hints.setdefault(name, []).append(on_change)

        def unwatch() -> None:
            hints = self._hints.get(name, [])
            if on_change in hints:
                hints.remove(on_change)
            if not hints:
                self._hints.pop(name, None)

        return unwatch

    async def snapshot(self, conversation: Conversation, history: int) -> Snapshot:
        return await self._writer.submit(records.snapshot, str(conversation), history)

    async def members(self, conversation: Conversation) -> frozenset[str]:
        return await self._writer.submit(records.members, str(conversation))

    async def queue_depth(self) -> QueueDepth:
        return await self._writer.submit(records.depth)

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        return await self._writer.submit(letters.listed, limit)

    async def discard_dead_letter(self, turn: str) -> bool:
        return await self._writer.submit(letters.discard, turn)

    # People

    async def remember(self, tenant: str, person: str, key: str, value: str | None) -> None:
        await self._writer.submit(records.remember, tenant, person, key, value)

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        return await self._writer.submit(records.recall, tenant, person, key)

    async def export(self, tenant: str, person: str) -> Export:
        return await self._writer.submit(people.export, tenant, person)

    async def erase(self, tenant: str, person: str) -> Erasure:
        erasure = await self._writer.submit(people.erase, tenant, person)
        for name, hints in self._hints.items():
            if name.startswith(f"{tenant}/"):
                self._hint_soon(name, hints, ())
        return erasure

    async def guarantee(self) -> Guarantee:
        return Guarantee(
            promises=(
                "What was acknowledged survives a crash of the server and a loss of power.",
                "Turns of a conversation run one at a time, in order.",
                "Turns that were running when the server died go on when it starts again.",
            ),
            limitations=(
                "One server at a time: several replicas need a Redis ledger.",
                "What the disk loses is lost: back up the file.",
            ),
        )

    # In the event loop, after a commit

    def _deliver(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            future, applied = outcome.future, outcome.applied
            if applied is None:
                if not future.done():
                    future.set_exception(outcome.error)
                continue
            self._tell(applied)
            if not future.done():
                future.set_result(applied.value)
            elif isinstance(applied.value, Claim):
                self._give_back(applied.value)

    def _tell(self, applied: Applied[Any]) -> None:
        """Wake who waits for work, and hint at new events."""
        if applied.wake:
            self._work.set()
        elif isinstance(applied.value, Idle):
            self._work.clear()
            self._idle_until = applied.value.until
        if applied.events and (hints := self._hints.get(applied.name)):
            self._hint_soon(applied.name, hints, number_from(applied.offset, applied.events))

    def _hint_soon(self, name: str, hints: list[OnChange], events: tuple[StoredEvent, ...]) -> None:
        loop = asyncio.get_running_loop()
        for hint in hints:  # on its own, so that one that fails disturbs nobody
            loop.call_soon(self._hint, name, hint, events)

    def _hint(self, name: str, hint: OnChange, events: tuple[StoredEvent, ...]) -> None:
        if hint in self._hints.get(name, ()):
            hint(events)

    def _give_back(self, claim: Claim) -> None:
        """Release a claim whose claimer was cancelled before it heard of it."""
        with contextlib.suppress(LedgerUnavailable):
            self._writer.submit(turns.release, claim)


def _build(settings: SQLiteLedgerSettings, build_context: BuildContext) -> Ledger:
    return SQLiteLedger(settings, build_context.data_directory)


@hookimpl
def palaver_register_ledgers() -> list[Backend[Ledger]]:
    return [Backend(name="sqlite", settings=SQLiteLedgerSettings, build=_build)]
