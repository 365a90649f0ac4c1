"""Thread that owns the database connection and commits operations in groups.

Operations that are queued at the same time share a transaction, and so one fsync. An operation that
is refused before it writes is left out of it. When one fails later, the transaction is rolled back
and each operation runs again in its own. Results are delivered only after the commit.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from palaver import LedgerUnavailable, PalaverError, SteadyClock
from palaver_plugins.ledgers.sqlite.expiry import MAX_ROWS, delete_expired
from palaver_plugins.ledgers.sqlite.page_gaps import zero_gaps
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.retention_clock import RetentionClock
from palaver_plugins.ledgers.sqlite.room import RoomLimits
from palaver_plugins.ledgers.sqlite.rows import Database
from palaver_plugins.ledgers.sqlite.schema import (
    Lock,
    check_directory,
    mark_closed,
    move_due_times,
    open_file,
    release_claims,
)

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")
MAX_PAGES = 512
"""Pages whose unused space is overwritten at once: bounds how long other operations wait."""
MAX_BATCH = 256
"""Operations in a transaction at most: bounds how long the first one waits."""
SWEEP_INTERVAL = 300.0
"""Seconds between two searches for expired rows."""
NOTABLE_STEP = 60.0
"""Seconds of a step of the clock above which it is logged as a warning."""


class Job(NamedTuple):
    """Operation that waits for the thread."""

    future: asyncio.Future[Any]  # Any: of the operation's result; `DatabaseThread.submit` ties them
    operation: Callable[..., OperationResult[Any]]
    arguments: tuple[Any, ...]


class JobResult(NamedTuple):
    """Result of a job, or the error that it raised."""

    future: asyncio.Future[Any]
    result: OperationResult[Any] | None
    error: Exception | None = None


class _PartialWrite(Exception):
    """An operation failed after it had written."""


class DatabaseThread:
    """Runs operations on the file at ``path``, in order; each is durable when its future is done.

    The event loop calls ``on_commit`` with the results of a committed batch, in order.
    """

    def __init__(
        self,
        path: Path,
        on_commit: Callable[[list[JobResult]], None],
        *,
        clock: SteadyClock,
        events_kept: int,
        retention: float = 0.0,
        room: RoomLimits = RoomLimits(),  # noqa: B008  it cannot change
    ) -> None:
        self._path = path
        self._room = room
        self._on_commit = on_commit
        self._clock = clock
        self._events_kept = events_kept
        self._retention = retention
        self._expired_at = float("-inf")
        """When expired rows were last deleted, by the monotonic clock."""
        self._retention_clock = RetentionClock(clock, clock.monotonic)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._is_open = False
        self._scrub_pending = True
        """The log may hold deleted words: also at the start, when the last process was killed."""
        self._next_page: int | None = 0
        """Page of the file from which on the unused space may hold deleted words."""
        self._scrub_refused = False

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
        self._is_open = True

    def clock_problem(self) -> str:
        """Return a sentence about a jump of the clock that is not believed yet, or nothing."""
        return self._retention_clock.describe()

    async def close(self) -> None:
        """Finish the submitted operations and close the file. Idempotent."""
        if self._is_open:
            self._is_open = False
            self._jobs.put(None)
            await asyncio.shield(self._ended)

    def submit(
        self,
        operation: Callable[Concatenate[Database, P], OperationResult[T]],
        *arguments: P.args,
        **_: P.kwargs,
    ) -> asyncio.Future[T]:
        """Queue an operation; its future is done when it is committed."""
        if not self._is_open:
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
                connection = open_file(self._path, lock)
                self._room.apply(connection)
                database = Database(
                    connection,
                    self._clock,
                    self._events_kept,
                    self._retention,
                    self._retention_clock,
                )
                self._retention_clock.start(connection)
                release_claims(connection, self._clock())
                # Closed after the connection: closing a file ends the process's locks on it.
                self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            except BaseException:
                lock.release()
                raise
        except Exception as error:  # noqa: BLE001 (a barrier: `start` raises it)
            self._loop.call_soon_threadsafe(_fail, opened, error)
            return
        self._loop.call_soon_threadsafe(_succeed, opened)
        try:
            self._process_jobs(database)
            with contextlib.suppress(sqlite3.Error, OSError):  # else clients get a snapshot
                self._retention_clock.observe(connection)
                mark_closed(connection, lock)
        finally:
            connection.close()
            os.close(self._file)
            lock.release()
            self._loop.call_soon_threadsafe(_succeed, self._ended)

    def _process_jobs(self, database: Database) -> None:
        self._delete_expired(database)
        self._scrub_log(database, [])
        while (job := self._next_job(database)) is not None:
            self._follow_step(database)
            results = self._run_batch(database, [job])
            self._scrub_log(database, results)
            self.deliver(results)
            self._delete_expired(database)

    def _follow_step(self, database: Database) -> None:
        """After a step of the wall clock, move the ends of leases and merge windows with it."""
        if step := self._clock.follow_step():
            level = logging.WARNING if abs(step) > NOTABLE_STEP else logging.INFO
            log.log(level, "the clock of this machine has stepped by %+.1f s", step)
            database.cached_rows.clear()
            with contextlib.suppress(sqlite3.Error):  # else the leases end early or late
                database.connection.execute("BEGIN IMMEDIATE")
                move_due_times(database.connection, step)
                self._retention_clock.observe(database.connection)
                self.commit(database, [])
            self._rollback(database)

    def _next_job(self, database: Database) -> Job | None:
        """Return the next job; while there is none, go on with what is done in steps."""
        while self._jobs.empty() and (self._expired_at == float("-inf") or database.is_scrubbing):
            self._delete_expired(database)
            self._scrub_log(database, [])
        return self._jobs.get()

    def _run_batch(self, database: Database, jobs: list[Job]) -> list[JobResult]:
        """Run ``jobs`` and those that arrive in the meantime in one transaction; after a failure,
        run each in its own, so that the failing one does not affect the others."""
        try:
            database.room_problem = self._room.problem(database.connection, self._path)
            database.connection.execute("BEGIN IMMEDIATE")
            results = [self._run_in_batch(database, job) for job in self._collect(jobs)]
            self.commit(database, results)
        except (sqlite3.Error, _PartialWrite):
            self._rollback(database)
            results = [self._run_alone(database, job) for job in jobs]
        return results

    def _collect(self, jobs: list[Job]) -> Iterator[Job]:
        """Yield the first of ``jobs``, then those that arrive in the meantime; add them to it."""
        yield jobs[0]
        while len(jobs) < MAX_BATCH:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            if job is None:  # `_process_jobs` must see it after this batch
                self._jobs.put(None)
                return
            jobs.append(job)
            yield job

    def _run_in_batch(self, database: Database, job: Job) -> JobResult:
        """Run one job of a batch. Raises `_PartialWrite` when it failed and may have written."""
        before = database.connection.total_changes
        try:
            return JobResult(job.future, job.operation(database, *job.arguments))
        except PalaverError as error:
            if database.connection.total_changes != before:
                raise _PartialWrite from error
            return JobResult(job.future, None, error)
        except sqlite3.Error:
            raise
        except Exception as error:
            raise _PartialWrite from error

    def _run_alone(self, database: Database, job: Job) -> JobResult:
        try:
            database.connection.execute("BEGIN IMMEDIATE")
            result = JobResult(job.future, job.operation(database, *job.arguments))
            self.commit(database, [result])
        except sqlite3.Error as error:
            self._rollback(database)
            unavailable = LedgerUnavailable(f"the ledger {str(self._path)!r}: {error}")
            unavailable.__cause__ = error
            return JobResult(job.future, None, unavailable)
        except Exception as error:  # noqa: BLE001 (a barrier: the caller gets it)
            self._rollback(database)
            return JobResult(job.future, None, error)
        return result

    def commit(self, database: Database, results: list[JobResult]) -> None:
        """Commit a batch, before its results are delivered."""
        database.connection.execute("COMMIT")

    def deliver(self, results: list[JobResult]) -> None:
        self._loop.call_soon_threadsafe(self._on_commit, results)

    def _rollback(self, database: Database) -> None:
        database.cached_rows.clear()
        if database.connection.in_transaction:  # some errors roll back by themselves
            with contextlib.suppress(sqlite3.Error):
                database.connection.execute("ROLLBACK")

    def _delete_expired(self, database: Database) -> None:
        """Delete some expired rows, every few minutes or until none are left."""
        if self._clock.monotonic() - self._expired_at < SWEEP_INTERVAL:
            return
        self._expired_at = self._clock.monotonic()
        try:
            database.connection.execute("BEGIN IMMEDIATE")
            self._retention_clock.observe(database.connection)
            deleted = delete_expired(database)
            self.commit(database, [])
        except sqlite3.Error as error:
            self._rollback(database)
            log.warning("could not delete expired rows of %s: %s", self._path, error)
            return
        if deleted >= MAX_ROWS:
            self._expired_at = float("-inf")
        self._scrub_pending |= deleted > 0

    def _scrub_log(self, database: Database, results: list[JobResult]) -> None:
        """Truncate the write-ahead log after an erasure, as it contains the deleted words; then
        overwrite the unused space of some pages.

        SQLite refuses while another program reads the file; the next batch tries again. The log
        says so once.
        """
        if any(done.result is not None and done.result.scrub for done in results):
            self._scrub_pending, self._next_page = True, 0
        if not self._scrub_pending:
            return
        database.is_scrubbing = False
        execute = database.connection.execute
        with contextlib.suppress(sqlite3.Error, OSError):
            execute("PRAGMA busy_timeout = 0")
            (busy, *_) = execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            execute("PRAGMA busy_timeout = 1000")
            if busy and not self._scrub_refused:
                message = "deleted words stay in %r until the next change: it is being read"
                log.warning(message, str(self._path))
            self._scrub_refused = bool(busy)
            if not busy:
                self._zero_gaps(database)

    def _zero_gaps(self, database: Database) -> None:
        if self._next_page is not None:
            database.connection.execute("PRAGMA shrink_memory")  # no page stays in the cache
            (page_size,) = database.connection.execute("PRAGMA page_size").fetchone()
            self._next_page = zero_gaps(self._file, page_size, self._next_page, MAX_PAGES)
        self._scrub_pending = database.is_scrubbing = self._next_page is not None


def _succeed(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: "asyncio.Future[None]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
