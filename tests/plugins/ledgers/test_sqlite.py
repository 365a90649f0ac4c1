"""The SQLite ledger: its file, durability, lock and cost."""

import asyncio
import contextlib
import itertools
import os
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pydantic
import pytest

from palaver.errors import (
    ConfigurationError,
    Conflict,
    LedgerInUse,
    LedgerUnavailable,
    PalaverError,
    TooMany,
)
from palaver.hooks import BuildContext
from palaver.ledger import HISTORY_BYTES, QUEUE_ALL, Claim, Step
from palaver.messages import Conversation, Cursor, Finished, Message, Routed, Started, Text, new_id
from palaver_plugins.ledgers.sqlite import (
    SQLiteLedger,
    SQLiteLedgerSettings,
    inbox,
    palaver_register_ledgers,
    settling,
    turns,
)
from palaver_plugins.ledgers.sqlite.database_thread import DatabaseThread
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import Database
from palaver_plugins.ledgers.sqlite.schema import Lock, open_file

CHILD = Path(__file__).parent / "sqlite_child.py"


def ledger_in(directory: Path, writer: type[DatabaseThread] = DatabaseThread) -> SQLiteLedger:
    return SQLiteLedger(SQLiteLedgerSettings(), directory, thread=writer)


@contextlib.asynccontextmanager
async def opened(
    directory: Path, writer: type[DatabaseThread] = DatabaseThread
) -> AsyncIterator[SQLiteLedger]:
    ledger = ledger_in(directory, writer)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close()


def message(identity: str = "", *, thread: str = "t", text: str = "hello") -> Message:
    where = Conversation("acme", "web", thread)
    return Message(conversation=where, id=identity or new_id(), person="ada", text=text)


async def start_error(directory: Path, kind: type[PalaverError] = ConfigurationError) -> str:
    """Why a ledger there cannot be started; the path is always named."""
    with pytest.raises(kind) as refused:
        await ledger_in(directory).start()
    assert str(directory / "ledger.sqlite") in str(refused.value)
    return str(refused.value)


# Durability


