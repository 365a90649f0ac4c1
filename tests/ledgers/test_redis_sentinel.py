"""The Redis ledger behind sentinels: a failover is followed, and what was acknowledged is kept.

Real processes: a master, two replicas and three sentinels.
"""

import asyncio
from typing import Any

import pytest
from tests.ledgers.redis_kit import WHERE, insist, losses, message, needs_redis, opened, raw
from tests.ledgers.redis_load import Load
from tests.ledgers.redis_sentinels import SERVICE, Watched, watched
from tests.ledgers.redis_server import RedisServer, free_port

from palaver.errors import ConfigurationError, LedgerUnavailable

pytestmark = needs_redis


async def test_nothing_acknowledged_is_lost_when_masters_die_and_hang_under_load() -> None:
    async with (
        asyncio.timeout(90),
        watched() as redis,
        opened(redis.url, replicas=1, events_kept=1_000_000) as ledger,
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
            await load.until(lambda: load.refused > 0)
            await _other_master(redis, second)
            second.thaw()
            await load.more(20)
            await redis.in_step()
        findings = await load.findings()
        assert findings.clean, findings
        assert second is not first


async def test_without_confirmation_a_failover_loses_what_was_acknowledged() -> None:
    """The twin: the replicas are cut off, which only a ledger that waits for them notices."""
    async with (
        asyncio.timeout(60),
        watched() as redis,
        opened(redis.url) as careless,
        opened(redis.url, replicas=1) as careful,
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
        assert not (await insist(lambda: careful.accept(refused))).duplicate


async def _other_master(redis: Watched, old: RedisServer) -> None:
    """Return when the sentinels have chosen another."""
    async with asyncio.timeout(20):
        while await redis.master() is old:  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.05)


async def test_sentinels_that_cannot_help_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINELS", "s3cret")
    password: dict[str, Any] = {"sentinel_password": "env:SENTINELS"}
    async with asyncio.timeout(30), watched(password="s3cret") as redis:
        with pytest.raises(ConfigurationError, match="no service 'nobody'"):
            async with opened(redis.url.replace(SERVICE, "nobody"), **password):
                pass
        with pytest.raises(ConfigurationError, match="NOAUTH"):
            async with opened(redis.url):
                pass
        async with opened(redis.url, **password) as ledger:
            guarantee = await ledger.guarantee()
            assert f"master of '{SERVICE}', as 3 of 3 sentinels say" in guarantee.holds[0]
            for sentinel in redis.sentinels[1:]:
                await asyncio.to_thread(sentinel.kill)
            assert any("Only 1 of 3 sentinels" in loss for loss in losses(await ledger.guarantee()))
            await asyncio.to_thread(redis.sentinels[0].kill)
            await ledger.accept(message())
        with pytest.raises(LedgerUnavailable, match=f"no sentinel names the master of '{SERVICE}'"):
            async with opened(redis.url, **password):
                pass
