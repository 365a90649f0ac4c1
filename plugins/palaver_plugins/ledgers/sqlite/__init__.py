"""Embedded ledger: one SQLite file, used by one process."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from palaver import (
    HISTORY_BYTES,
    NO_PARTS,
    QUEUE_ALL,
    Backend,
    BuildContext,
    Claim,
    ConcurrencyPolicies,
    Conversation,
    ConversationChange,
    ConversationFilter,
    ConversationList,
    ConversationSummary,
    DeadLetter,
    Erasure,
    Export,
    Feedback,
    FeedbackFilter,
    FeedbackReceipt,
    Guarantee,
    HistoryPage,
    Ledger,
    LedgerUnavailable,
    LogEntry,
    Message,
    OnChange,
    Page,
    PendingQuestion,
    Progress,
    QueueDepth,
    RatedReply,
    Receipt,
    Record,
    ReplyParts,
    Share,
    Snapshot,
    SteadyClock,
    StopState,
    StorageUsage,
    UnsettledCount,
    hookimpl,
)
from palaver_plugins.ledgers.retention import RetentionSettings
from palaver_plugins.ledgers.sqlite import (
    branches,
    conversation_list,
    dead_letters,
    history,
    inbox,
    queries,
    records,
    revisions,
    settling,
    turns,
    waiting,
)
from palaver_plugins.ledgers.sqlite.database_thread import DatabaseThread, JobResult
from palaver_plugins.ledgers.sqlite.erasures import Erasures
from palaver_plugins.ledgers.sqlite.export import export_parts
from palaver_plugins.ledgers.sqlite.feedback import (
    give_feedback,
    rated_replies,
    read_feedback,
    withdraw_feedback,
)
from palaver_plugins.ledgers.sqlite.inspection import inspect_file
from palaver_plugins.ledgers.sqlite.personal_data import ErasureKey
from palaver_plugins.ledgers.sqlite.results import NothingDue, OperationResult
from palaver_plugins.ledgers.sqlite.room import RoomLimits
from palaver_plugins.ledgers.sqlite.rows import stored_events
from palaver_plugins.ledgers.watchers import Watchers

T = TypeVar("T")


class SQLiteLedgerSettings(RetentionSettings):
    path: Path | None = None
    """Path of the file. By default ``ledger.sqlite`` in the server's data directory."""
    events_kept: int = pydantic.Field(default=10_000, ge=1)
    """Events that a conversation keeps for reconnecting clients when a turn is settled."""
    max_bytes: int | None = pydantic.Field(default=None, ge=1_000_000)
    """Largest size of the file, in bytes. At nine tenths no messages are accepted; running turns
    and erasures may use the rest."""
    min_free_bytes: int = pydantic.Field(default=67_108_864, ge=0)
    """Bytes that stay free on the file's disk: with less, no messages are accepted; running turns
    and erasures may use them."""


