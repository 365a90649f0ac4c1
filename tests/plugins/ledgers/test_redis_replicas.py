"""The Redis ledger with a replica: what a failover keeps, and what it loses without
confirmation."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.plugins.ledgers.redis_helpers import (
    answer_turn,
    claim_turn,
    loss_limitations,
    make_message,
    needs_redis,
    open_ledger,
    raw_client,
    retry_until_available,
    text_entry,
    with_finished,
)
from tests.plugins.ledgers.redis_server import RedisServer, run_proxy, run_redis

from palaver.errors import LedgerUnavailable

pytestmark = needs_redis


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[RedisServer, RedisServer]]:
    """Start a primary and its replica, in sync."""
    async with (
        run_redis(repl_diskless_sync_delay="0") as primary,
        run_redis(replicaof=f"127.0.0.1 {primary.port}") as replica,
        raw_client(primary.url) as client,
        raw_client(replica.url) as copy,
    ):
        async with asyncio.timeout(5):
            await client.set("begun", 1)
            while not await client.wait(1, 500):
                pass
            # Until the first rewrite has ended, the replica would start with what it had before.
            while not _has_its_own_file(await copy.info("persistence")):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        yield primary, replica


def _has_its_own_file(persistence: dict[str, Any]) -> bool:  # Any: as redis-py reads INFO
    pending = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
    return not any(persistence[name] for name in pending)


async def _promoted(primary: RedisServer, replica: RedisServer) -> None:
    """The primary dies, and the frozen replica goes on with what it has on disk: not even what
    waits in its sockets."""
    await asyncio.to_thread(primary.kill)
    await asyncio.to_thread(replica.kill)
    del replica.directives["replicaof"]
    await asyncio.to_thread(replica.start)


async def test_a_failover_keeps_what_the_replica_confirmed() -> None:
    async with asyncio.timeout(10), pair() as (primary, replica):
        async with open_ledger(primary.url, replicas=1) as ledger:
            sent = [make_message(thread=f"t{number}") for number in range(50)]
            await asyncio.gather(*(ledger.accept(each) for each in sent))
            claim = await claim_turn(ledger)
            await ledger.settle(claim, with_finished(claim, text_entry(claim, "fine")), expect=0)
            guarantee = await ledger.guarantee()
            before = (await ledger.snapshot(claim.conversation, 0)).cursor
            replica.pause()
            with pytest.raises(LedgerUnavailable, match="0 of 1 replicas"):
                await ledger.accept(make_message())
            assert any("replicas (1)" in sentence for sentence in guarantee.promises)
            (spare,) = loss_limitations(guarantee)
            assert "no replica to spare" in spare
            await _promoted(primary, replica)
        async with open_ledger(replica.url) as ledger:
            again = [await ledger.accept(each) for each in sent]
            assert all(receipt.duplicate for receipt in again)
            after = (await ledger.snapshot(claim.conversation, 2)).cursor
            assert after.epoch != before.epoch


async def test_without_confirmation_a_failover_loses_what_was_acknowledged() -> None:
    """Show that the writes are lost without `replicas`."""
    async with asyncio.timeout(10), pair() as (primary, replica):
        async with open_ledger(primary.url) as ledger:
            replica.pause()
            sent = make_message()
            await ledger.accept(sent)
            (sentence,) = loss_limitations(await ledger.guarantee())
            assert "failover" in sentence
            await _promoted(primary, replica)
        async with open_ledger(replica.url) as ledger:
            assert not (await ledger.accept(sent)).duplicate


async def test_a_message_that_was_refused_without_a_replica_may_be_sent_again() -> None:
    async with asyncio.timeout(10), pair() as (primary, replica):
        async with open_ledger(primary.url, replicas=1) as ledger:
            replica.pause()
            sent = make_message()
            with pytest.raises(LedgerUnavailable):
                await ledger.accept(sent)
            replica.resume()
            await retry_until_available(lambda: ledger.accept(sent))
            claim = await answer_turn(ledger)
            assert claim.message == sent
            assert await ledger.claim("worker", lease=3.0, history=0) is None


async def test_a_repeated_write_is_confirmed_like_the_first_on_any_connection() -> None:
    """Since Redis 7.2 WAIT knows only of what its own connection wrote, and who repeats a write
    writes nothing: hence the command before it."""
    async with asyncio.timeout(10), pair() as (primary, replica), run_proxy(primary) as proxy:
        async with (
            open_ledger(primary.url, replicas=1) as one,
            open_ledger(proxy.url, replicas=1) as other,
        ):
            replica.pause()
            sent = make_message()
            with pytest.raises(LedgerUnavailable):
                await one.accept(sent)
            proxy.clear_record()
            with pytest.raises(LedgerUnavailable, match="0 of 1 replicas"):
                await other.accept(sent)
            assert proxy.command_names()[:3] == [b"HSET", b"EVALSHA", b"WAIT"]
            replica.resume()
            assert (await retry_until_available(lambda: other.accept(sent))).duplicate


@pytest.mark.parametrize("replicas", [0, 1])
async def test_a_master_that_has_become_a_replica_is_away_until_it_is_a_master_again(
    replicas: int,
) -> None:
    async with asyncio.timeout(15), pair() as (primary, replica), raw_client(primary.url) as client:
        async with open_ledger(primary.url, replicas=replicas) as ledger:
            await ledger.accept(make_message())
            await client.replicaof("127.0.0.1", replica.port)
            with pytest.raises(LedgerUnavailable, match="is a replica of"):
                await ledger.accept(make_message())
            with pytest.raises(LedgerUnavailable, match=r"name the master in ledger\.redis\.url"):
                async with open_ledger(replica.url):
                    pass
            await client.replicaof("NO", "ONE")
            await retry_until_available(lambda: ledger.accept(make_message()))
