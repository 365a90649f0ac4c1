"""Store: runs scripts and commands where their partition lives, and puts in order what a server
has forgotten, has moved, or may not do any more."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import NamedTuple

from hiredis import ReplyError

from palaver import ConfigurationError, Guarantee, LedgerUnavailable, OnChange, PalaverError
from palaver_plugins.ledgers.redis import checks, permissions
from palaver_plugins.ledgers.redis.address import Address, Target, parse_target
from palaver_plugins.ledgers.redis.connection import Connection, RedisReply, pack
from palaver_plugins.ledgers.redis.encoding import error_from_reply
from palaver_plugins.ledgers.redis.guarantee import Deployment
from palaver_plugins.ledgers.redis.keys import Keys, Partition
from palaver_plugins.ledgers.redis.node_client import RECONNECT_INTERVAL, Locate, NodeClient
from palaver_plugins.ledgers.redis.node_pool import NodePool, SeedAddresses
from palaver_plugins.ledgers.redis.notifications import WatchRegistry, WorkSignal
from palaver_plugins.ledgers.redis.scripts import Script, load_scripts
from palaver_plugins.ledgers.redis.sentinel import Sentinels
from palaver_plugins.ledgers.redis.settings import RedisLedgerSettings

MAX_ATTEMPTS = 12
"""Times that a command is sent when a server has forgotten what it needs, moves it or has moved
it: enough to wait for about a second."""
WRONG_NODE_ERRORS = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
"""What a node of a Cluster says of a partition that is not its own now."""
ASKING = pack("ASKING")
UNREPLICATED = frozenset(
    "read snapshot steering export export_letters "
    "HGET HGETALL HLEN HMGET PERSIST PEXPIRE SMEMBERS TIME ZRANGE".split()
)
"""Scripts and commands that change nothing, or nothing that must outlive a failover."""

Argument = str | bytes | int


class Route(NamedTuple):
    """Where a command is sent, and whether it is asked there for what is on the move."""

    node: NodeClient
    asking: bool = False


class RedisClient:
    """The connections of one process, with what it must tell every new server again."""

    load_scripts = staticmethod(load_scripts)

    def __init__(self, settings: RedisLedgerSettings, keys: Keys) -> None:
        self.work = WorkSignal()
        self.owner_id = secrets.token_hex(8)
        """What claims of this process are held under. See claim.lua."""
        self._settings = settings
        self._keys = keys
        self._queues = {partition.queue.encode() for partition in keys.partitions}
        self._watchers = WatchRegistry()
        self._scripts: dict[str, Script] = {}
        self._target: Target
        self._sentinels: Sentinels | None = None
        self._nodes: NodePool | None = None
        self._run_ids: dict[Address, str] = {}
        """What each server that was greeted called the life of its process."""

    async def open(self) -> None:
        """Connect and check. Raises `ConfigurationError` and `LedgerUnavailable`."""
        self._scripts = await asyncio.to_thread(self.load_scripts)
        target = parse_target(await asyncio.to_thread(self._settings.url.reveal))
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
            if isinstance(error.__cause__, ConfigurationError):  # of another node of a Cluster
                raise error.__cause__ from None
            raise

    async def _connect_first(self, first: NodeClient, addresses: int) -> None:
        for left in reversed(range(addresses)):
            try:
                await first.start()
                return
            except LedgerUnavailable:
                if not left:
                    raise

    async def close(self) -> None:
        nodes, self._nodes = self._nodes, None
        if nodes is not None:
            await nodes.close()
        if self._sentinels is not None:
            await self._sentinels.close()

    async def wait_until_connected(self) -> None:
        """Return while there is a connection. Raises `LedgerUnavailable`."""
        await self._open_nodes().first.wait_until_connected()

    async def run(
        self, name: str, partition: Partition, keys: tuple[str, ...], *arguments: Argument
    ) -> RedisReply:
        """Run a script. Raises the error that its refusal means, and `LedgerUnavailable`."""
        self._open_nodes()
        script = self._scripts[name]
        command = pack(
            "EVALSHA", script.sha, len(keys) + 1, *keys, partition.absent_key, *arguments
        )
        return await self._send(partition, command, name)

    async def command(self, partition: Partition, *words: Argument) -> RedisReply:
        """Run a command that is safe to be applied twice. Raises like `run`."""
        return await self._send(partition, pack(*words), str(words[0]))

    async def watch(self, channel: bytes, on_change: OnChange) -> Callable[[], None]:
        """Call ``hint`` on what is published to ``channel``, and when messages may be lost."""
        link = self._open_nodes().first
        remove = self._watchers.add(channel, on_change)

        def unwatch() -> None:
            if remove():
                link.send_without_reply(pack("UNSUBSCRIBE", channel))

        try:
            link.check_reply(await link.send(pack("SUBSCRIBE", channel)))
        except BaseException:
            unwatch()
            raise
        return unwatch

    async def guarantee(self) -> Guarantee:
        """What the servers promise that are in use now."""
        nodes = self._open_nodes()
        if self._sentinels is not None:
            with contextlib.suppress(PalaverError):  # it knows afterwards how many answered
                await self._sentinels.locate()
        servers = {}
        for link in {nodes.node_for(partition) for partition in self._keys.partitions}:
            servers[link.connected_address] = await checks.inspect(link.send, link.check_reply)
        question = self._permission_check(permissions.DANGEROUS)
        forbidden = permissions.parse_denied(
            nodes.first.check_reply(await nodes.first.send(question))
        )
        return Deployment(
            servers=servers,
            replicas=self._settings.replicas,
            sentinels=self._sentinels,
            excess_commands=permissions.DANGEROUS - forbidden,
        ).describe()

    # Sending

    async def _send(self, partition: Partition, command: bytes, what: str) -> RedisReply:
        cover = self._replication_marker(partition) if what not in UNREPLICATED else ()
        route = Route(self._open_nodes().node_for(partition))
        for _ in range(MAX_ATTEMPTS):
            preface = (*cover, ASKING) if route.asking else cover
            reply = await route.node.send(command, preface=preface)
            if type(reply) is not ReplyError:
                return reply
            again = await self._next_route(str(reply), partition, route)
            if again is None:
                break
            route = again
        if str(reply).startswith("CLUSTERDOWN"):
            self._open_nodes().first.disconnect_if_settled("its Cluster is down")
        raise error_from_reply(str(reply), what)

    def _replication_marker(self, partition: Partition) -> tuple[bytes, ...]:
        """What makes WAIT count all that was written before, by whomever. Since 7.2 it counts only
        what its own connection has written; and a repeated write changes nothing, though perhaps
        no replica has what the first one wrote."""
        if not self._settings.replicas:
            return ()
        return (pack("HSET", partition.state, "covered", 1),)

    async def _next_route(self, problem: str, partition: Partition, route: Route) -> Route | None:
        """Where the command may be sent again, or None."""
        nodes, link = self._open_nodes(), route.node
        code, _, place = problem.partition(" ")
        match code:
            case "NOSCRIPT":
                for script in self._scripts.values():
                    link.check_reply(await link.send(pack("SCRIPT", "LOAD", script.source)))
            case "NOLIFE":
                link.check_reply(await self._register_run(partition, link))
                self._notify_all()
            case "MOVED":
                home = nodes.node_at(place, link)
                await nodes.assign(partition, home)
                await self._register_run(partition, home)
                return Route(home)
            case "ASK":
                return Route(nodes.node_at(place, link), asking=True)
            case "TRYAGAIN" | "CLUSTERDOWN":
                await asyncio.sleep(RECONNECT_INTERVAL)
                return Route(nodes.node_for(partition))
            case "READONLY" | "MASTERDOWN":
                link.disconnect("it became a replica")
            case _:
                if code == "NOREPLICAS" and self._sentinels is not None:
                    link.recheck_address()  # they may all follow another master
                return None
        return route

    # Servers that are new, or that were set back

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

    async def _prepare_connection(self, link: NodeClient, wire: Connection) -> None:
        """Make a new connection fit for use; then everybody looks for what they missed."""
        server = await checks.inspect(wire.send, link.check_reply)
        checks.refuse(server, str(link.connected_address), self._settings.allow_weak_durability)
        if self._target.kind == "cluster" and not server.clustered:
            raise ConfigurationError(
                f"Redis at {link.connected_address} is no node of a Cluster; see ledger.redis.url"
            )
        await self._check_permissions(link, wire, server.clustered)
        self._run_ids[link.connected_address] = server.run_id
        sent = [wire.send(pack("SCRIPT", "LOAD", s.source)) for s in self._scripts.values()]
        attested = [
            wire.send(self._registration(partition, server.run_id))
            for partition in self._keys.partitions
        ]
        channels = [
            f"{partition.owner_channel_prefix}{self.owner_id}".encode()
            for partition in self._keys.partitions
        ]
        if link is self._open_nodes().first:  # a Cluster publishes on every node, and counts on one
            channels += (*self._queues, *self._watchers.channels)
        sent += [wire.send(pack("SUBSCRIBE", channel)) for channel in channels]
        for future in sent:
            link.check_reply(await future)
        for future in attested:
            reply = await future
            if not str(reply).startswith(WRONG_NODE_ERRORS):
                link.check_reply(reply)
        self._notify_all()

    async def _check_permissions(self, link: NodeClient, wire: Connection, clustered: bool) -> None:
        needed = permissions.required_commands(self._scripts.values()) - permissions.OPTIONAL
        if self._settings.replicas:
            needed |= {"wait"}
        if clustered:
            needed |= {"asking"}
        lacking = permissions.parse_denied(
            link.check_reply(await wire.send(self._permission_check(needed)))
        )
        permissions.refuse(
            lacking,
            str(link.connected_address),
            link.connected_address.username,
            self._settings.prefix,
        )

    def _permission_check(self, commands: frozenset[str]) -> bytes:
        return permissions.pack_check(
            self._scripts["rights"], self._keys.partitions[0].queue, commands
        )

    async def _check_partitions(self) -> None:
        """See that all servers count the partitions alike, and visit each."""
        partition, wanted = self._keys.partitions[0], len(self._keys.partitions)
        await self.command(partition, "HSETNX", partition.state, "partitions", wanted)
        found = int(await self.command(partition, "HGET", partition.state, "partitions"))
        if found != wanted:
            raise ConfigurationError(
                f"the keys under {self._settings.prefix!r} in Redis at {self._target} "
                f"are spread over {found} partitions: set ledger.redis.partitions = {found}"
            )
        for partition in self._keys.partitions:
            await self.command(partition, "HGET", partition.state, "life")

    async def _register_run(self, partition: Partition, link: NodeClient) -> RedisReply:
        await link.wait_until_connected()
        return await link.send(self._registration(partition, self._run_ids[link.connected_address]))

    def _registration(self, partition: Partition, run: str) -> bytes:
        source = self._scripts["attest"].source
        retention = round(self._settings.retention_seconds * 1000)
        return pack("EVAL", source, 1, partition.state, run, secrets.token_hex(6), retention)

    # News

    def _on_publish(self, channel: bytes, payload: bytes) -> None:
        if channel in self._queues:
            self.work.set()
        else:
            self._watchers.notify(channel, payload)

    def _notify_all(self) -> None:
        self._watchers.notify_all()
        self.work.set()

    def _open_nodes(self) -> NodePool:
        if self._nodes is None:
            raise LedgerUnavailable("the Redis ledger is not open")
        return self._nodes
