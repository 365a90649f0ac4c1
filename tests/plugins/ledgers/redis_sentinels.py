"""A master, its replicas and sentinels, as real processes for a test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

from tests.plugins.ledgers.redis_helpers import raw_client
from tests.plugins.ledgers.redis_server import (
    PASSWORD,
    RedisServer,
    run_redis,
    run_server,
    write_user_config,
)

SERVICE = "talk"
DOWN_AFTER = 700
"""Milliseconds without an answer after which a sentinel considers a server dead."""


class Sentinel(RedisServer):
    """One sentinel process. It writes its state into its configuration file."""

    defaults: ClassVar[dict[str, str]] = {}

    def _command(self) -> list[str]:
        settings = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(self.directory),
        }  # fmt: skip
        path = self.directory / "sentinel.conf"
        if not path.exists():
            lines = (f"{name} {value}" for name, value in (settings | self.directives).items())
            path.write_text("\n".join(lines) + "\n")
        return ["redis-server", str(path), "--sentinel"]


class SentinelDeployment:
    """One master, two replicas, three sentinels."""

    def __init__(self, servers: list[RedisServer], sentinels: list[RedisServer]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://palaver:{PASSWORD}@{hosts}/{SERVICE}"

    async def master(self) -> RedisServer:
        """Return the master, as the first sentinel reports it."""
        async with raw_client(self.sentinels[0].url) as client:
            _, port = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        (server,) = [each for each in self.servers if each.port == int(port)]
        return server

    async def flags(self, replica: RedisServer) -> str:
        """Return the flags that the first sentinel reports for a replica."""
        async with raw_client(self.sentinels[0].url) as client:
            for state in await client.sentinel_slaves(SERVICE):
                if state["port"] == replica.port:
                    return str(state["flags"])
        return ""

    async def wait_until_in_sync(self) -> None:
        """Wait until the sentinels know each other, and the master has both its replicas."""
        async with asyncio.timeout(30):
            while not await self._is_in_sync():  # noqa: ASYNC110  there is no notification
                await asyncio.sleep(0.05)

    async def _is_in_sync(self) -> bool:
        for sentinel in self.sentinels:
            async with raw_client(sentinel.url) as client:
                state = await client.sentinel_master(SERVICE)
            known = (state["num-other-sentinels"], state["num-slaves"], state["flags"])
            if known != (2, 2, "master"):
                return False
        async with raw_client((await self.master()).url) as client:
            replication = await client.info("replication")
        return all(
            replication.get(f"slave{number}", {}).get("state") == "online" for number in range(2)
        )


@contextlib.asynccontextmanager
async def run_sentinels(directory: Path) -> AsyncIterator[SentinelDeployment]:
    """Start a deployment and wait until it is in sync. Every user has the least permissions; the
    sentinels require `PASSWORD`."""
    own = {
        "include": write_user_config(directory),
        "masteruser": "replica",
        "masterauth": PASSWORD,
        "repl_diskless_sync_delay": "0",
    }
    async with contextlib.AsyncExitStack() as stack:
        master = await stack.enter_async_context(run_redis(**own))
        replicas = [
            await stack.enter_async_context(run_redis(**own, replicaof=f"127.0.0.1 {master.port}"))
            for _ in range(2)
        ]
        watching = {
            "requirepass": PASSWORD,
            "sentinel sentinel-pass": PASSWORD,
            f"sentinel monitor {SERVICE}": f"127.0.0.1 {master.port} 2",
            f"sentinel auth-user {SERVICE}": "sentinel",
            f"sentinel auth-pass {SERVICE}": PASSWORD,
            f"sentinel down-after-milliseconds {SERVICE}": str(DOWN_AFTER),
            f"sentinel failover-timeout {SERVICE}": "4000",
        }
        sentinels = [
            await stack.enter_async_context(run_server(Sentinel, watching)) for _ in range(3)
        ]
        made = SentinelDeployment([master, *replicas], sentinels)
        await made.wait_until_in_sync()
        yield made
