"""The wall clock steps, forward and back, while a ledger runs and between two runs."""

import asyncio
import logging
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.memories import remember
from tests.plugins.ledgers.conftest import LedgerUnderTest, UnsyncedThread
from tests.proof_settings import SEED, short_or_long

from palaver.clock import SteadyClock
from palaver.errors import Fenced
from palaver.exports import collect_export
from palaver.ledger import ConcurrencyPolicies, Ledger
from palaver.testing import MemoryLedger
from palaver_plugins.ledgers.sqlite import SQLiteLedger, SQLiteLedgerSettings

pytestmark = pytest.mark.slow

HOUR, DAY = 3_600.0, 86_400.0
YEAR = 365 * DAY
MERGE = ConcurrencyPolicies(default="merge", merge_window=60.0)
ROOMY = ConcurrencyPolicies(inbox_limit=100)
STEPS = [-YEAR, -HOUR, -2.0, 2.0, HOUR, 3 * YEAR]


class SteppingClock:
    """Wall clock and monotonic clock; a step moves only the first."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.passed = 5_000.0

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds

    def get_wall(self) -> float:
        return self.wall

    def get_passed(self) -> float:
        return self.passed


class Subject(LedgerUnderTest):
    """A ledger whose two clocks a test moves."""

    clocks: SteppingClock

    async def restart(self, wall: float, **options: Any) -> None:
        """Close the ledger, set the wall clock and open it again; the machine starts as well."""
        await self.ledger.close()
        self.clocks.wall, self.clocks.passed = wall, 0.0
        self.ledger = self.build(**options)
        await self.ledger.start()


async def no_dump(ledger: Ledger) -> bytes:
    return b""


@asynccontextmanager
async def open_subject(kind: str, directory: Path) -> AsyncIterator[Subject]:
    clocks = SteppingClock()

    def build(**options: Any) -> Ledger:
        if kind == "memory":
            return MemoryLedger(clock=clocks.get_wall, monotonic=clocks.get_passed)
        settings = SQLiteLedgerSettings(path=directory / "ledger.sqlite", **options)
        return SQLiteLedger(
            settings,
            directory,
            clock=clocks.get_wall,
            monotonic=clocks.get_passed,
            thread=UnsyncedThread,
        )

    subject = Subject(kind, build, no_dump)
    subject.clocks = clocks
    await subject.ledger.start()
    try:
        yield subject
    finally:
        await subject.ledger.close()


@pytest.fixture(params=["memory", "sqlite"])
async def stepping(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    async with open_subject(request.param, tmp_path) as subject:
        yield subject


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Subject]:
    async with open_subject("sqlite", tmp_path) as subject:
        yield subject


# A step while the ledger runs


@pytest.mark.parametrize("step", STEPS)
async def test_a_lease_ends_neither_early_nor_late(stepping: Subject, step: float) -> None:
    await stepping.accept()
    claim = await stepping.claim(lease=30.0)
    stepping.clocks.wall += step
    await stepping.assert_nothing_due()
    stepping.clocks.pass_time(29.0)
    await stepping.assert_nothing_due()
    stepping.clocks.wall -= step / 2
    stepping.clocks.pass_time(2.0)
    again = await stepping.claim()
    assert (again.turn, again.attempt) == (claim.turn, 2)
    with pytest.raises(Fenced):
        await stepping.append(claim)


@pytest.mark.parametrize("step", STEPS)
async def test_a_renewed_lease_holds_over_a_step(stepping: Subject, step: float) -> None:
    await stepping.accept()
    claim = await stepping.claim(lease=30.0)
    for _ in range(5):
        stepping.clocks.pass_time(20.0)
        stepping.clocks.wall += step
        await stepping.append(claim)
        await stepping.assert_nothing_due()


@pytest.mark.parametrize("step", STEPS)
async def test_waiting_turns_are_due_after_a_step(stepping: Subject, step: float) -> None:
    for number in range(3):
        await stepping.accept(thread=f"t{number}")
    released = await stepping.claim()
    stepping.clocks.wall += step
    await stepping.ledger.release(released)
    await stepping.accept(thread="new")
    claims = [await stepping.claim() for _ in range(4)]
    assert {claim.conversation.thread for claim in claims} == {"t0", "t1", "t2", "new"}


@pytest.mark.parametrize("step", STEPS)
async def test_the_next_turn_is_due_after_a_step(stepping: Subject, step: float) -> None:
    await stepping.accept("one")
    await stepping.accept("two")
    claim = await stepping.claim()
    stepping.clocks.wall += step
    await stepping.settle(claim)
    assert (await stepping.claim()).message.text == "two"


@pytest.mark.parametrize("step", STEPS)
async def test_a_merge_window_ends_neither_early_nor_late(stepping: Subject, step: float) -> None:
    await stepping.accept_with("one", MERGE)
    stepping.clocks.pass_time(50.0)
    stepping.clocks.wall += step
    await stepping.assert_nothing_due()
    assert (await stepping.accept_with("two", MERGE)).joined
    stepping.clocks.pass_time(61.0)
    assert not (await stepping.accept_with("three", MERGE)).joined
    assert (await stepping.claim()).message.text == "one\n\ntwo"


@pytest.mark.parametrize("step", [-23 * HOUR, -HOUR, 2.0, 23 * HOUR])
async def test_a_repeated_message_is_recognized_after_a_step(
    stepping: Subject, step: float
) -> None:
    message = stepping.make_message()
    await stepping.ledger.accept(message)
    await stepping.answer_turn()
    stepping.clocks.wall += step
    assert (await stepping.ledger.accept(message)).duplicate
    stepping.clocks.pass_time(48 * HOUR)
    assert not (await stepping.ledger.accept(message)).duplicate


@pytest.mark.slow
async def test_no_sequence_of_steps_changes_what_is_due(tmp_path: Path) -> None:
    """Compare a ledger whose wall clock steps at random with one whose clock does not."""
    for kind in ("memory", "sqlite"):
        for seed in range(SEED, SEED + short_or_long(8, 300)):
            directories = [tmp_path / f"{kind}-{seed}-{side}" for side in range(2)]
            for directory in directories:
                await asyncio.to_thread(directory.mkdir)
            async with (
                open_subject(kind, directories[0]) as stepped,
                open_subject(kind, directories[1]) as steady,
            ):
                assert await run(stepped, steady, random.Random(seed)), (kind, seed)


async def run(stepped: Subject, steady: Subject, rng: random.Random) -> bool:
    """Return whether both ledgers had the same turns due all the time."""
    for number in range(80):
        seconds = rng.choice([0.01, 1.5, 20.0, 47.0])
        stepped.clocks.pass_time(seconds)
        steady.clocks.pass_time(seconds)
        if rng.random() < 0.3:
            stepped.clocks.wall += rng.choice(STEPS)
        thread, is_claim, settles = f"t{rng.randrange(4)}", rng.random() < 0.5, rng.random() < 0.5
        found = []
        for subject in (stepped, steady):
            if not is_claim:
                await subject.accept_with(f"{number}", ROOMY, thread=thread)
                continue
            claim = await subject.ledger.claim("worker", lease=30.0, history=0)
            found.append(claim.message.text if claim else "")
            if claim and settles:
                await subject.settle(claim)
        if len(set(found)) > 1:
            return False
    return True


# A step between two runs


@pytest.mark.parametrize("back", [2.0, HOUR, YEAR])
async def test_all_work_is_due_when_the_clock_is_back_at_the_start(
    sqlite: Subject, back: float
) -> None:
    await sqlite.accept("ran", thread="ran")
    await sqlite.claim(lease=30.0)
    await sqlite.accept("waited", thread="waited")
    await sqlite.accept_with("merged", MERGE, thread="merged")
    await sqlite.accept("behind", thread="ran")
    sqlite.clocks.pass_time(61.0)
    await sqlite.restart(sqlite.clocks.wall - 61.0 - back)
    claims = [await sqlite.claim() for _ in range(3)]
    assert {claim.message.text for claim in claims} == {"ran", "waited", "merged"}
    assert not (await sqlite.accept_with("late", MERGE, thread="merged")).joined
    for claim in claims:
        await sqlite.settle(claim)
    assert (await sqlite.claim()).message.text == "behind"


async def test_a_merge_window_survives_a_start(sqlite: Subject) -> None:
    await sqlite.accept_with("one", MERGE)
    await sqlite.restart(sqlite.clocks.wall + 5.0)
    await sqlite.assert_nothing_due()
    assert (await sqlite.accept_with("two", MERGE)).joined


# Retention


async def fill(subject: Subject) -> None:
    await remember(subject.ledger, "acme", "ada", "k", "v")
    await subject.accept("old")
    await subject.answer_turn()
    await subject.accept("given up", thread="dead")
    await subject.settle(await subject.claim(), outcome="failed", dead_letter_reason="given up")


async def count_kept(subject: Subject) -> tuple[int, int, int]:
    """Let a deletion run come by; return how much is left: entries, memories, dead letters."""
    for _ in range(2):
        await subject.ledger.queue_depth()
    export = await collect_export(subject.ledger.export("acme", "ada"))
    entries = sum(map(len, export.conversations.values()))
    return entries, len(export.memories), len(await subject.ledger.dead_letters(9))


ALL, NOTHING = (6, 1, 1), (0, 0, 0)


@pytest.mark.parametrize(
    ("jump", "retention_days"),
    [(YEAR + 9 * DAY, 365), (40 * DAY, 30), (10 * YEAR, 365), (9 * DAY, 2)],
)
async def test_one_start_with_a_clock_that_is_ahead_deletes_nothing(
    sqlite: Subject, jump: float, retention_days: int, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(sqlite)
    right = sqlite.clocks.wall
    caplog.set_level(logging.WARNING)
    for hours in (0, 1, 5):  # and neither do others on the same day
        await sqlite.restart(right + jump + hours * HOUR, retention_days=retention_days)
        assert await count_kept(sqlite) == ALL
    assert f"{jump / DAY:.1f} days after" in caplog.text
    assert len(caplog.records) == 1
    await sqlite.restart(right + 6 * HOUR, retention_days=retention_days)
    assert await count_kept(sqlite) == ALL
    await sqlite.restart(right + jump + 2 * DAY, retention_days=retention_days)
    assert await count_kept(sqlite) == ALL, "the clock was right in between"


async def test_a_jump_that_is_seen_on_a_second_day_counts(sqlite: Subject) -> None:
    await fill(sqlite)
    ahead = sqlite.clocks.wall + YEAR + 40 * DAY
    await sqlite.restart(ahead)
    assert await count_kept(sqlite) == ALL
    await sqlite.restart(ahead + DAY)
    assert await count_kept(sqlite) == NOTHING


async def test_a_second_jump_confirms_no_first(sqlite: Subject) -> None:
    await fill(sqlite)
    right = sqlite.clocks.wall
    for years in (2, 5, 3, 9):
        await sqlite.restart(right + years * YEAR)
        assert await count_kept(sqlite) == ALL


async def test_a_server_that_was_stopped_for_long_deletes_a_day_later(sqlite: Subject) -> None:
    await fill(sqlite)
    await sqlite.restart(sqlite.clocks.wall + 400 * DAY)
    assert await count_kept(sqlite) == ALL
    for _ in range(25):
        sqlite.clocks.pass_time(HOUR)
        kept = await count_kept(sqlite)
    assert kept == NOTHING


async def test_a_jump_while_the_server_runs_deletes_nothing(sqlite: Subject) -> None:
    await fill(sqlite)
    sqlite.clocks.wall += 2 * YEAR
    for _ in range(20):
        assert await count_kept(sqlite) == ALL
        sqlite.clocks.pass_time(HOUR)
    sqlite.clocks.wall -= 2 * YEAR
    for _ in range(50):
        sqlite.clocks.pass_time(HOUR)
        assert await count_kept(sqlite) == ALL


async def test_a_further_jump_is_no_second_day(sqlite: Subject) -> None:
    await fill(sqlite)
    sqlite.clocks.wall += 2 * YEAR
    for _ in range(10):
        sqlite.clocks.pass_time(HOUR)
        sqlite.clocks.wall += 2 * DAY
        assert await count_kept(sqlite) == ALL


async def test_what_was_written_while_the_clock_was_back_is_kept(sqlite: Subject) -> None:
    """Start as a machine does whose clock begins in 1970."""
    right = sqlite.clocks.wall
    await sqlite.accept("before", thread="before")
    await sqlite.answer_turn()
    await sqlite.restart(10.0)
    await fill(sqlite)
    sqlite.clocks.pass_time(60.0)
    sqlite.clocks.wall = right + 120.0
    await sqlite.accept("after", thread="after")
    await sqlite.answer_turn()
    for _ in range(30):
        sqlite.clocks.pass_time(HOUR)
        assert await count_kept(sqlite) == (10, 1, 1)
    await sqlite.restart(right + 3 * DAY)
    assert await count_kept(sqlite) == (10, 1, 1)


async def test_a_file_without_a_record_of_the_time_is_protected(
    sqlite: Subject, tmp_path: Path
) -> None:
    await fill(sqlite)
    await sqlite.ledger.close()

    def forget() -> None:
        with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
            connection.execute("DELETE FROM meta WHERE key = 'clock'")
        connection.close()

    await asyncio.to_thread(forget)
    await sqlite.restart(sqlite.clocks.wall + 2 * YEAR)
    assert await count_kept(sqlite) == ALL


async def test_a_check_reports_a_jump(sqlite: Subject) -> None:
    await fill(sqlite)
    before = (await sqlite.ledger.guarantee()).limitations
    await sqlite.ledger.close()
    for jump, words in ((2 * YEAR, "730.0 days after"), (-20 * DAY, "20.0 days before")):
        sqlite.clocks.wall += jump
        checked = sqlite.build()
        assert isinstance(checked, SQLiteLedger)
        await checked.inspect()
        (problem,) = set((await checked.guarantee()).limitations) - set(before)
        assert words in problem
        sqlite.clocks.wall -= jump
    await sqlite.restart(sqlite.clocks.wall + 2 * YEAR)
    (problem,) = set((await sqlite.ledger.guarantee()).limitations) - set(before)
    assert "730.0 days after" in problem


# The clock itself


def test_a_clock_without_a_separate_monotonic_one_follows_it() -> None:
    seconds = [7.0]
    clock = SteadyClock(lambda: seconds[0])
    seconds[0] = 9_000.0
    assert (clock(), clock.follow_step()) == (9_000.0, 0.0)


def test_a_small_deviation_is_no_step() -> None:
    clocks = SteppingClock()
    clock = SteadyClock(clocks.get_wall, clocks.get_passed)
    clocks.wall += 0.5
    assert clock.follow_step() == 0.0
    clocks.wall += 1.0
    assert clock.follow_step() == 1.5
    assert clock() == clocks.wall
