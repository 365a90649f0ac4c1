"""Stores that are full: they accept nothing, and running turns end."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.plugins.ledgers.conftest import LedgerUnderTest, redis_subject, sqlite_subject
from tests.plugins.ledgers.redis_helpers import open_ledger

from palaver.errors import LedgerUnavailable
from palaver.messages import Conversation, Text

MIB = 1_048_576


async def fill(subject: LedgerUnderTest, size: int = 100_000) -> int:
    """Store messages until the ledger accepts no more; return their number."""
    for number in range(2_000):
        try:
            await subject.accept("x" * size, thread=f"fill-{number}", person="filler")
        except LedgerUnavailable:
            return number
    raise AssertionError("the store has no limit")


async def assert_full(subject: LedgerUnderTest) -> None:
    """A running turn writes and ends, nothing is accepted, and an erasure makes room."""
    await subject.accept("runs", thread="running", person="ada")
    claim = await subject.claim()
    assert await fill(subject) > 5
    progress = await subject.append(claim, *subject.reply_entries(claim, "y" * 50_000))
    with pytest.raises(LedgerUnavailable):
        # larger than what Redis has freed of its buffers in the meantime
        await subject.accept("x" * 1_000_000, thread="new", person="ada")
    end = Text(turn=claim.turn, position=50_000, text="the end")
    await subject.settle(claim, end, expect=progress.index)
    where = Conversation("acme", "web", "running")
    history = (await subject.ledger.snapshot(where, 9)).history
    assert history[-1].text == "y" * 50_000 + "the end"
    queued = (await subject.ledger.queue_depth()).queued
    assert queued == (await subject.ledger.erase("acme", "filler")).conversations
    await subject.accept("hi", thread="new", person="ada")


async def test_a_full_file_accepts_nothing_and_ends_its_turns(tmp_path: Path) -> None:
    async with sqlite_subject(tmp_path) as subject:
        await subject.reopen(max_bytes=10 * MIB)
        await assert_full(subject)
        await subject.ledger.close()
    assert (tmp_path / "ledger.sqlite").stat().st_size <= 10 * MIB


async def test_a_full_disk_accepts_nothing_and_ends_its_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has as much free space as the file leaves of 10 MiB."""

    def statvfs(path: Path) -> os.statvfs_result:
        used = sum(file.stat().st_size for file in tmp_path.iterdir())
        free = max(0, 10 * MIB - used) // 4_096
        return os.statvfs_result((4_096, 4_096, 2_560, free, free, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    async with sqlite_subject(tmp_path) as subject:
        await subject.reopen(min_free_bytes=2 * MIB)
        await assert_full(subject)
        await subject.ledger.close()


@pytest.fixture
async def full_redis(tmp_path: Path) -> AsyncIterator[LedgerUnderTest]:
    from redis.asyncio import Redis

    async with redis_subject(tmp_path) as subject:
        await subject.ledger.start()
        client: Redis = Redis.from_url(subject.url)
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory", used + 10 * MIB)
        yield subject
        await client.aclose()
        await subject.ledger.close()


@pytest.mark.redis
@pytest.mark.live
async def test_a_full_redis_accepts_nothing_and_ends_its_turns(
    full_redis: LedgerUnderTest,
) -> None:
    await assert_full(full_redis)


@pytest.mark.redis
@pytest.mark.live
async def test_a_full_redis_releases_and_stops_turns(full_redis: LedgerUnderTest) -> None:
    await full_redis.accept("runs", thread="running", person="ada")
    claim = await full_redis.claim()
    await fill(full_redis)
    await full_redis.ledger.release(claim)
    again = await full_redis.claim()
    assert (await full_redis.ledger.stop(again.conversation, again.turn))[0] == "stopping"
    await full_redis.settle(again, outcome="stopped", dead_letter_reason="it")
    assert [letter.turn for letter in await full_redis.ledger.dead_letters(9)] == [again.turn]


@pytest.mark.redis
@pytest.mark.live
async def test_another_server_starts_on_a_full_redis_and_makes_room(
    full_redis: LedgerUnderTest,
) -> None:
    """So does `palaver erase`."""
    await full_redis.accept("waits", thread="running", person="ada")
    stored = await fill(full_redis)
    async with open_ledger(full_redis.url) as other:
        claim = await other.claim("worker", lease=30.0, history=1)
        assert claim is not None
        await other.release(claim)
        assert (await other.erase("acme", "filler")).conversations == stored
    await full_redis.accept("hi", thread="new")


async def test_a_server_starts_on_a_full_file_and_makes_room(tmp_path: Path) -> None:
    async with sqlite_subject(tmp_path) as subject:
        await subject.reopen(max_bytes=10 * MIB)
        stored = await fill(subject)
        await subject.reopen(max_bytes=10 * MIB)
        assert (await subject.ledger.erase("acme", "filler")).conversations == stored
        await subject.accept("hi", thread="new")
        await subject.ledger.close()
