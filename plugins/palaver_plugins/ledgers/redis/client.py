"""Client of the Redis ledger: sends scripts and commands to the node of their partition, and
recovers from redirections, failovers and lost scripts."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from hiredis import ReplyError

from palaver import (
    ConfigurationError,
    Guarantee,
    LedgerUnavailable,
    OnChange,
    PalaverError,
    StoredEvent,
)
from palaver_plugins.ledgers.redis import checks, permissions
from palaver_plugins.ledgers.redis.address import Address, Target, parse_target
from palaver_plugins.ledgers.redis.connection import Connection, RedisReply, pack
from palaver_plugins.ledgers.redis.encoding import error_from_reply
from palaver_plugins.ledgers.redis.guarantee import Deployment
from palaver_plugins.ledgers.redis.keys import Keys, Partition
from palaver_plugins.ledgers.redis.node_client import RECONNECT_INTERVAL, Locate, NodeClient
from palaver_plugins.ledgers.redis.node_pool import NodePool, SeedAddresses
from palaver_plugins.ledgers.redis.scripts import Script, load_scripts
from palaver_plugins.ledgers.redis.sentinel import Sentinels
from palaver_plugins.ledgers.redis.settings import RedisLedgerSettings
from palaver_plugins.ledgers.redis.work_signal import WorkSignal
from palaver_plugins.ledgers.watchers import Watchers

MAX_ATTEMPTS = 12
"""Times that a command is sent after recoverable errors: enough to wait for about a second."""
WRONG_NODE_ERRORS = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
"""Errors of a Cluster's node for a partition that it does not have."""
ASKING = pack("ASKING")
UNREPLICATED = frozenset(
    "read snapshot read_steering count_unsettled export export_pending "
    "export_dead_letters "
    "HGET HGETALL HMGET PERSIST PEXPIRE SMEMBERS TIME ZRANGE".split()
)
"""Scripts and commands that write nothing, or nothing that must survive a failover."""

Argument = str | bytes | int
_decode_events = msgspec.json.Decoder(tuple[StoredEvent, ...]).decode


class Route(NamedTuple):
    """Node for a command; ``asking`` while the partition migrates there."""

    node: NodeClient
    asking: bool = False


