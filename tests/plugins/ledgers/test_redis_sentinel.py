"""The Redis ledger behind sentinels: a failover is followed, and what was acknowledged is kept.

Real processes: a master, two replicas and three sentinels.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.ledgers.redis_helpers import WHERE, insist, losses, message, needs_redis, opened, raw
from tests.plugins.ledgers.redis_load import Load
from tests.plugins.ledgers.redis_sentinels import SERVICE, Watched, watched
from tests.plugins.ledgers.redis_server import PASSWORD, RedisServer, free_port

from palaver.errors import ConfigurationError, LedgerUnavailable
from palaver_plugins.ledgers.redis import RedisLedger

pytestmark = needs_redis


@pytest.fixture
async def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setenv("SENTINELS", PASSWORD)
    async with watched(tmp_path) as made:
        yield made


def behind(redis: Watched, **options: Any) -> AbstractAsyncContextManager[RedisLedger]:
    return opened(redis.url, **options, sentinel_password="env:SENTINELS")


async def test_nothing_acknowledged_is_lost_when_masters_die_and_hang_under_load(
    redis: Watched,
) -> None:
    async with (
        asyncio.timeout(90),
        behind(redis, replicas=1, events_kept=1_000_000) as ledger,
    ):
        load = Load(ledger)
        async with load.running():
            await load.more(20)
            first = await redis.master()
            await asyncio.to_thread(first.kill)
            await load.more(20)
            second = await redis.master()
            await asyncio.to_thread(first.start)  # it takes itself for the master until told
            await redis.in_step()
            second.freeze()
            await _other_master(redis, second)
            second.thaw()
            await load.more(20)
            await redis.in_step()
        findings = await load.findings()
        assert findings.clean, findings
        assert second is not first
        assert load.refused > 0


async def test_without_confirmation_a_failover_loses_what_was_acknowledged(
    redis: Watched,
) -> None:
    """The twin: the replicas are cut off, which only a ledger that waits for them notices."""
    async with (
        asyncio.timeout(60),
        behind(redis) as careless,
        behind(redis, replicas=1) as careful,
    ):
        await careful.accept(message(thread="before"))
        first = await redis.master()
        before = (await careless.snapshot(WHERE, 0)).cursor
        for server in redis.servers:
            if server is not first:
                async with raw(server.url) as client:
                    await client.replicaof("127.0.0.1", free_port())
        lost, refused = message("lost"), message("refused")
        assert not (await careless.accept(lost)).duplicate
        with pytest.raises(LedgerUnavailable, match="0 of 1 replicas"):
            await careful.accept(refused)
        assert any("failover" in loss for loss in losses(await careless.guarantee()))
        await asyncio.to_thread(first.kill)
        await _other_master(redis, first)
        assert not (await insist(lambda: careless.accept(lost))).duplicate
        assert (await careless.snapshot(WHERE, 0)).cursor.epoch != before.epoch
        await insist(lambda: careful.accept(refused))


class Trusting(RedisLedger):
    """The twin: whatever replicas have confirmed is acknowledged."""

    async def start(self) -> None:
        await super().start()
        link = self._client._open_nodes().first
        link._confirm_master = None
        link.disconnect("the next connection asks nobody")
        await insist(self.queue_depth)


async def test_a_master_that_hung_cannot_acknowledge_once_another_was_chosen(
    redis: Watched,
) -> None:
    """It wakes together with a replica that follows it still, and so confirms its writes."""
    slow = {"replicas": 1, "command_timeout": 20.0}
    async with (
        asyncio.timeout(60),
        behind(redis, **slow) as careful,
        behind(redis, kind=Trusting, **slow) as trusting,
    ):
        master = await redis.master()
        follower = next(server for server in redis.servers if server is not master)
        follower.freeze()
        async with asyncio.timeout(10):
            while "s_down" not in await redis.flags(follower):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        master.freeze()
        lost, refused = message("lost"), message("refused")
        acknowledged = asyncio.create_task(trusting.accept(lost))
        doubted = asyncio.create_task(careful.accept(refused))
        await _other_master(redis, master)
        follower.thaw()
        master.thaw()
        assert not (await acknowledged).duplicate
        with pytest.raises(LedgerUnavailable, match=r"the master is at|a sentinel says"):
            await doubted
        await redis.in_step()
        assert not (await insist(lambda: trusting.accept(lost))).duplicate
        await insist(lambda: careful.accept(refused))


async def _other_master(redis: Watched, old: RedisServer) -> None:
    """Return when the sentinels have chosen another."""
    async with asyncio.timeout(20):
        while await redis.master() is old:  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.05)


async def test_sentinels_that_cannot_help_are_named(redis: Watched) -> None:
    own = "env:SENTINELS"
    async with asyncio.timeout(30):
        with pytest.raises(ConfigurationError, match="no service 'nobody'"):
            async with opened(redis.url.replace(SERVICE, "nobody"), sentinel_password=own):
                pass
        with pytest.raises(ConfigurationError, match="NOAUTH"):
            async with opened(redis.url):
                pass
        async with behind(redis) as ledger, behind(redis, replicas=1) as careful:
            guarantee = await ledger.guarantee()
            assert f"master of '{SERVICE}', as 3 of 3 sentinels say" in guarantee.promises[0]
            for sentinel in redis.sentinels[1:]:
                await asyncio.to_thread(sentinel.kill)
            assert any("Only 1 of 3 sentinels" in loss for loss in losses(await ledger.guarantee()))
            with pytest.raises(LedgerUnavailable, match="only 1 of 3 sentinels answer"):
                await careful.accept(message())
            await asyncio.to_thread(redis.sentinels[0].kill)
            await ledger.accept(message())
        with pytest.raises(LedgerUnavailable, match=f"no sentinel names the master of '{SERVICE}'"):
            async with behind(redis):
                pass
