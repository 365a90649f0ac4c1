"""Redis Cluster of real processes; a test migrates its slots step by step."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

from redis.crc import key_slot
from tests.plugins.ledgers.redis_helpers import raw_client
from tests.plugins.ledgers.redis_server import RedisServer, run_redis
from tests.ports import free_port

SLOTS = 16384
OPTIONS = {
    "cluster_enabled": "yes",
    "cluster_node_timeout": "1000",
    "cluster_require_full_coverage": "no",
    "repl_diskless_sync_delay": "0",
}


def slot_of(partition: int) -> int:
    return key_slot(b"palaver:{p%02d}:state" % partition)


class Cluster:
    """Masters that share the slots, and a replica of each, or none."""

    def __init__(self, masters: list[RedisServer], replicas: list[RedisServer]) -> None:
        self.masters = masters
        self.replicas = replicas

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.masters)

    async def owner(self, slot: int) -> RedisServer:
        """Return the master of the slot, as a running node reports it."""
        for node in (*self.masters, *self.replicas):
            if node.is_running:
                async with raw_client(node.url) as client:
                    for first, last, (_, port, *_), *_ in await _slots(client):
                        if first <= slot <= last:
                            return self._node(port)
        raise LookupError(slot)

    def _node(self, port: int) -> RedisServer:
        (node,) = [each for each in (*self.masters, *self.replicas) if each.port == port]
        return node

    @contextlib.asynccontextmanager
    async def migrate_slot(self, slot: int, target: RedisServer) -> AsyncIterator["SlotMigration"]:
        """Migrate the slot to ``target``; the remaining keys move at the end."""
        source = await self.owner(slot)
        async with raw_client(source.url) as here, raw_client(target.url) as there:
            move = SlotMigration(slot, here, there, target.port)
            ours, theirs = await _id(here), await _id(there)
            await there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ours)
            await here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", theirs)
            yield move
            while keys := await move.remaining_keys(100):
                await move.migrate(*keys)
            for node in (there, here):
                await node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", theirs)


class SlotMigration:
    """A slot on its way from one node to another."""

    def __init__(self, slot: int, source: Any, target: Any, port: int) -> None:  # Any: clients
        self._slot, self._source, self._target, self._port = slot, source, target, port

    async def remaining_keys(self, limit: int = 10_000) -> list[bytes]:
        """Return the keys that have not moved yet."""
        keys: list[bytes] = await self._source.execute_command(
            "CLUSTER", "GETKEYSINSLOT", self._slot, limit
        )
        return keys

    async def migrate(self, *keys: bytes) -> None:
        """Let the keys go."""
        await self._source.execute_command(
            "MIGRATE", "127.0.0.1", self._port, "", 0, 5000, "KEYS", *keys
        )


@contextlib.asynccontextmanager
async def run_cluster(
    *, replicated: bool = False, directives: Callable[[], dict[str, str]] = dict
) -> AsyncIterator[Cluster]:
    """Three nodes, each with a third of the slots, and perhaps with a replica; ``directives`` makes
    additional ones for each node."""
    async with contextlib.AsyncExitStack() as stack:

        async def node() -> tuple[RedisServer, Any]:
            bus = {"cluster_port": str(free_port())}
            starting = run_redis(**OPTIONS, **bus, **directives())
            server = await stack.enter_async_context(starting)
            return server, await stack.enter_async_context(raw_client(server.url))

        masters = [await node() for _ in range(3)]
        replicas = [await node() for _ in range(3 if replicated else 0)]
        for number, (_, client) in enumerate(masters):
            await client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        _, introducing = masters[0]
        for server, _ in (*masters[1:], *replicas):
            bus = server.directives["cluster-port"]
            port = server.directives.get("tls-port", server.port)
            await introducing.execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        clients = [client for _, client in (*masters, *replicas)]
        async with asyncio.timeout(10):
            for client in clients:
                await _wait_for_nodes(client, len(clients))
            for (_, client), (_, master) in zip(replicas, masters, strict=False):
                await client.execute_command("CLUSTER", "REPLICATE", await _id(master))
            for client in clients:
                await _wait_until_formed(client, len(replicas))
        yield Cluster([server for server, _ in masters], [server for server, _ in replicas])


async def _id(client: Any) -> str:
    return str((await client.execute_command("CLUSTER", "MYID")).decode())


async def _slots(client: Any) -> Any:
    """First slot, last slot, master, replicas, for each stretch; a node is host, port, id."""
    return await client.execute_command("CLUSTER", "SLOTS")


async def _wait_for_nodes(client: Any, nodes: int) -> None:
    while len((await client.execute_command("CLUSTER", "NODES")).splitlines()) < nodes:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def _wait_until_formed(client: Any, replicas: int) -> None:
    """Return when the node sees all slots served and so many replicas, and is in step itself."""
    while not await _is_formed(client, replicas):  # noqa: ASYNC110  there is no notification
        await asyncio.sleep(0.02)


async def _is_formed(client: Any, replicas: int) -> bool:
    info = str(await client.execute_command("CLUSTER", "INFO"))
    nodes = str((await client.execute_command("CLUSTER", "NODES")).decode())
    replication = await client.info("replication")
    return (
        "cluster_state:ok" in info
        and len(re.findall(r"\bslave\b", nodes)) == replicas
        and replication.get("master_link_status", "up") == "up"
    )
