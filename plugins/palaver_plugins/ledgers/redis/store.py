"""Store: runs scripts and commands where their partition lives, and puts in order what a server
has forgotten, has moved, or may not do any more."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import NamedTuple

from hiredis import ReplyError

from palaver import ConfigurationError, Guarantee, LedgerUnavailable, OnChange, PalaverError
from palaver_plugins.ledgers.redis import checks, rights
from palaver_plugins.ledgers.redis.address import Address, Target, parse_target
from palaver_plugins.ledgers.redis.entries import refusal
from palaver_plugins.ledgers.redis.guarantee import Standing
from palaver_plugins.ledgers.redis.keys import Keys, Partition
from palaver_plugins.ledgers.redis.link import PAUSE, Link, Locate
from palaver_plugins.ledgers.redis.nodes import Nodes, Seeds
from palaver_plugins.ledgers.redis.scripts import Script, load_scripts
from palaver_plugins.ledgers.redis.sentinel import Sentinels
from palaver_plugins.ledgers.redis.settings import RedisLedgerSettings
from palaver_plugins.ledgers.redis.watch import Watchers, Work
from palaver_plugins.ledgers.redis.wire import Reply, Wire, pack

TRIES = 12
"""Times that a command is sent when a server has forgotten what it needs, moves it or has moved
it: enough to wait for about a second."""
ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
"""What a node of a Cluster says of a partition that is not its own now."""
ASKING = pack("ASKING")
UNCONFIRMED = frozenset(
    "read snapshot steering unsettled export export_letters "
    "HGET HGETALL HLEN HMGET PERSIST PEXPIRE SMEMBERS TIME ZRANGE".split()
)
"""Scripts and commands that change nothing, or nothing that must outlive a failover."""

Word = str | bytes | int


class Route(NamedTuple):
    """Where a command is sent, and whether it is asked there for what is on the move."""

    link: Link
    asking: bool = False


class Store:
    """The connections of one process, with what it must tell every new server again."""

    load = staticmethod(load_scripts)

    def __init__(self, settings: RedisLedgerSettings, keys: Keys) -> None:
        self.work = Work()
        self.owner = secrets.token_hex(8)
        """What claims of this process are held under. See claim.lua."""
        self._settings = settings
        self._keys = keys
        self._queues = {partition.queue.encode() for partition in keys.partitions}
        self._watchers = Watchers()
        self._scripts: dict[str, Script] = {}
        self._target: Target
        self._sentinels: Sentinels | None = None
        self._nodes: Nodes | None = None
        self._runs: dict[Address, str] = {}
        """What each server that was greeted called the life of its process."""

    async def open(self) -> None:
        """Connect and check. Raises `ConfigurationError` and `LedgerUnavailable`."""
        self._scripts = await asyncio.to_thread(self.load)
        target = parse_target(await asyncio.to_thread(self._settings.url.reveal))
        seeds = Seeds(target.addresses)
        locate: Locate = seeds.locate
        if target.kind == "sentinel":
            password = self._settings.sentinel_password
            self._sentinels = Sentinels(
                target,
                await asyncio.to_thread(password.reveal) if password else "",
                connect_timeout=self._settings.connect_timeout,
                command_timeout=self._settings.command_timeout,
            )
            self._sentinels.begin()
            locate = self._sentinels.locate
        self._target, self._nodes = target, Nodes(locate, seeds, self._link)
        try:
            await self._begin(self._nodes.first, len(target.addresses))
            await self._check_partitions()
        except BaseException as error:
            await self.close()
            if isinstance(error.__cause__, ConfigurationError):  # of another node of a Cluster
                raise error.__cause__ from None
            raise

    async def _begin(self, first: Link, addresses: int) -> None:
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

    async def ready(self) -> None:
        """Return while there is a connection. Raises `LedgerUnavailable`."""
        await self._opened().first.ready()

    async def run(
        self, name: str, partition: Partition, keys: tuple[str, ...], *arguments: Word
    ) -> Reply:
        """Run a script. Raises the error that its refusal means, and `LedgerUnavailable`."""
        self._opened()
        script = self._scripts[name]
        command = pack("EVALSHA", script.sha, len(keys) + 1, *keys, partition.absent, *arguments)
        return await self._send(partition, command, name)

    async def command(self, partition: Partition, *words: Word) -> Reply:
        """Run a command that is safe to be applied twice. Raises like `run`."""
        return await self._send(partition, pack(*words), str(words[0]))

    async def watch(self, channel: bytes, on_change: OnChange) -> Callable[[], None]:
        """Call ``hint`` on what is published to ``channel``, and when messages may be lost."""
        link = self._opened().first
        remove = self._watchers.add(channel, on_change)

        def unwatch() -> None:
            if remove():
                link.post(pack("UNSUBSCRIBE", channel))

        try:
            link.check(await link.call(pack("SUBSCRIBE", channel)))
        except BaseException:
            unwatch()
            raise
        return unwatch

    async def guarantee(self) -> Guarantee:
        """What the servers promise that are in use now."""
        nodes = self._opened()
        if self._sentinels is not None:
            with contextlib.suppress(PalaverError):  # it knows afterwards how many answered
                await self._sentinels.locate()
        servers = {}
        for link in {nodes.home(partition) for partition in self._keys.partitions}:
            servers[link.place] = await checks.inspect(link.call, link.check)
        question = self._question(rights.DANGEROUS)
        forbidden = rights.answer(nodes.first.check(await nodes.first.call(question)))
        return Standing(
            servers=servers,
            replicas=self._settings.replicas,
            sentinels=self._sentinels,
            excess=rights.DANGEROUS - forbidden,
        ).describe()

    # Sending

    async def _send(self, partition: Partition, command: bytes, what: str) -> Reply:
        cover = self._cover(partition) if what not in UNCONFIRMED else ()
        route = Route(self._opened().home(partition))
        for _ in range(TRIES):
            preface = (*cover, ASKING) if route.asking else cover
            reply = await route.link.call(command, preface=preface)
            if type(reply) is not ReplyError:
                return reply
            again = await self._repair(str(reply), partition, route)
            if again is None:
                break
            route = again
        if str(reply).startswith("CLUSTERDOWN"):
            self._opened().first.leave("its Cluster is down")
        raise refusal(str(reply), what)

    def _cover(self, partition: Partition) -> tuple[bytes, ...]:
        """What makes WAIT count all that was written before, by whomever. Since 7.2 it counts only
        what its own connection has written; and a repeated write changes nothing, though perhaps
        no replica has what the first one wrote."""
        if not self._settings.replicas:
            return ()
        return (pack("HSET", partition.state, "covered", 1),)

    async def _repair(self, problem: str, partition: Partition, route: Route) -> Route | None:
        """Where the command may be sent again, or None."""
        nodes, link = self._opened(), route.link
        code, _, place = problem.partition(" ")
        match code:
            case "NOSCRIPT":
                for script in self._scripts.values():
                    link.check(await link.call(pack("SCRIPT", "LOAD", script.source)))
            case "NOLIFE":
                link.check(await self._attest(partition, link))
                self._tell_all()
            case "MOVED":
                home = nodes.at(place, link)
                await nodes.move(partition, home)
                await self._attest(partition, home)
                return Route(home)
            case "ASK":
                return Route(nodes.at(place, link), asking=True)
            case "TRYAGAIN" | "CLUSTERDOWN":
                await asyncio.sleep(PAUSE)
                return Route(nodes.home(partition))
            case "READONLY" | "MASTERDOWN":
                link.drop("it became a replica")
            case _:
                if code == "NOREPLICAS" and self._sentinels is not None:
                    link.suspect()  # they may all follow another master
                return None
        return route

    # Servers that are new, or that were set back

    def _link(self, locate: Locate) -> Link:
        return Link(
            locate,
            greet=self._greet,
            push=self._heard,
            connect_timeout=self._settings.connect_timeout,
            command_timeout=self._settings.command_timeout,
            replicas=self._settings.replicas,
            doubt=self._sentinels.doubt if self._sentinels is not None else None,
        )

    async def _greet(self, link: Link, wire: Wire) -> None:
        """Make a new connection fit for use; then everybody looks for what they missed."""
        server = await checks.inspect(wire.send, link.check)
        checks.refuse(server, str(link.place), self._settings.allow_weak_durability)
        if self._target.kind == "cluster" and not server.clustered:
            raise ConfigurationError(
                f"Redis at {link.place} is no node of a Cluster; see ledger.redis.url"
            )
        await self._check_rights(link, wire, server.clustered)
        self._runs[link.place] = server.run
        sent = [wire.send(pack("SCRIPT", "LOAD", s.source)) for s in self._scripts.values()]
        attested = [
            wire.send(self._attestation(partition, server.run))
            for partition in self._keys.partitions
        ]
        channels = [
            f"{partition.owners}{self.owner}".encode() for partition in self._keys.partitions
        ]
        if link is self._opened().first:  # a Cluster publishes on every node, and counts on one
            channels += (*self._queues, *self._watchers.channels)
        sent += [wire.send(pack("SUBSCRIBE", channel)) for channel in channels]
        for future in sent:
            link.check(await future)
        for future in attested:
            reply = await future
            if not str(reply).startswith(ELSEWHERE):
                link.check(reply)
        self._tell_all()

    async def _check_rights(self, link: Link, wire: Wire, clustered: bool) -> None:
        needed = rights.needed(self._scripts.values()) - rights.UNUSUAL
        if self._settings.replicas:
            needed |= {"wait"}
        if clustered:
            needed |= {"asking"}
        lacking = rights.answer(link.check(await wire.send(self._question(needed))))
        rights.refuse(lacking, str(link.place), link.place.username, self._settings.prefix)

    def _question(self, commands: frozenset[str]) -> bytes:
        return rights.question(self._scripts["rights"], self._keys.partitions[0].queue, commands)

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

    async def _attest(self, partition: Partition, link: Link) -> Reply:
        await link.ready()
        return await link.call(self._attestation(partition, self._runs[link.place]))

    def _attestation(self, partition: Partition, run: str) -> bytes:
        source = self._scripts["attest"].source
        retention = round(self._settings.retention * 1000)
        return pack("EVAL", source, 1, partition.state, run, secrets.token_hex(6), retention)

    # News

    def _heard(self, channel: bytes, payload: bytes) -> None:
        if channel in self._queues:
            self.work.tell()
        else:
            self._watchers.tell(channel, payload)

    def _tell_all(self) -> None:
        self._watchers.tell_all()
        self.work.tell()

    def _opened(self) -> Nodes:
        if self._nodes is None:
            raise LedgerUnavailable("the Redis ledger is not open")
        return self._nodes