class SQLiteLedger:
    """`Ledger` in one file.

    A single thread owns the file and applies operations in the order in which they are submitted.
    ``clock`` returns seconds since the epoch, see `SteadyClock`.
    """

    def __init__(
        self,
        settings: SQLiteLedgerSettings,
        data: Path,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] | None = None,
        thread: type[DatabaseThread] = DatabaseThread,
    ) -> None:
        self.path = settings.path or data / "ledger.sqlite"
        self._data = data
        self._clock = SteadyClock(clock, monotonic)
        self._clock_problem = ""
        self._thread = thread(
            self.path,
            self._deliver,
            clock=self._clock,
            events_kept=settings.events_kept,
            retention=settings.retention_seconds,
            room=RoomLimits(settings.max_bytes, settings.min_free_bytes),
        )
        self._erasures = Erasures(self._thread)
        self._watchers = Watchers[str]()
        self._work = asyncio.Event()
        self._due_at = float("inf")

    async def start(self) -> None:
        await self._thread.start()
        await self._erasures.resume()

    async def close(self) -> None:
        await self._erasures.close()
        await self._thread.close()

    async def inspect(self) -> None:
        self._clock_problem = await asyncio.to_thread(
            inspect_file, self.path, self._data, self._clock
        )

    # Turns

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        return await self._thread.submit(inbox.accept, message, policies)

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109 (the protocol's)
        until_due = max(0.0, self._due_at - self._clock())
        try:
            async with asyncio.timeout(min(timeout, until_due)):
                await self._work.wait()
        except TimeoutError:
            pass

    async def claim(
        self, worker: str, *, lease: float, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Claim | None:
        claim = await self._thread.submit(turns.claim, lease, history, history_bytes)
        return claim if isinstance(claim, Claim) else None

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        return await self._thread.submit(turns.append, claim, entries, expect, lease)

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
        return await self._thread.submit(
            settling.settle,
            claim,
            entries,
            expect,
            pending_question,
            taken_steering,
            dead_letter_reason,
            parts,
        )

    async def read_steering(self, claim: Claim) -> tuple[Message, ...]:
        return await self._thread.submit(turns.read_steering, claim)

    async def release(self, claim: Claim) -> None:
        await self._thread.submit(turns.release, claim)

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        return await self._thread.submit(inbox.stop, str(conversation), turn)

    async def change_waiting(
        self,
        conversation: Conversation,
        message: str,
        text: str | None,
        policies: ConcurrencyPolicies = QUEUE_ALL,
    ) -> bool:
        arguments = conversation, message, text, policies
        is_changed = await self._thread.submit(waiting.change_waiting, *arguments)
        if is_changed:
            self._watchers.notify(str(conversation), ())
        return is_changed

    async def select(self, conversation: Conversation, turn: str) -> None:
        if await self._thread.submit(branches.select, conversation, turn):
            self._watchers.notify(str(conversation), ())

    async def revise(
        self,
        conversation: Conversation,
        person: str,
        turn: str,
        text: str,
        policies: ConcurrencyPolicies = QUEUE_ALL,
    ) -> None:
        arguments = conversation, person, turn, text, policies
        if await self._thread.submit(revisions.revise, *arguments):
            self._watchers.notify(str(conversation), ())

    # Reading

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        return await self._thread.submit(queries.read, str(conversation), after, limit)

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        return self._watchers.add(str(conversation), on_change)

    async def snapshot(
        self, conversation: Conversation, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Snapshot:
        name = str(conversation)
        return await self._thread.submit(queries.snapshot, name, history, history_bytes)

    async def history(
        self,
        conversation: Conversation,
        before: str,
        limit: int,
        history_bytes: int = HISTORY_BYTES,
    ) -> HistoryPage:
        name = str(conversation)
        return await self._thread.submit(history.read_page, name, before, limit, history_bytes)

    async def members(self, conversation: Conversation) -> frozenset[str]:
        return await self._thread.submit(queries.members, str(conversation))

    async def storage_usage(self, tenant: str, person: str = "") -> StorageUsage:
        return await self._thread.submit(queries.storage_usage, tenant, person)

    async def queue_depth(self) -> QueueDepth:
        return await self._thread.submit(queries.queue_depth)

    async def count_unsettled(self) -> tuple[UnsettledCount, ...]:
        return await self._thread.submit(queries.count_unsettled)

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        return await self._thread.submit(dead_letters.list_newest, limit)

    async def discard_dead_letter(self, turn: str) -> bool:
        return await self._thread.submit(dead_letters.discard, turn)

    # Lists and shares

    async def list_conversations(
        self, tenant: str, person: str, filter: ConversationFilter, *, before: str = "", limit: int
    ) -> ConversationList:
        return await self._thread.submit(
            conversation_list.list_conversations, tenant, person, filter, before, limit
        )

    async def change_conversation(
        self, conversation: Conversation, person: str, change: ConversationChange
    ) -> ConversationSummary:
        return await self._thread.submit(
            conversation_list.change_conversation, conversation, person, change
        )

    async def share(
        self, conversation: Conversation, person: str, share: Share, content: bytes, *, epoch: str
    ) -> None:
        await self._thread.submit(
            conversation_list.share, conversation, person, share, content, epoch
        )

    async def shares(self, conversation: Conversation) -> tuple[Share, ...]:
        return await self._thread.submit(conversation_list.shares, str(conversation))

    async def shared_content(self, share: str) -> bytes | None:
        return await self._thread.submit(conversation_list.shared_content, share)

    async def revoke_share(self, conversation: Conversation, share: str) -> bool:
        return await self._thread.submit(conversation_list.revoke_share, str(conversation), share)

    # Records of channels

    async def read_record(self, channel: str, key: str) -> Record | None:
        return await self._thread.submit(records.read, channel, key)

    async def write_record(
        self, channel: str, key: str, value: bytes, *, expect: int, due_in: float | None = None
    ) -> Record:
        return await self._thread.submit(records.write, channel, key, value, expect, due_in)

    async def claim_record(self, channel: str, lease: float) -> Record | None:
        return await self._thread.submit(records.claim, channel, lease)

    async def delete_record(self, channel: str, key: str, *, expect: int) -> None:
        await self._thread.submit(records.delete, channel, key, expect)

    async def list_records(
        self, channel: str, prefix: str = "", *, after: str = ""
    ) -> tuple[Record, ...]:
        return await self._thread.submit(records.list_records, channel, prefix, after)

    # Feedback

    async def give_feedback(
        self, conversation: Conversation, person: str, feedback: Feedback
    ) -> FeedbackReceipt:
        return await self._thread.submit(give_feedback, conversation, person, feedback)

    async def withdraw_feedback(self, conversation: Conversation, person: str, turn: str) -> bool:
        return await self._thread.submit(withdraw_feedback, str(conversation), person, turn)

    async def feedback(self, conversation: Conversation, person: str) -> tuple[Feedback, ...]:
        return await self._thread.submit(read_feedback, str(conversation), person)

    def rated_replies(
        self, tenant: str, filter: FeedbackFilter, *, history_bytes: int = HISTORY_BYTES
    ) -> AsyncGenerator[RatedReply, None]:
        return self._read_aside(rated_replies(self.path, tenant, filter, history_bytes))

    # People

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        return await self._thread.submit(queries.recall, tenant, person, key)

    async def count_memories(self, tenant: str, person: str) -> int:
        return await self._thread.submit(queries.count_memories, tenant, person)

    def export(self, tenant: str, person: str) -> AsyncGenerator[Export, None]:
        return self._read_aside(export_parts(self.path, tenant, person, self._clock))

    async def _read_aside(self, parts: Generator[T, None, None]) -> AsyncGenerator[T, None]:
        """Yield what ``parts`` reads on a connection and a thread of its own."""
        await self._thread.submit(queries.queue_depth)  # it fails when the ledger is not open
        loop = asyncio.get_running_loop()
        reader = ThreadPoolExecutor(1, thread_name_prefix="palaver-export")
        try:
            while (part := await loop.run_in_executor(reader, next, parts, None)) is not None:
                yield part
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"the ledger {str(self.path)!r}: {error}") from error
        finally:
            reader.submit(parts.close)  # after the step that may still run
            reader.shutdown(wait=False)

    async def erase(
        self, tenant: str, person: str, conversation: Conversation | None = None
    ) -> Erasure:
        name = str(conversation) if conversation else ""
        erasure = await self._erasures.run(ErasureKey(tenant, person, name))
        for name in self._watchers:
            if name.startswith(f"{tenant}/"):
                self._watchers.notify(name, ())
        return erasure

    async def guarantee(self) -> Guarantee:
        return Guarantee(
            promises=(
                "What was acknowledged survives a crash of the server and a loss of power.",
                "Turns of a conversation run one at a time, in order.",
                "Turns that were running when the server died continue when it starts again.",
            ),
            limitations=(
                "One server at a time: several replicas need a Redis ledger.",
                "A loss of the disk loses the data: back up the file.",
                *filter(None, [self._clock_problem or self._thread.clock_problem()]),
            ),
        )

    # In the event loop, after a commit

    def _deliver(self, jobs: list[JobResult]) -> None:
        for future, result, error in jobs:
            if result is None:
                if error is not None and not future.done():
                    future.set_exception(error)
                continue
            self._notify(result)
            if not future.done():
                future.set_result(result.value)
            elif isinstance(result.value, Claim):
                self._release_unclaimed(result.value)

    def _notify(self, result: OperationResult[Any]) -> None:
        """Wake `wait_for_work` and the watchers."""
        if result.wake:
            self._work.set()
        elif isinstance(result.value, NothingDue):
            self._work.clear()
            self._due_at = result.value.until
        if result.events and result.conversation in self._watchers:
            stored = stored_events(result.offset, result.events)
            self._watchers.notify(result.conversation, stored)

    def _release_unclaimed(self, claim: Claim) -> None:
        """Release a claim whose caller was cancelled in the meantime."""
        with contextlib.suppress(LedgerUnavailable):
            self._thread.submit(turns.release, claim)


def _build(settings: SQLiteLedgerSettings, build_context: BuildContext) -> Ledger:
    return SQLiteLedger(settings, build_context.data_directory)


@hookimpl
def palaver_register_ledgers() -> list[Backend[Ledger]]:
    return [Backend(name="sqlite", settings=SQLiteLedgerSettings, build=_build)]
