"""The Redis ledger with sentinels: it follows a failover, and acknowledged writes are kept.

Real processes: a master, two replicas and three sentinels.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.ledgers.redis_helpers import (
    CONVERSATION,
    loss_limitations,
    make_message,
    needs_redis,
    open_ledger,
    raw_client,
    retry_until_available,
)
from tests.plugins.ledgers.redis_load import LoadGenerator
from tests.plugins.ledgers.redis_sentinels import SERVICE, SentinelDeployment, run_sentinels
from tests.plugins.ledgers.redis_server import PASSWORD, RedisServer
from tests.ports import free_port

from palaver.errors import ConfigurationError, LedgerUnavailable
from palaver_plugins.ledgers.redis import RedisLedger

pytestmark = needs_redis


@pytest.fixture
async def redis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SentinelDeployment]:
    monkeypatch.setenv("SENTINELS", PASSWORD)
    async with run_sentinels(tmp_path) as made:
        yield made


def open_ledger_at(
    redis: SentinelDeployment, **options: Any
) -> AbstractAsyncContextManager[RedisLedger]:
    return open_ledger(redis.url, **options, sentinel_password="env:SENTINELS")


async def test_nothing_acknowledged_is_lost_when_masters_die_and_hang_under_load(
    redis: SentinelDeployment,
) -> None:
    async with (
        asyncio.timeout(90),
        open_ledger_at(redis, replicas=1, events_kept=1_000_000) as ledger,
    ):
        load = LoadGenerator(ledger)
        async with load.running():
            await load.wait_for_settled(20)
            first = await redis.master()
            await asyncio.to_thread(first.kill)
            await load.wait_for_settled(20)
            second = await redis.master()
            await asyncio.to_thread(first.start)  # it takes itself for the master until told
            await redis.wait_until_in_sync()
            second.pause()
            await _other_master(redis, second)
            second.resume()
            await load.wait_for_settled(20)
            await redis.wait_until_in_sync()
        findings = await load.findings()
        assert findings.is_clean, findings
        assert second is not first
        assert load.refused > 0


async def test_without_confirmation_a_failover_loses_what_was_acknowledged(
    redis: SentinelDeployment,
) -> None:
    """Cut off the replicas, which only a ledger that waits for them notices."""
    async with (
        asyncio.timeout(60),
        open_ledger_at(redis) as careless,
        open_ledger_at(redis, replicas=1) as careful,
    ):
        await careful.accept(make_message(thread="before"))
        first = await redis.master()
        before = (await careless.snapshot(CONVERSATION, 0)).cursor
        for server in redis.servers:
            if server is not first:
                async with raw_client(server.url) as client:
                    await client.replicaof("127.0.0.1", free_port())
        lost, refused = make_message("lost"), make_message("refused")
        assert not (await careless.accept(lost)).duplicate
        with pytest.raises(LedgerUnavailable, match="0 of 1 replicas"):
            await careful.accept(refused)
        assert any("failover" in loss for loss in loss_limitations(await careless.guarantee()))
        await asyncio.to_thread(first.kill)
        await _other_master(redis, first)
        assert not (await retry_until_available(lambda: careless.accept(lost))).duplicate
        assert (await careless.snapshot(CONVERSATION, 0)).cursor.epoch != before.epoch
        await retry_until_available(lambda: careful.accept(refused))


class WithoutMasterCheck(RedisLedger):
    """Mutant: acknowledges all writes that replicas have confirmed."""

    async def start(self) -> None:
        await super().start()
        link = self._client._open_nodes().first
        link._confirm_master = None
        link.disconnect("the mutant does not check the master")
        await retry_until_available(self.queue_depth)


async def test_a_master_that_hung_cannot_acknowledge_once_another_was_chosen(
    redis: SentinelDeployment,
) -> None:
    """Resume the master together with a replica that still follows it, and confirms its writes."""
    slow = {"replicas": 1, "command_timeout": 20.0}
    async with (
        asyncio.timeout(60),
        open_ledger_at(redis, **slow) as careful,
        open_ledger_at(redis, kind=WithoutMasterCheck, **slow) as trusting,
    ):
        master = await redis.master()
        follower = next(server for server in redis.servers if server is not master)
        follower.pause()
        async with asyncio.timeout(10):
            while "s_down" not in await redis.flags(follower):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        master.pause()
        lost, refused = make_message("lost"), make_message("refused")
        acknowledged = asyncio.create_task(trusting.accept(lost))
        doubted = asyncio.create_task(careful.accept(refused))
        await _other_master(redis, master)
        follower.resume()
        master.resume()
        assert not (await acknowledged).duplicate
        with pytest.raises(LedgerUnavailable, match=r"the master is at|a sentinel says"):
            await doubted
        await redis.wait_until_in_sync()
        assert not (await retry_until_available(lambda: trusting.accept(lost))).duplicate
        await retry_until_available(lambda: careful.accept(refused))


async def _other_master(redis: SentinelDeployment, old: RedisServer) -> None:
    """Return when the sentinels have chosen another."""
    async with asyncio.timeout(20):
        while await redis.master() is old:  # noqa: ASYNC110  there is no notification
            await asyncio.sleep(0.05)


async def test_sentinels_that_cannot_help_are_named(redis: SentinelDeployment) -> None:
    own = "env:SENTINELS"
    async with asyncio.timeout(30):
        with pytest.raises(ConfigurationError, match="no service 'unknown'"):
            async with open_ledger(redis.url.replace(SERVICE, "unknown"), sentinel_password=own):
                pass
        with pytest.raises(ConfigurationError, match="NOAUTH"):
            async with open_ledger(redis.url):
                pass
        async with open_ledger_at(redis) as ledger, open_ledger_at(redis, replicas=1) as careful:
            guarantee = await ledger.guarantee()
            assert f"master of '{SERVICE}', as 3 of 3 sentinels say" in guarantee.promises[0]
            for sentinel in redis.sentinels[1:]:
                await asyncio.to_thread(sentinel.kill)
            assert any(
                "Only 1 of 3 sentinels" in loss
                for loss in loss_limitations(await ledger.guarantee())
            )
            with pytest.raises(LedgerUnavailable, match="only 1 of 3 sentinels answer"):
                await careful.accept(make_message())
            await asyncio.to_thread(redis.sentinels[0].kill)
            await ledger.accept(make_message())
        with pytest.raises(LedgerUnavailable, match=f"no sentinel names the master of '{SERVICE}'"):
            async with open_ledger_at(redis):
                pass
