"""The Redis ledger on a real Cluster of two nodes, which refuses any script that crosses slots."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.ledgers.redis_kit import claimed, ending, losses, message, needs_redis, opened, raw, said
from tests.ledgers.redis_server import RedisServer, free_port, running_redis

from palaver.messages import Conversation

pytestmark = needs_redis

MIDDLE = 8192
LAST = 16383


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[tuple[RedisServer, RedisServer]]:
    """Two nodes, each with half of the slots."""
    ports = [free_port(), free_port()]
    options = {"cluster_enabled": "yes", "cluster_node_timeout": "2000"}
    async with (
        running_redis(**options, cluster_port=str(ports[0])) as one,
        running_redis(**options, cluster_port=str(ports[1])) as two,
        raw(one.url) as first,
        raw(two.url) as second,
    ):
        await first.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, MIDDLE - 1)
        await second.execute_command("CLUSTER", "ADDSLOTSRANGE", MIDDLE, LAST)
        await second.execute_command("CLUSTER", "SET-CONFIG-EPOCH", 2)
        await first.execute_command("CLUSTER", "MEET", "127.0.0.1", two.port, ports[1])
        async with asyncio.timeout(5):
            await asyncio.gather(_formed(first), _formed(second))
        yield one, two


async def _formed(node: Any) -> None:  # Any: a redis-py client
    """Return when the node sees the whole cluster."""
    while "cluster_state:ok" not in str(await node.execute_command("CLUSTER", "INFO")):  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(0.02)


async def test_every_method_works_on_all_nodes_of_a_cluster() -> None:
    async with (
        asyncio.timeout(15),
        cluster() as (one, two),
        opened(one.url, partitions=8) as ledger,
        opened(two.url, partitions=8) as other,
        raw(one.url) as first,
        raw(two.url) as second,
    ):
        threads = [f"t{number}" for number in range(16)]
        news = asyncio.Event()
        for thread in threads:
            await ledger.watch(Conversation("acme", "web", thread), lambda events: news.set())
        for thread in threads:
            news.clear()
            await other.accept(message(thread=thread))
            await news.wait()
        await ledger.remember("acme", "ada", "k", "v")
        assert await other.recall("acme", "ada", "k") == "v"
        claims = [await claimed(ledger) for _ in threads]
        assert await other.claim("other", lease=30.0, history=0) is None
        for claim in claims:
            await ledger.append(claim, (said(claim, "a "),), expect=0, lease=30.0)
            await ledger.release(claim)
        for claim in [await claimed(other) for _ in threads]:
            assert await ledger.stop(claim.conversation, None) == ("stopping", claim.turn)
            await other.settle(claim, ending(claim, said(claim, "b", 2)), expect=1)
        for thread in threads:
            where = Conversation("acme", "web", thread)
            assert len((await other.read(where, 0, 10)).events) == 4
            assert (await ledger.snapshot(where, 2)).history[1].text == "a b"
            assert await ledger.members(where) == {"ada"}
        assert (await ledger.depth()).queued == 0
        assert await first.dbsize() > 8
        assert await second.dbsize() > 8
        assert len((await other.export("acme", "ada")).conversations) == len(threads)
        assert (await ledger.erase("acme", "ada")).conversations == len(threads)
        for node in (first, second):
            assert not [key async for key in node.scan_iter() if b"state" not in key]
        assert len(losses(await ledger.guarantee())) == 2  # for want of replicas