async def child(
    directory: Path, end: str, enough: Callable[[list[str]], bool] | None = None
) -> list[str]:
    """Run the child to its end, or kill it after ``enough``; returns what it acknowledged."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, CHILD, directory, end, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    acknowledged: list[str] = []
    async with asyncio.timeout(20):
        while line := await process.stdout.readline():
            acknowledged.append(line.decode().strip())
            if enough is not None and enough(acknowledged):
                process.kill()
                enough = None
        await process.wait()
    return acknowledged


async def lost_messages(directory: Path, acknowledged: list[str]) -> list[str]:
    async with opened(directory) as ledger:
        receipts = {
            identity: await ledger.accept(message(identity, thread=identity))
            for identity in acknowledged
        }
    return [identity for identity, receipt in receipts.items() if not receipt.duplicate]


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    acknowledged = await child(tmp_path, "killed", lambda lines: len(lines) >= 150)
    assert len(acknowledged) >= 150
    assert await lost_messages(tmp_path, acknowledged) == []


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_when_it_dies_in_the_commit(tmp_path: Path) -> None:
    acknowledged = await child(tmp_path, "honest")
    assert await lost_messages(tmp_path, acknowledged) == []


@pytest.mark.proof
async def test_a_thread_that_acknowledges_before_it_commits_is_detected(tmp_path: Path) -> None:
    acknowledged = await child(tmp_path, "hasty")
    assert await lost_messages(tmp_path, acknowledged) != []


async def test_turns_of_a_dead_process_are_due_at_once_as_another_attempt(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.accept(message())
        claim = await ledger.claim("worker", lease=600.0, history=0)
        assert claim is not None
        await ledger.append(claim, [Text(turn=claim.turn, position=0, text="half")], expect=0,
                            lease=600.0)  # fmt: skip
    async with opened(tmp_path) as ledger:
        taken = await ledger.claim("worker", lease=600.0, history=0)
        assert taken is not None
        assert (taken.turn, taken.attempt, taken.reply) == (claim.turn, 2, "half")


# One batch


def fail_after_writing(database: Database, error: type[Exception]) -> OperationResult[None]:
    database.connection.execute("INSERT INTO memories VALUES ('acme', 'ada', 'trace', 'left', 0)")
    raise error


@pytest.mark.parametrize("error", [ZeroDivisionError, TooMany])
async def test_a_failing_operation_does_not_affect_the_others_of_its_batch(
    tmp_path: Path, error: type[Exception]
) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.accept(message("m1", text="one"))

        async def fail() -> None:
            await ledger._thread.submit(fail_after_writing, error)

        before, conflict, failed, after = await asyncio.gather(
            ledger.accept(message("m2")),
            ledger.accept(message("m1", text="another body")),
            fail(),
            ledger.accept(message("m3")),
            return_exceptions=True,
        )
        assert isinstance(conflict, Conflict)
        assert isinstance(failed, error)
        assert not isinstance(before, BaseException)
        assert not isinstance(after, BaseException)
        assert (before.ahead, after.ahead) == (1, 2)
        assert await ledger.recall("acme", "ada", "trace") is None
        assert (await ledger.queue_depth()).queued == 3


async def test_text_that_is_no_unicode_is_refused_and_stores_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.accept(message())
        claim = await ledger.claim("worker", lease=600.0, history=0)
        assert claim is not None
        half = Text(turn=claim.turn, position=0, text="\ud800")
        with pytest.raises(UnicodeEncodeError):
            await ledger.append(claim, [half], expect=0, lease=600.0)
        whole = Text(turn=claim.turn, position=0, text="whole")
        await ledger.append(claim, [whole], expect=0, lease=600.0)
        end = Finished(turn=claim.turn, outcome="done", length=5)
        await ledger.settle(claim, [end], expect=1)
        _, answer = (await ledger.snapshot(claim.conversation, 2)).history
        assert answer.text == "whole"


async def test_operations_that_are_queued_together_share_a_commit(tmp_path: Path) -> None:
    commits: list[int] = []

    class Counting(DatabaseThread):
        def commit(self, database: Database, results: list) -> None:  # type: ignore[type-arg]
            commits.append(len(results))
            super().commit(database, results)

    async with opened(tmp_path, Counting) as ledger:
        commits.clear()
        await asyncio.gather(*(ledger.accept(message(thread=f"t{n}")) for n in range(100)))
    assert sum(commits) == 100
    assert len(commits) < 20


async def test_a_claim_of_a_cancelled_caller_is_released(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.accept(message())
        task = asyncio.create_task(ledger.claim("worker", lease=600.0, history=0))
        await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(5):
            while (claim := await ledger.claim("other", lease=600.0, history=0)) is None:
                await ledger.wait_for_work(1.0)
        assert claim.attempt == 1


# The file


async def test_a_second_server_on_the_same_file_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        assert "another server" in await start_error(tmp_path, LedgerInUse)
    async with opened(tmp_path):
        pass


async def test_other_programs_may_read_while_the_server_runs(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.accept(message())
        assert await asyncio.to_thread(count_turns, ledger.path) == 1


def count_turns(path: Path) -> int:
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        (turns,) = reader.execute("SELECT count(*) FROM turns").fetchone()
    finally:
        reader.close()
    return int(turns)


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        path = ledger.path
    await asyncio.to_thread(execute, path, "PRAGMA user_version = 99")
    assert "newer release" in await start_error(tmp_path)


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    await asyncio.to_thread(execute, tmp_path / "ledger.sqlite", "CREATE TABLE theirs (x)")
    assert "another program" in await start_error(tmp_path)


def execute(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"no database, but long enough to look at" * 99)
    assert "not a database" in await start_error(tmp_path)


async def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    assert "directory" in await start_error(tmp_path / "missing")


@pytest.mark.parametrize("name", ["ledger.sqlite", "ledger.sqlite.lock"])
async def test_a_directory_in_the_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    await start_error(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        path = ledger.path
    path.chmod(0o400)
    assert "readonly" in await start_error(tmp_path)


async def test_a_ledger_that_could_not_start_may_try_again(tmp_path: Path) -> None:
    directory = tmp_path / "later"
    ledger = ledger_in(directory)
    with pytest.raises(ConfigurationError):
        await ledger.start()
    os.mkdir(directory)
    await ledger.start()
    await ledger.accept(message())
    await ledger.close()


def copy_of(directory: Path, target: Path) -> Path:
    """Copy the files of a running ledger, as a backup or a crash of the machine would leave
    them."""
    target.mkdir()
    for file in directory.glob("ledger.sqlite*"):
        shutil.copy(file, target)
    return target


async def cursor_in(ledger: SQLiteLedger) -> Cursor:
    return (await ledger.snapshot(message().conversation, 0)).cursor


@pytest.mark.parametrize("whole", [False, True])
async def test_an_older_copy_that_is_put_back_begins_a_new_epoch(
    tmp_path: Path, whole: bool
) -> None:
    here, copy = tmp_path / "here", tmp_path / "copy"
    here.mkdir()
    async with opened(here) as ledger:
        await ledger.accept(message("m1"))
    async with opened(here) as ledger:
        copy_of(here, copy)
        await ledger.accept(message("m2"))
        seen = await cursor_in(ledger)
    if not whole:
        (copy / "ledger.sqlite.lock").unlink()
    shutil.copytree(copy, here, dirs_exist_ok=True)
    async with opened(here) as ledger:
        await ledger.accept(message("m3"))
        now = await cursor_in(ledger)
    assert now.offset == seen.offset
    assert now.epoch != seen.epoch


async def test_the_file_of_a_killed_process_begins_a_new_epoch(tmp_path: Path) -> None:
    """Start on the files of a killed process, which look like a copy of a running ledger."""
    here = tmp_path / "here"
    here.mkdir()
    async with opened(here) as ledger:
        await ledger.accept(message("m1"))
        seen = await cursor_in(ledger)
        left = copy_of(here, tmp_path / "left")
    async with opened(left) as ledger:
        now = await cursor_in(ledger)
    assert now.offset == seen.offset
    assert now.epoch != seen.epoch


async def test_a_full_disk_makes_the_ledger_unavailable_until_there_is_room(
    tmp_path: Path,
) -> None:
    def limit(database: Database, pages: int) -> OperationResult[int]:
        (limited,) = database.connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        return OperationResult(int(limited))

    async with opened(tmp_path) as ledger:
        await ledger.accept(message("m1"))
        assert await ledger._thread.submit(limit, 1) > 1
        large = message("m2", text="x" * 100_000)
        with pytest.raises(LedgerUnavailable) as failed:
            await ledger.accept(large)
        assert "full" in str(failed.value)
        assert (await ledger.queue_depth()).queued == 1
        await ledger._thread.submit(limit, 1_000_000)
        assert not (await ledger.accept(large)).duplicate


async def test_a_closed_ledger_is_unavailable(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        pass
    with pytest.raises(LedgerUnavailable):
        await ledger.accept(message())


# Settings


def test_the_hook_contributes_the_ledger_and_its_settings(tmp_path: Path) -> None:
    (backend,) = palaver_register_ledgers()
    assert backend.name == "sqlite"
    build_context = BuildContext(data_directory=tmp_path, resolve_model=Path)
    built = backend.build(backend.settings(), build_context)
    assert isinstance(built, SQLiteLedger)
    assert built.path == tmp_path / "ledger.sqlite"
    elsewhere = backend.settings.model_validate({"path": str(tmp_path / "other.db")})
    built = backend.build(elsewhere, build_context)
    assert isinstance(built, SQLiteLedger)
    assert built.path == tmp_path / "other.db"
    with pytest.raises(pydantic.ValidationError):
        backend.settings.model_validate({"file": "x"})


# Cost


class StatementCounter:
    """Counter of the statements and virtual machine steps of turns."""

    def __init__(self, directory: Path, *, forgets: bool) -> None:
        self.forgets = forgets
        path = directory / "ledger.sqlite"
        self.database = Database(open_file(path, Lock(path)), clock=lambda: 1.0, events_kept=100)
        self.statements: list[str] = []
        self.steps = 0
        self.database.connection.execute("BEGIN")
        self.database.connection.set_trace_callback(self.statements.append)
        self.database.connection.set_progress_handler(self._step, 1)

    def _step(self) -> int:
        self.steps += 1
        return 0

    def turn(self) -> None:
        """Run a turn with two appends."""
        if self.forgets:
            self.database.cached_rows.clear()
        inbox.accept(self.database, message(), QUEUE_ALL)
        claim = turns.claim(self.database, 3.0, 40, HISTORY_BYTES).value
        assert isinstance(claim, Claim)
        turn = claim.turn
        started = (
            Started(turn=turn, attempt=1),
            Routed(turn=turn, skill="chat", reason="default"),
        )
        turns.append(self.database, claim, started, 0, 3.0)
        turns.append(self.database, claim, (Text(turn=turn, position=0, text="hello "),), 2, 3.0)
        end = (
            Text(turn=turn, position=6, text="there"),
            Finished(turn=turn, outcome="done", length=11),
        )
        settling.settle(self.database, claim, end, 3, None, (), "")

    def cost(self) -> int:
        """Steps of ten turns."""
        before = self.steps
        for _ in range(10):
            self.turn()
        return self.steps - before


@pytest.fixture(params=["held", "read again"])
def meter(request: pytest.FixtureRequest, tmp_path: Path) -> StatementCounter:
    """Return a counter with a cached conversation, and one without a cache."""
    return StatementCounter(tmp_path, forgets=request.param == "read again")


@pytest.mark.slow
def test_a_turn_costs_the_same_however_long_the_conversation_is(meter: StatementCounter) -> None:
    for _ in range(30):
        meter.turn()
    early = meter.cost()
    meter.database.connection.set_progress_handler(None, 0)
    for _ in range(1_000):
        meter.turn()
    meter.database.connection.set_progress_handler(meter._step, 1)
    assert meter.cost() <= early * 1.1


def test_a_turn_takes_few_statements(meter: StatementCounter) -> None:
    meter.turn()
    meter.statements.clear()
    meter.turn()
    own = [text for text, _ in itertools.groupby(meter.statements)]  # triggers repeat their cause
    assert len(own) <= (20 if meter.forgets else 17), own


def test_no_statement_of_a_turn_scans_a_table(meter: StatementCounter) -> None:
    meter.turn()
    meter.statements.clear()
    meter.turn()
    seen = list(meter.statements)
    for statement in seen:
        plan = meter.database.connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        scans = [row[3] for row in plan if row[3].startswith("SCAN") and "USING" not in row[3]]
        assert scans == [], statement


async def test_a_settled_turn_leaves_no_journal_and_the_newest_events(tmp_path: Path) -> None:
    ledger = SQLiteLedger(SQLiteLedgerSettings(events_kept=3), tmp_path)
    await ledger.start()
    await ledger.accept(message())
    claim = await ledger.claim("worker", lease=600.0, history=0)
    assert claim is not None
    texts = [Text(turn=claim.turn, position=at, text="x") for at in range(6)]
    step = Step(number=0, verb="generate", fingerprint="f", done=True, result=msgspec.Raw(b"1"))
    await ledger.append(claim, [step], expect=0, lease=600.0)
    end = Finished(turn=claim.turn, outcome="done", length=6)
    await ledger.settle(claim, [*texts, end], expect=1)
    page = await ledger.read(claim.conversation, 0, 100)
    assert (page.first, page.last, len(page.events)) == (6, 8, 3)
    await ledger.accept(message())
    claim = await ledger.claim("worker", lease=600.0, history=0)
    assert claim is not None
    await ledger.settle(claim, [Finished(turn=claim.turn, outcome="done", length=0)], expect=0)
    await ledger.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as file:
        assert file.execute("SELECT min(last_offset) FROM events").fetchone() == (8,)
        assert file.execute("SELECT count(*) FROM steps").fetchone() == (0,)