class RedisClient:
    """Node clients of one process, with the scripts and subscriptions that each server needs."""

    load_scripts = staticmethod(load_scripts)

    def __init__(self, settings: RedisLedgerSettings, keys: Keys) -> None:
        self.work = WorkSignal()
        self.owner_id = secrets.token_hex(8)
        """Id under which this process holds claims; see ``claim.lua``."""
        self._settings = settings
        self._keys = keys
        self._queues = {partition.queue.encode() for partition in keys.partitions}
        self._watchers = Watchers[bytes]()
        self._scripts: dict[str, Script] = {}
        self._target: Target
        self._sentinels: Sentinels | None = None
        self._nodes: NodePool | None = None
        self._read_only = False
        self._run_ids: dict[Address, str] = {}
        """Run id of each server's process."""

    async def open(self, *, read_only: bool = False) -> None:
        """Connect and check. Raises `ConfigurationError` and `LedgerUnavailable`.

        ``read_only``: write nothing, so that only checks work afterwards.
        """
        self._read_only = read_only
        self._scripts = await asyncio.to_thread(self.load_scripts)
        target = self._parse_target(await asyncio.to_thread(self._settings.url.reveal))
        seeds = SeedAddresses(target.addresses)
        locate: Locate = seeds.locate
        if target.kind == "sentinel":
            password = self._settings.sentinel_password
            self._sentinels = Sentinels(
                target,
                await asyncio.to_thread(password.reveal) if password else "",
                connect_timeout=self._settings.connect_timeout,
                command_timeout=self._settings.command_timeout,
            )
            self._sentinels.start_in_background()
            locate = self._sentinels.locate
        self._target, self._nodes = target, NodePool(locate, seeds, self._make_node)
        try:
            await self._connect_first(self._nodes.first, len(target.addresses))
            await self._check_partitions()
        except BaseException as error:
            await self.close()
            if isinstance(error.__cause__, ConfigurationError):  # at another node of a Cluster
                raise error.__cause__ from None
            raise

    @staticmethod
    def _parse_target(url: str) -> Target:
        try:
            return parse_target(url)
        except ValueError as error:
            raise ConfigurationError(f"ledger.redis.url: {error}") from None

    async def _connect_first(self, first: NodeClient, addresses: int) -> None:
        """Try each address once."""
        for remaining in reversed(range(addresses)):
            try:
                await first.start()
                return
            except LedgerUnavailable:
                if not remaining:
                    raise

    async def close(self) -> None:
        nodes, self._nodes = self._nodes, None
        if nodes is not None:
            await nodes.close()
        if self._sentinels is not None:
            await self._sentinels.close()

    async def wait_until_connected(self) -> None:
        """Return when there is a connection. Raises `LedgerUnavailable`."""
        await self._open_nodes().first.wait_until_connected()

    async def run(
        self, name: str, partition: Partition, keys: tuple[str, ...], *arguments: Argument
    ) -> RedisReply:
        """Run a script. Raises the exception for its error reply, and `LedgerUnavailable`."""
        self._open_nodes()
        script = self._scripts[name]
        command = pack(
            "EVALSHA", script.sha, len(keys) + 1, *keys, partition.absent_key, *arguments
        )
        return await self._send(partition, command, name)

    async def command(self, partition: Partition, *words: Argument) -> RedisReply:
        """Run an idempotent command. Raises like `run`."""
        return await self._send(partition, pack(*words), str(words[0]))

    async def watch(self, channel: bytes, on_change: OnChange) -> Callable[[], None]:
        """Call ``on_change`` for messages on ``channel``, and when messages may have been lost."""
        node = self._open_nodes().first
        remove = self._watchers.add(channel, on_change)

        def unwatch() -> None:
            remove()
            if channel not in self._watchers:
                node.send_without_reply(pack("UNSUBSCRIBE", channel))

        try:
            node.check_reply(await node.send(pack("SUBSCRIBE", channel)))
        except BaseException:
            unwatch()
            raise
        return unwatch

    async def guarantee(self) -> Guarantee:
        """Describe the promises of the servers in use."""
        nodes = self._open_nodes()
        if self._sentinels is not None:
            with contextlib.suppress(PalaverError):  # this counts the reachable ones
                await self._sentinels.locate()
        servers = {}
        for node in {nodes.node_for(partition) for partition in self._keys.partitions}:
            servers[node.connected_address] = await checks.inspect(node.send, node.check_reply)
        check = self._permission_check(permissions.DANGEROUS)
        denied = permissions.parse_denied(nodes.first.check_reply(await nodes.first.send(check)))
        return Deployment(
            servers=servers,
            replicas=self._settings.replicas,
            sentinels=self._sentinels,
            excess_commands=permissions.DANGEROUS - denied,
        ).describe()

    # Sending

    async def _send(self, partition: Partition, command: bytes, what: str) -> RedisReply:
        marker = self._replication_marker(partition) if what not in UNREPLICATED else ()
        route = Route(self._open_nodes().node_for(partition))
        for _ in range(MAX_ATTEMPTS):
            preface = (*marker, ASKING) if route.asking else marker
            reply = await route.node.send(command, preface=preface)
            if type(reply) is not ReplyError:
                return reply
            next_route = await self._next_route(str(reply), partition, route)
            if next_route is None:
                break
            route = next_route
        if str(reply).startswith("CLUSTERDOWN"):
            self._open_nodes().first.disconnect_if_settled("its Cluster is down")
        raise error_from_reply(str(reply), what)

    def _replication_marker(self, partition: Partition) -> tuple[bytes, ...]:
        """Return a write after which WAIT waits for all earlier writes of all connections.

        Since 7.2 it waits only for writes of its own connection, and a repeated write changes
        nothing, although the replicas may not have the first one.
        """
        if not self._settings.replicas:
            return ()
        return (pack("HSET", partition.state, "replication_marker", 1),)

    async def _next_route(self, problem: str, partition: Partition, route: Route) -> Route | None:
        """Recover from an error. Return the route for another attempt, or None."""
        nodes, node = self._open_nodes(), route.node
        code, _, location = problem.partition(" ")
        match code:
            case "NOSCRIPT":
                for script in self._scripts.values():
                    node.check_reply(await node.send(pack("SCRIPT", "LOAD", script.source)))
            case "NOEPOCH":
                node.check_reply(await self._register_run(partition, node))
                self._notify_all()
            case "MOVED":
                target = nodes.node_at(location, node)
                await nodes.assign(partition, target)
                await self._register_run(partition, target)
                return Route(target)
            case "ASK":
                return Route(nodes.node_at(location, node), asking=True)
            case "TRYAGAIN" | "CLUSTERDOWN":
                await asyncio.sleep(RECONNECT_INTERVAL)
                return Route(nodes.node_for(partition))
            case "READONLY" | "MASTERDOWN":
                node.disconnect("the server became a replica")
            case _:
                if code == "NOREPLICAS" and self._sentinels is not None:
                    node.recheck_address()  # the replicas may follow another master
                return None
        return route

    # New connections and new servers

    def _make_node(self, locate: Locate) -> NodeClient:
        return NodeClient(
            locate,
            on_connect=self._prepare_connection,
            on_publish=self._on_publish,
            connect_timeout=self._settings.connect_timeout,
            command_timeout=self._settings.command_timeout,
            replicas=self._settings.replicas,
            confirm_master=self._sentinels.confirm_master if self._sentinels is not None else None,
        )

    async def _prepare_connection(self, node: NodeClient, connection: Connection) -> None:
        """Check the server, load scripts and subscribe; then make every watcher read."""
        server = await checks.inspect(connection.send, node.check_reply)
        checks.refuse(server, str(node.connected_address), self._settings.allow_weak_durability)
        if self._target.kind == "cluster" and not server.clustered:
            raise ConfigurationError(
                f"Redis at {node.connected_address} is no Cluster node; see ledger.redis.url"
            )
        await self._check_permissions(node, connection, server.clustered)
        self._run_ids[node.connected_address] = server.run_id
        if self._read_only:
            return
        sent = [connection.send(pack("SCRIPT", "LOAD", s.source)) for s in self._scripts.values()]
        registrations = [
            connection.send(self._registration(partition, server.run_id))
            for partition in self._keys.partitions
        ]
        channels = [
            f"{partition.owner_channel_prefix}{self.owner_id}".encode()
            for partition in self._keys.partitions
        ]
        if node is self._open_nodes().first:  # every node of a Cluster publishes; one is enough
            channels += (*self._queues, *self._watchers)
        sent += [connection.send(pack("SUBSCRIBE", channel)) for channel in channels]
        for future in sent:
            node.check_reply(await future)
        for future in registrations:
            reply = await future
            if not str(reply).startswith(WRONG_NODE_ERRORS):
                node.check_reply(reply)
        self._notify_all()

    async def _check_permissions(
        self, node: NodeClient, connection: Connection, clustered: bool
    ) -> None:
        needed = permissions.required_commands(self._scripts.values()) - permissions.OPTIONAL
        if self._settings.replicas:
            needed |= {"wait"}
        if clustered:
            needed |= {"asking"}
        reply = await connection.send(self._permission_check(needed))
        denied = permissions.parse_denied(node.check_reply(reply))
        address = node.connected_address
        permissions.refuse(denied, str(address), address.username, self._settings.prefix)

    def _permission_check(self, commands: frozenset[str]) -> bytes:
        return permissions.pack_check(
            self._scripts["permissions"], self._keys.partitions[0].queue, commands
        )

    async def _check_partitions(self) -> None:
        """Check that all servers use the same number of partitions, and find the node of each."""
        partition, wanted = self._keys.partitions[0], len(self._keys.partitions)
        found = await self.command(partition, "HGET", partition.state, "partitions")
        if found is None and not self._read_only:  # a full Redis refuses it, and lets others start
            await self.command(partition, "HSETNX", partition.state, "partitions", wanted)
            found = await self.command(partition, "HGET", partition.state, "partitions")
        if (stored := int(found or wanted)) != wanted:
            raise ConfigurationError(
                f"the keys under {self._settings.prefix!r} in Redis at {self._target} "
                f"are spread over {stored} partitions: set ledger.redis.partitions = {stored}"
            )
        for partition in self._keys.partitions:
            await self.command(partition, "HGET", partition.state, "epoch")

    async def _register_run(self, partition: Partition, node: NodeClient) -> RedisReply:
        await node.wait_until_connected()
        return await node.send(self._registration(partition, self._run_ids[node.connected_address]))

    def _registration(self, partition: Partition, run_id: str) -> bytes:
        source = self._scripts["register_run"].source
        retention = round(self._settings.retention_seconds * 1000)
        return pack("EVAL", source, 1, partition.state, run_id, secrets.token_hex(6), retention)

    # Notifications

    def _on_publish(self, channel: bytes, payload: bytes) -> None:
        if channel in self._queues:
            self.work.set()
        elif channel in self._watchers:
            self._watchers.notify(channel, _decode_events(payload))

    def _notify_all(self) -> None:
        self._watchers.notify_all()
        self.work.set()

    def _open_nodes(self) -> NodePool:
        if self._nodes is None:
            raise LedgerUnavailable("the Redis ledger is not open")
        return self._nodes
