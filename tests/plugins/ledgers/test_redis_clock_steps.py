"""The clock of a Redis server steps, forward and back: work is delayed by a lease at most."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.memories import remember
from tests.plugins.ledgers.conftest import LedgerUnderTest, ManualClock, redis_subject
from tests.plugins.ledgers.redis_helpers import needs_redis, raw_client

from palaver.errors import Fenced
from palaver.ledger import ConcurrencyPolicies
from palaver_plugins.ledgers.redis import RedisLedger, checks
from palaver_plugins.ledgers.redis.address import parse_address
from palaver_plugins.ledgers.redis.checks import ServerInfo
from palaver_plugins.ledgers.redis.guarantee import Deployment

pytestmark = needs_redis

HOUR, DAY = 3_600.0, 86_400.0
MERGE = ConcurrencyPolicies(default="merge", merge_window=60.0)
BACK = [2.0, HOUR, 40 * DAY]


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[LedgerUnderTest]:
    async with redis_subject(tmp_path) as subject:
        # Redis itself expires keys by the real clock: whatever the test does, they stay.
        subject.require_clock().now += 500 * DAY
        await subject.ledger.start()
        try:
            yield subject
        finally:
            await subject.ledger.close()


@pytest.fixture
def clock(redis: LedgerUnderTest) -> ManualClock:
    return redis.require_clock()


@pytest.mark.parametrize("back", BACK)
async def test_a_lease_begins_again_after_a_step_back(
    redis: LedgerUnderTest, clock: ManualClock, back: float
) -> None:
    await redis.accept()
    claim = await redis.claim(lease=30.0)
    clock.now -= back
    await redis.assert_nothing_due()
    clock.now += 33.0
    again = await redis.claim()
    assert (again.turn, again.attempt) == (claim.turn, 2)
    with pytest.raises(Fenced):
        await redis.append(claim)


@pytest.mark.parametrize("back", BACK)
async def test_a_live_worker_keeps_its_turn_over_steps_back(
    redis: LedgerUnderTest, clock: ManualClock, back: float
) -> None:
    await redis.accept()
    claim = await redis.claim(lease=30.0)
    for _ in range(4):
        clock.now += 20.0
        clock.now -= back
        await redis.assert_nothing_due()
        await redis.append(claim)
    await redis.settle(claim)


@pytest.mark.parametrize("back", [HOUR, 40 * DAY])
async def test_waiting_turns_are_due_after_a_step_back(
    redis: LedgerUnderTest, clock: ManualClock, back: float
) -> None:
    await redis.accept("first", thread="t0")
    released = await redis.claim()
    for number in range(1, 4):
        await redis.accept(thread=f"t{number}")
    await redis.ledger.release(released)
    clock.now -= back
    await redis.accept(thread="new")
    claims = [await redis.claim() for _ in range(5)]
    assert {claim.conversation.thread for claim in claims} == {"t0", "t1", "t2", "t3", "new"}


async def test_a_step_that_is_shorter_than_a_lease_delays_work_by_the_step(
    redis: LedgerUnderTest, clock: ManualClock
) -> None:
    for number in range(3):
        await redis.accept(thread=f"t{number}")
    clock.now -= 2.0
    await redis.accept(thread="new")
    await redis.claim(lease=30.0)
    clock.now += 2.0
    for _ in range(3):
        await redis.claim(lease=30.0)


async def test_a_turn_that_was_released_long_after_its_message_is_due_after_a_step_back(
    redis: LedgerUnderTest, clock: ManualClock
) -> None:
    await redis.accept()
    clock.now += 2 * HOUR
    await redis.ledger.release(await redis.claim())
    clock.now -= HOUR
    await redis.claim()


async def test_a_valid_lease_does_not_hide_what_a_step_back_has_put_off(
    redis: LedgerUnderTest, clock: ManualClock
) -> None:
    await redis.accept("put off", thread="old")
    clock.now -= HOUR
    await redis.accept("running", thread="new")
    assert (await redis.claim(lease=300.0)).message.text == "running"
    assert (await redis.claim()).message.text == "put off"
    await redis.assert_nothing_due()


@pytest.mark.parametrize("back", BACK)
async def test_the_next_turn_is_due_after_a_step_back(
    redis: LedgerUnderTest, clock: ManualClock, back: float
) -> None:
    await redis.accept("one")
    await redis.accept("two")
    claim = await redis.claim()
    clock.now -= back
    await redis.settle(claim)
    assert (await redis.claim()).message.text == "two"


@pytest.mark.parametrize("back", [HOUR, 40 * DAY])
async def test_a_merge_window_ends_at_once_after_a_step_back(
    redis: LedgerUnderTest, clock: ManualClock, back: float
) -> None:
    await redis.accept_with("one", MERGE)
    clock.now -= back
    assert (await redis.accept_with("two", MERGE)).joined
    await redis.assert_nothing_due()
    clock.now += 61.0
    assert (await redis.claim()).message.text == "one\n\ntwo"
    await redis.accept_with("alone", MERGE, thread="u")
    clock.now -= back
    assert (await redis.claim()).message.text == "alone"


async def test_a_merge_window_that_is_open_is_respected(
    redis: LedgerUnderTest, clock: ManualClock
) -> None:
    await redis.accept_with("one", MERGE)
    clock.now += 30.0
    await redis.assert_nothing_due()
    clock.now += 31.0
    await redis.claim()


@pytest.mark.parametrize("step", [-23 * HOUR, -HOUR, 23 * HOUR])
async def test_a_repeated_message_is_recognized_after_a_step(
    redis: LedgerUnderTest, clock: ManualClock, step: float
) -> None:
    message = redis.make_message()
    await redis.ledger.accept(message)
    await redis.answer_turn()
    clock.now += step
    assert (await redis.ledger.accept(message)).duplicate


async def test_a_dead_worker_is_noticed_after_a_step_back(
    redis: LedgerUnderTest, clock: ManualClock
) -> None:
    """Check that a turn does not wait for its lease when the connection of its owner is gone."""
    await redis.accept()
    other = redis.build()
    await other.start()
    claim = await other.claim("worker", lease=3_000.0, history=0)
    assert claim is not None
    await redis.assert_nothing_due()
    clock.now -= HOUR
    await other.close()
    await redis.assert_nothing_due()  # it is missing from now on
    clock.now += 0.6
    assert (await redis.claim()).turn == claim.turn


async def expiry_times(url: str) -> dict[str, int]:
    """Return when each key expires, without what expires within weeks."""
    async with raw_client(url) as client:
        keys: list[Any] = [key async for key in client.scan_iter("palaver:{*")]
        ends = {key.decode(): await client.pexpiretime(key) for key in keys}
    short = (":s", ":m", ":o", "state", "queue")
    return {key: end for key, end in ends.items() if not key.endswith(short) and ":n:" not in key}


async def test_what_is_used_while_the_clock_is_behind_expires_no_earlier(
    redis: LedgerUnderTest, clock: ManualClock
) -> None:
    await remember(redis.ledger, "acme", "ada", "k", "v")
    await redis.accept()
    await redis.answer_turn()
    await redis.accept("given up", thread="dead")
    await redis.settle(await redis.claim(), outcome="failed", dead_letter_reason="given up")
    before = await expiry_times(redis.url)
    clock.now -= 300 * DAY
    await remember(redis.ledger, "acme", "ada", "k", "new")
    assert await redis.ledger.recall("acme", "ada", "k") == "new"
    await redis.accept()
    await redis.answer_turn()
    await redis.accept("given up too", thread="dead")
    await redis.settle(await redis.claim(), outcome="failed", dead_letter_reason="given up")
    after = await expiry_times(redis.url)
    assert before.keys() <= after.keys()
    assert [key for key in before if after[key] < before[key]] == []
    newest = min(end for key, end in before.items() if ":d" not in key)
    assert min(end for key, end in after.items() if ":d" not in key) >= newest
    assert len(await redis.ledger.dead_letters(9)) == 2


def describe_clock(deviation: float) -> str:
    server = ServerInfo("7.2", "yes", "always", "noeviction", 0, time=1_000_000_000.0 + deviation)
    address = parse_address("redis://127.0.0.1:6379/0")
    deployment = Deployment(
        servers={address: server},
        replicas=0,
        sentinels=None,
        excess_commands=frozenset(),
        now=1_000_000_000.0,
    )
    return " ".join(deployment.describe().limitations)


def test_a_clock_that_is_far_off_is_reported() -> None:
    assert "365.0 days ahead of this machine's" in describe_clock(365 * DAY)
    assert "2.0 days behind this machine's" in describe_clock(-2 * DAY)
    assert describe_clock(HOUR) == ""


async def test_the_clock_of_a_server_is_read(redis: LedgerUnderTest) -> None:
    assert "clock" not in str((await redis.ledger.guarantee()).limitations)
    assert isinstance(redis.ledger, RedisLedger)
    node = redis.ledger._client._open_nodes().first
    server = await checks.inspect(node.send, node.check_reply)
    assert abs(server.time - time.time()) < DAY
