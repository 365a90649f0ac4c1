"""The thread that owns the database connection, and its group commit.

Operations that are pending together run in one transaction, so that they share one fsync. One that
is refused before it writes is left out of it; when one fails otherwise, the transaction is undone
and each of its operations gets its own. Nobody hears of a result before it is committed.
"""

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from palaver import LedgerUnavailable, PalaverError
from palaver_plugins.ledgers.sqlite.expiry import MAX_ROWS, delete_expired
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import HOUR, Database
from palaver_plugins.ledgers.sqlite.schema import Lock, check_directory, mark_closed, open_file

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")
MAX_BATCH = 256
"""Operations that share a transaction at most: bounds how long the first one waits."""


class Job(NamedTuple):
    future: asyncio.Future[Any]  # Any: of the operation's result; `Writer.submit` ties them
    operation: Callable[..., OperationResult[Any]]
    arguments: tuple[Any, ...]


class JobResult(NamedTuple):
    """``applied``, or the ``error`` for which it was not."""

    future: asyncio.Future[Any]
    applied: OperationResult[Any] | None
    error: Exception


_NO_ERROR = Exception()


class _PartialWrite(Exception):
    """An operation failed after it had written."""


class DatabaseThread:
    """Runs operations on the file at ``path``, in order, each durable when its future is done.

    ``deliver`` is called in the event loop with the outcomes of a committed batch, in order.
    """

    def __init__(
        self,
        path: Path,
        deliver: Callable[[list[JobResult]], None],
        *,
        clock: Callable[[], float],
        events_kept: int,
        retention: float = 0.0,
    ) -> None:
        self._path = path
        self._deliver = deliver
        self._clock = clock
        self._events_kept = events_kept
        self._retention = retention
        self._swept_at = float("-inf")
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._running = False
        self._scrub_pending = False

    async def start(self) -> None:
        """Open the file. Raises `ConfigurationError`."""
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        opened: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(
            target=self._run, args=(opened,), name="palaver-ledger", daemon=True
        ).start()
        try:
            await opened
        except asyncio.CancelledError:
            self._jobs.put(None)
            raise
        self._running = True

    async def close(self) -> None:
        """Finish what was submitted and close the file. Idempotent."""
        if self._running:
            self._running = False
            self._jobs.put(None)
            await asyncio.shield(self._ended)

    def submit(
        self,
        operation: Callable[Concatenate[Database, P], OperationResult[T]],
        *arguments: P.args,
        **_: P.kwargs,
    ) -> asyncio.Future[T]:
        """Queue an operation; its future is done once it is committed."""
        if not self._running:
            raise LedgerUnavailable(f"the ledger {str(self._path)!r} is not open")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(Job(future, operation, arguments))
        return future

    # In the thread

    def _run(self, opened: "asyncio.Future[None]") -> None:
        try:
            check_directory(self._path)
            lock = Lock(self._path)
            try:
                database = open_file(self._path, lock)
                store = Database(database, self._clock, self._events_kept, self._retention)
            except BaseException:
                lock.release()
                raise
        except Exception as error:  # noqa: BLE001 (a barrier: the starter gets it)
            self._loop.call_soon_threadsafe(_fail, opened, error)
            return
        self._loop.call_soon_threadsafe(_succeed, opened)
        try:
            self._process_jobs(store)
            with contextlib.suppress(sqlite3.Error, OSError):  # then clients get a snapshot
                mark_closed(store.connection, lock)
        finally:
            store.connection.close()
            lock.release()
            self._loop.call_soon_threadsafe(_succeed, self._ended)

    def _process_jobs(self, store: Database) -> None:
        self._sweep(store)
        while (job := self._jobs.get()) is not None:
            outcomes = self._run_batch(store, [job])
            self._scrub_log(store, outcomes)
            self.deliver(outcomes)
            self._sweep(store)

    def _run_batch(self, store: Database, jobs: list[Job]) -> list[JobResult]:
        """Do ``jobs``, and those that arrive meanwhile, in one transaction; else each in its own.

        The second way finds the one that failed, and the others are not disturbed by it.
        """
        try:
            store.connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._apply(store, job) for job in self._collect(jobs)]
            self.commit(store, outcomes)
        except (sqlite3.Error, _PartialWrite):
            self._rollback(store)
            outcomes = [self._run_alone(store, job) for job in jobs]
        return outcomes

    def _collect(self, jobs: list[Job]) -> Iterator[Job]:
        """The first of ``jobs`` and those that arrive while it and they are worked on."""
        yield jobs[0]
        while len(jobs) < MAX_BATCH:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            if job is None:  # the end: seen again once this batch is done
                self._jobs.put(None)
                return
            jobs.append(job)
            yield job

    def _apply(self, store: Database, job: Job) -> JobResult:
        """Do one of several. Raises `_Spoilt` when it failed and may have left something."""
        before = store.connection.total_changes
        try:
            applied = job.operation(store, *job.arguments)
        except PalaverError as error:
            if store.connection.total_changes != before:
                raise _PartialWrite from error
            return JobResult(job.future, None, error)
        except sqlite3.Error:
            raise
        except Exception as error:
            raise _PartialWrite from error
        return JobResult(job.future, applied, _NO_ERROR)

    def _run_alone(self, store: Database, job: Job) -> JobResult:
        try:
            store.connection.execute("BEGIN IMMEDIATE")
            applied = job.operation(store, *job.arguments)
            outcome = JobResult(job.future, applied, _NO_ERROR)
            self.commit(store, [outcome])
        except sqlite3.Error as error:
            self._rollback(store)
            unavailable = LedgerUnavailable(f"the ledger {str(self._path)!r}: {error}")
            unavailable.__cause__ = error
            return JobResult(job.future, None, unavailable)
        except Exception as error:  # noqa: BLE001 (a barrier: the caller gets it)
            self._rollback(store)
            return JobResult(job.future, None, error)
        return outcome

    def commit(self, store: Database, outcomes: list[JobResult]) -> None:
        """Make a batch durable; what comes after this is told."""
        store.connection.execute("COMMIT")

    def deliver(self, outcomes: list[JobResult]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, outcomes)

    def _rollback(self, store: Database) -> None:
        store.cached_rows.clear()
        if store.connection.in_transaction:  # some errors have rolled back already
            with contextlib.suppress(sqlite3.Error):
                store.connection.execute("ROLLBACK")

    def _sweep(self, store: Database) -> None:
        """Once an hour remove what is too old, some of it at a time. When that fails, there is
        the next hour."""
        if self._clock() - self._swept_at < HOUR:
            return
        self._swept_at = self._clock()
        try:
            store.connection.execute("BEGIN IMMEDIATE")
            gone = delete_expired(store)
            self.commit(store, [])
        except sqlite3.Error as error:
            self._rollback(store)
            log.warning("old conversations stay in %s: %s", self._path, error)
            return
        if gone >= MAX_ROWS:
            self._swept_at = float("-inf")
        self._scrub_pending |= gone > 0

    def _scrub_log(self, store: Database, outcomes: list[JobResult]) -> None:
        """After an erasure, empty the write-ahead log, which holds the words as they came.

        While another program reads the file that is refused; then after the next batch.
        """
        self._scrub_pending |= any(
            done.applied is not None and done.applied.scrub for done in outcomes
        )
        if not self._scrub_pending:
            return
        with contextlib.suppress(sqlite3.Error):
            store.connection.execute("PRAGMA busy_timeout = 0")
            (busy, *_) = store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._scrub_pending = bool(busy)
            store.connection.execute("PRAGMA busy_timeout = 1000")


def _succeed(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: "asyncio.Future[None]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
