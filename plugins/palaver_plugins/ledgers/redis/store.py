"""Store: runs scripts and commands where their partition lives, and puts in order what a server
has forgotten.

All is on one server, unless that is a node of a Redis Cluster: then it says of a partition that it
has MOVED, and the store follows.
"""

import asyncio
import secrets
from collections.abc import Callable

from hiredis import ReplyError

from palaver.errors import ConfigurationError, LedgerUnavailable
from palaver.ledger import Guarantee, Hint
from palaver_plugins.ledgers.redis import checks
from palaver_plugins.ledgers.redis.entries import refusal
from palaver_plugins.ledgers.redis.keys import Keys, Partition
from palaver_plugins.ledgers.redis.link import Address, Link, parse_address
from palaver_plugins.ledgers.redis.scripts import Script, load_scripts
from palaver_plugins.ledgers.redis.settings import RedisLedgerSettings
from palaver_plugins.ledgers.redis.watch import Watchers, Work
from palaver_plugins.ledgers.redis.wire import Reply, Wire, pack

TRIES = 4
"""Times that a command is sent when the server has forgotten what it needs, or has moved it."""
NO_ENTRY = ("WRONGPASS", "NOAUTH", "NOPERM")

Word = str | bytes | int


class Store:
    """The connections of one process, with what it must tell every new server again."""

    def __init__(self, settings: RedisLedgerSettings, keys: Keys) -> None:
        self.work = Work()
        self._settings = settings
        self._keys = keys
        self._queues = {partition.queue.encode() for partition in keys.partitions}
        self._watchers = Watchers()
        self._scripts: dict[str, Script] = {}
        self._main: Link | None = None
        self._links: dict[Address, Link] = {}
        self._moved: dict[int, Link] = {}
        self._moving = asyncio.Lock()

    async def open(self) -> None:
        """Connect and check. Raises `ConfigurationError` and `LedgerUnavailable`."""
        self._scripts = await asyncio.to_thread(load_scripts)
        address = parse_address(await asyncio.to_thread(self._settings.url.reveal))
        try:
            self._main = await self._connect(address)
            await self._check_partitions()
        except LedgerUnavailable as error:
            await self.close()
            if any(word in str(error) for word in NO_ENTRY):
                raise ConfigurationError(f"{error}; see ledger.redis.url") from error
            raise
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        links, self._main = list(self._links.values()), None
        self._links.clear()
        self._moved.clear()
        for link in links:
            await link.close()

    async def ready(self) -> None:
        """Return while there is a connection. Raises `LedgerUnavailable`."""
        await self._first().ready()

    async def run(
        self, name: str, partition: Partition, keys: tuple[str, ...], *arguments: Word
    ) -> Reply:
        """Run a script. Raises the error that its refusal means, and `LedgerUnavailable`."""
        self._first()
        script = self._scripts[name]
        command = pack("EVALSHA", script.sha, len(keys), *keys, *arguments)
        return await self._send(partition, command, name)

    async def command(self, partition: Partition, *words: Word) -> Reply:
        """Run a command that is safe to be applied twice. Raises like `run`."""
        return await self._send(partition, pack(*words), str(words[0]))

    async def watch(self, channel: bytes, hint: Hint) -> Callable[[], None]:
        """Call ``hint`` on what is published to ``channel``, and when messages may be lost."""
        link = self._first()
        remove = self._watchers.add(channel, hint)

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
        self._first()
        found = [await checks.inspect(link.call) for link in tuple(self._links.values())]
        return checks.describe(found, self._settings.replicas)

    async def _send(self, partition: Partition, command: bytes, what: str) -> Reply:
        for _ in range(TRIES):
            link = self._moved.get(partition.number) or self._first()
            try:
                reply = await link.call(command)
            except LedgerUnavailable:
                self._moved.pop(partition.number, None)  # ask the first node anew
                raise
            if type(reply) is not ReplyError:
                return reply
            if not await self._repair(str(reply), partition, link):
                break
        raise refusal(str(reply), what)

    async def _repair(self, problem: str, partition: Partition, link: Link) -> bool:
        """Whether the command may be sent again."""
        code, _, place = problem.partition(" ")
        if code == "NOSCRIPT":
            for script in self._scripts.values():
                link.check(await link.call(pack("SCRIPT", "LOAD", script.source)))
        elif code == "NOLIFE":
            run = _run_id(link.check(await link.call(pack("INFO", "server"))))
            link.check(await link.call(self._attestation(partition, run)))
            self._tell_all()
        elif code == "MOVED":
            self._moved[partition.number] = await self._connect(_moved_to(link.address, place))
        else:
            return False
        return True

    async def _connect(self, address: Address) -> Link:
        """The link to a server, made and checked when there is none."""
        async with self._moving:
            if link := self._links.get(address):
                return link
            link = self._links[address] = Link(
                address,
                greet=self._greet,
                push=self._heard,
                connect_timeout=self._settings.connect_timeout,
                command_timeout=self._settings.command_timeout,
                replicas=self._settings.replicas,
            )
            try:
                await link.start()
                server = await checks.inspect(link.call)
                checks.refuse(server, str(address), self._settings.allow_weak_durability)
            except BaseException:
                self._links.pop(address, None)
                await link.close()
                raise
            return link

    async def _check_partitions(self) -> None:
        partition, wanted = self._keys.partitions[0], len(self._keys.partitions)
        await self.command(partition, "HSETNX", partition.state, "partitions", wanted)
        found = int(await self.command(partition, "HGET", partition.state, "partitions"))
        if found != wanted:
            raise ConfigurationError(
                f"the keys under {self._settings.prefix!r} in Redis at {self._first().address} "
                f"are spread over {found} partitions: set ledger.redis.partitions = {found}"
            )

    async def _greet(self, link: Link, wire: Wire) -> None:
        """Make a new connection fit for use; then everybody looks for what they missed."""
        run = _run_id(link.check(await wire.send(pack("INFO", "server"))))
        sent = [wire.send(pack("SCRIPT", "LOAD", s.source)) for s in self._scripts.values()]
        attested = [
            wire.send(self._attestation(partition, run)) for partition in self._keys.partitions
        ]
        if link is self._main or self._main is None:  # a Cluster publishes on every node
            channels = (*self._queues, *self._watchers.channels)
            sent += [wire.send(pack("SUBSCRIBE", channel)) for channel in channels]
        for future in sent:
            link.check(await future)
        for future in attested:
            reply = await future
            if not str(reply).startswith("MOVED"):
                link.check(reply)
        self._tell_all()

    def _attestation(self, partition: Partition, run: str) -> bytes:
        source = self._scripts["attest"].source
        return pack("EVAL", source, 1, partition.state, run, secrets.token_hex(6))

    def _heard(self, channel: bytes, payload: bytes) -> None:
        if channel in self._queues:
            self.work.tell()
        else:
            self._watchers.tell(channel, payload)

    def _tell_all(self) -> None:
        self._watchers.tell_all()
        self.work.tell()

    def _first(self) -> Link:
        if self._main is None:
            raise LedgerUnavailable("the Redis ledger is not open")
        return self._main


def _run_id(info: bytes) -> str:
    return checks.field_of(info.decode("utf-8", "replace"), "run_id")


def _moved_to(address: Address, place: str) -> Address:
    """Where ``MOVED <slot> <host>:<port>``, said by ``address``, points."""
    host, _, port = place.rpartition(" ")[2].rpartition(":")
    return address._replace(host=host or address.host, port=int(port))
