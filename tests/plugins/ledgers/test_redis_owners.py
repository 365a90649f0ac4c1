"""Turns of a process whose connection is gone for a while do not wait for their leases."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.chaos.proxy import CuttingProxy
from tests.plugins.ledgers.redis_helpers import claimed, ending, message, needs_redis, opened, said
from tests.plugins.ledgers.redis_server import RedisServer, running_redis

from palaver.errors import Fenced, LedgerUnavailable
from palaver.ledger import Claim
from palaver_plugins.ledgers.redis import RedisLedger

pytestmark = needs_redis

LONG = 3600.0
LOOKS = 12
"""Looks, a tenth of a second apart or more, after which a dead owner would have been noticed."""


@contextlib.asynccontextmanager
async def held(redis: RedisServer) -> AsyncIterator[tuple[RedisLedger, RedisLedger, Claim]]:
    """One who has claimed a turn for an hour, and another one."""
    async with opened(redis.url) as owner, opened(redis.url) as other:
        await owner.accept(message())
        yield owner, other, await claimed(owner, lease=LONG)


async def look(ledger: RedisLedger) -> Claim | None:
    await ledger.wait_for_work(0.1)
    return await ledger.claim("other", lease=LONG, history=0)


async def taken_over(ledger: RedisLedger) -> Claim:
    """Wait until something is due."""
    async with asyncio.timeout(5):
        while True:
            if (found := await look(ledger)) is not None:
                return found


async def stays(ledger: RedisLedger) -> None:
    """See that nothing becomes due."""
    for _ in range(LOOKS):
        await asyncio.sleep(0.1)
        assert await look(ledger) is None


async def hang_up(redis: RedisServer) -> None:
    """Let Redis cut every connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", redis.port)
    writer.write(b"CLIENT KILL TYPE pubsub\r\n")
    await reader.readline()
    writer.close()


async def test_the_turn_of_one_who_is_gone_is_due_long_before_its_lease_lapses() -> None:
    async with running_redis() as redis, held(redis) as (owner, other, claim):
        await owner.append(claim, [said(claim, "half a ")], expect=0, lease=LONG)
        await owner.close()
        found = await taken_over(other)
        assert (found.turn, found.attempt, found.reply) == (claim.turn, 2, "half a ")


async def test_one_who_is_there_keeps_its_turn() -> None:
    async with running_redis() as redis, held(redis) as (owner, other, claim):
        await stays(other)
        await owner.settle(claim, ending(claim), expect=0)


async def test_one_who_is_back_soon_keeps_its_turn() -> None:
    async with running_redis() as redis, held(redis) as (owner, other, claim):
        assert await look(other) is None
        await hang_up(redis)
        await stays(other)
        await owner.settle(claim, ending(claim), expect=0)


async def test_after_a_restart_of_redis_nobody_is_taken_for_dead() -> None:
    async with running_redis() as redis, held(redis) as (owner, other, claim):
        assert await look(other) is None
        await asyncio.to_thread(redis.kill)
        await asyncio.to_thread(redis.start)
        await other.queue_depth()
        await stays(other)
        await owner.settle(claim, ending(claim), expect=0)


async def test_one_who_was_taken_for_dead_meets_the_fence() -> None:
    async with (
        running_redis() as redis,
        CuttingProxy(redis.url) as way,
        opened(way.address) as owner,
        opened(redis.url) as other,
    ):
        await owner.accept(message())
        claim = await claimed(owner, lease=LONG)
        way.refuse = True
        way.cut()
        await taken_over(other)
        way.refuse = False
        with pytest.raises(Fenced):
            await stored(owner, claim)


async def stored(ledger: RedisLedger, claim: Claim) -> None:
    """Store something as soon as there is a way again."""
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(LedgerUnavailable):
                await ledger.append(claim, [said(claim, "x")], expect=0, lease=LONG)
                return
            await asyncio.sleep(0.02)
