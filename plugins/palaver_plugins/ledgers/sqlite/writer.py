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
from palaver_plugins.ledgers.sqlite.applied import Applied
from palaver_plugins.ledgers.sqlite.rows import HOUR, Store
from palaver_plugins.ledgers.sqlite.schema import Lock, check_directory, end_life, open_file
from palaver_plugins.ledgers.sqlite.sweeping import CHUNK, sweep

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")
BATCH = 256
"""Operations that share a transaction at most: bounds how long the first one waits."""


class Job(NamedTuple):
    future: asyncio.Future[Any]  # Any: of the operation's result; `Writer.submit` ties them
    operation: Callable[..., Applied[Any]]
    arguments: tuple[Any, ...]


class Outcome(NamedTuple):
    """``applied``, or the ``error`` for which it was not."""

    future: asyncio.Future[Any]
    applied: Applied[Any] | None
    error: Exception


_NO_ERROR = Exception()


class _Spoilt(Exception):
    """An operation failed after it had written."""


class Writer:
    """Runs operations on the file at ``path``, in order, each durable when its future is done.

    ``deliver`` is called in the event loop with the outcomes of a committed batch, in order.
    """

    def __init__(
        self,
        path: Path,
        deliver: Callable[[list[Outcome]], None],
        *,
        clock: Callable[[], float],
        kept: int,
        retention: float = 0.0,
    ) -> None:
        self._path = path
        self._deliver = deliver
        self._clock = clock
        self._kept = kept
        self._retention = retention
        self._swept = float("-inf")
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._running = False
        self._scrub = False

    async def start(self) -> None:
        """Open the file. Raises `ConfigurationError`."""
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        opened: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(
            target=self._serve, args=(opened,), name="palaver-ledger", daemon=True
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
        operation: Callable[Concatenate[Store, P], Applied[T]],
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

    def _serve(self, opened: "asyncio.Future[None]") -> None:
        try:
            check_directory(self._path)
            lock = Lock(self._path)
            try:
                database = open_file(self._path, lock)
                store = Store(database, self._clock, self._kept, self._retention)
            except BaseException:
                lock.free()
                raise
        except Exception as error:  # noqa: BLE001 (a barrier: the starter gets it)
            self._loop.call_soon_threadsafe(_fail, opened, error)
            return
        self._loop.call_soon_threadsafe(_succeed, opened)
        try:
            self._work(store)
            with contextlib.suppress(sqlite3.Error, OSError):  # then clients get a snapshot
                end_life(store.database, lock)
        finally:
            store.database.close()
            lock.free()
            self._loop.call_soon_threadsafe(_succeed, self._ended)

    def _work(self, store: Store) -> None:
        self._sweep(store)
        while (job := self._jobs.get()) is not None:
            outcomes = self._settle(store, [job])
            self._scrub_log(store, outcomes)
            self.tell(outcomes)
            self._sweep(store)

    def _settle(self, store: Store, jobs: list[Job]) -> list[Outcome]:
        """Do ``jobs``, and those that arrive meanwhile, in one transaction; else each in its own.

        The second way finds the one that failed, and the others are not disturbed by it.
        """
        try:
            store.database.execute("BEGIN IMMEDIATE")
            outcomes = [self._apply(store, job) for job in self._gather(jobs)]
            self.commit(store, outcomes)
        except (sqlite3.Error, _Spoilt):
            self._undo(store)
            outcomes = [self._alone(store, job) for job in jobs]
        return outcomes

    def _gather(self, jobs: list[Job]) -> Iterator[Job]:
        """The first of ``jobs`` and those that arrive while it and they are worked on."""
        yield jobs[0]
        while len(jobs) < BATCH:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            if job is None:  # the end: seen again once this batch is done
                self._jobs.put(None)
                return
            jobs.append(job)
            yield job

    def _apply(self, store: Store, job: Job) -> Outcome:
        """Do one of several. Raises `_Spoilt` when it failed and may have left something."""
        before = store.database.total_changes
        try:
            applied = job.operation(store, *job.arguments)
        except PalaverError as error:
            if store.database.total_changes != before:
                raise _Spoilt from error
            return Outcome(job.future, None, error)
        except sqlite3.Error:
            raise
        except Exception as error:
            raise _Spoilt from error
        return Outcome(job.future, applied, _NO_ERROR)

    def _alone(self, store: Store, job: Job) -> Outcome:
        try:
            store.database.execute("BEGIN IMMEDIATE")
            applied = job.operation(store, *job.arguments)
            outcome = Outcome(job.future, applied, _NO_ERROR)
            self.commit(store, [outcome])
        except sqlite3.Error as error:
            self._undo(store)
            unavailable = LedgerUnavailable(f"the ledger {str(self._path)!r}: {error}")
            unavailable.__cause__ = error
            return Outcome(job.future, None, unavailable)
        except Exception as error:  # noqa: BLE001 (a barrier: the caller gets it)
            self._undo(store)
            return Outcome(job.future, None, error)
        return outcome

    def commit(self, store: Store, outcomes: list[Outcome]) -> None:
        """Make a batch durable; what comes after this is told."""
        store.database.execute("COMMIT")

    def tell(self, outcomes: list[Outcome]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, outcomes)

    def _undo(self, store: Store) -> None:
        store.live.clear()
        if store.database.in_transaction:  # some errors have rolled back already
            with contextlib.suppress(sqlite3.Error):
                store.database.execute("ROLLBACK")

    def _sweep(self, store: Store) -> None:
        """Once an hour remove what is too old, some of it at a time. When that fails, there is
        the next hour."""
        if self._clock() - self._swept < HOUR:
            return
        self._swept = self._clock()
        try:
            store.database.execute("BEGIN IMMEDIATE")
            gone = sweep(store)
            self.commit(store, [])
        except sqlite3.Error as error:
            self._undo(store)
            log.warning("old conversations stay in %s: %s", self._path, error)
            return
        if gone >= CHUNK:
            self._swept = float("-inf")
        self._scrub |= gone > 0

    def _scrub_log(self, store: Store, outcomes: list[Outcome]) -> None:
        """After an erasure, empty the write-ahead log, which holds the words as they came.

        While another program reads the file that is refused; then after the next batch.
        """
        self._scrub |= any(done.applied is not None and done.applied.scrub for done in outcomes)
        if not self._scrub:
            return
        with contextlib.suppress(sqlite3.Error):
            store.database.execute("PRAGMA busy_timeout = 0")
            (busy, *_) = store.database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._scrub = bool(busy)
            store.database.execute("PRAGMA busy_timeout = 1000")


def _succeed(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: "asyncio.Future[None]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
