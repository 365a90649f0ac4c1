"""Turns of a process without a connection do not wait for their leases."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.chaos.proxy import FaultProxy
from tests.plugins.ledgers.redis_helpers import (
    claim_turn,
    make_message,
    needs_redis,
    open_ledger,
    text_entry,
    with_finished,
)
from tests.plugins.ledgers.redis_server import RedisServer, run_redis

from palaver.errors import Fenced, LedgerUnavailable
from palaver.ledger import Claim
from palaver_plugins.ledgers.redis import RedisLedger

pytestmark = needs_redis

LONG = 3600.0
CHECKS = 12
"""Claims, a tenth of a second apart or more, within which a dead owner is detected."""


@contextlib.asynccontextmanager
async def owner_and_other(
    redis: RedisServer,
) -> AsyncIterator[tuple[RedisLedger, RedisLedger, Claim]]:
    """Start a ledger that claims a turn for an hour, and another one."""
    async with open_ledger(redis.url) as owner, open_ledger(redis.url) as other:
        await owner.accept(make_message())
        yield owner, other, await claim_turn(owner, lease=LONG)


async def try_claim(ledger: RedisLedger) -> Claim | None:
    await ledger.wait_for_work(0.1)
    return await ledger.claim("other", lease=LONG, history=0)


async def wait_for_takeover(ledger: RedisLedger) -> Claim:
    """Wait until something is due."""
    async with asyncio.timeout(5):
        while True:
            if (found := await try_claim(ledger)) is not None:
                return found


async def assert_no_takeover(ledger: RedisLedger) -> None:
    """Check that nothing becomes due."""
    for _ in range(CHECKS):
        await asyncio.sleep(0.1)
        assert await try_claim(ledger) is None


async def cut_connections(redis: RedisServer) -> None:
    """Make Redis close every subscriber's connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", redis.port)
    writer.write(b"CLIENT KILL TYPE pubsub\r\n")
    await reader.readline()
    writer.close()


async def test_the_turn_of_a_closed_owner_is_due_before_its_lease_expires() -> None:
    async with run_redis() as redis, owner_and_other(redis) as (owner, other, claim):
        await owner.append(claim, [text_entry(claim, "half a ")], expect=0, lease=LONG)
        await owner.close()
        found = await wait_for_takeover(other)
        assert (found.turn, found.attempt, found.reply) == (claim.turn, 2, "half a ")


async def test_a_connected_owner_keeps_its_turn() -> None:
    async with run_redis() as redis, owner_and_other(redis) as (owner, other, claim):
        await assert_no_takeover(other)
        await owner.settle(claim, with_finished(claim), expect=0)


async def test_an_owner_that_reconnects_soon_keeps_its_turn() -> None:
    async with run_redis() as redis, owner_and_other(redis) as (owner, other, claim):
        assert await try_claim(other) is None
        await cut_connections(redis)
        await assert_no_takeover(other)
        await owner.settle(claim, with_finished(claim), expect=0)


async def test_a_restart_of_redis_does_not_end_claims() -> None:
    async with run_redis() as redis, owner_and_other(redis) as (owner, other, claim):
        assert await try_claim(other) is None
        await asyncio.to_thread(redis.kill)
        await asyncio.to_thread(redis.start)
        await other.queue_depth()
        await assert_no_takeover(other)
        await owner.settle(claim, with_finished(claim), expect=0)


async def test_an_owner_that_was_considered_dead_is_fenced() -> None:
    async with (
        run_redis() as redis,
        FaultProxy(redis.url) as proxy,
        open_ledger(proxy.address) as owner,
        open_ledger(redis.url) as other,
    ):
        await owner.accept(make_message())
        claim = await claim_turn(owner, lease=LONG)
        proxy.refuses_connections = True
        proxy.disconnect_all()
        await wait_for_takeover(other)
        proxy.refuses_connections = False
        with pytest.raises(Fenced):
            await append_when_connected(owner, claim)


async def append_when_connected(ledger: RedisLedger, claim: Claim) -> None:
    """Append as soon as there is a connection again."""
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(LedgerUnavailable):
                await ledger.append(claim, [text_entry(claim, "x")], expect=0, lease=LONG)
                return
            await asyncio.sleep(0.02)
