"""Store: runs scripts and commands on one Redis, and puts in order what it has forgotten."""

import asyncio
import secrets
from collections.abc import Callable

from hiredis import ReplyError

from palaver.errors import ConfigurationError, LedgerUnavailable
from palaver.ledger import Hint
from palaver_plugins.ledgers.redis import checks
from palaver_plugins.ledgers.redis.entries import refusal
from palaver_plugins.ledgers.redis.keys import Keys, Partition
from palaver_plugins.ledgers.redis.link import Link, Reply, Wire, pack, parse_address
from palaver_plugins.ledgers.redis.scripts import Script, load_scripts
from palaver_plugins.ledgers.redis.settings import RedisLedgerSettings
from palaver_plugins.ledgers.redis.watch import Watchers, Work

TRIES = 3
"""Times that a script is run when the server has forgotten what it needs."""
NO_ENTRY = ("WRONGPASS", "NOAUTH", "NOPERM", "invalid password")

Word = str | bytes | int


class Store:
    """The connection of one process, with what it must know again on every new server."""

    def __init__(self, settings: RedisLedgerSettings, keys: Keys) -> None:
        self.work = Work()
        self._settings = settings
        self._keys = keys
        self._queues = {partition.queue.encode() for partition in keys.partitions}
        self._watchers = Watchers()
        self._scripts: dict[str, Script] = {}
        self._link: Link | None = None

    async def open(self) -> None:
        """Connect and check. Raises `ConfigurationError` and `LedgerUnavailable`."""
        settings = self._settings
        self._scripts = await asyncio.to_thread(load_scripts)
        url = await asyncio.to_thread(settings.url.reveal)
        link = Link(
            parse_address(url),
            greet=self._greet,
            push=self._heard,
            connect_timeout=settings.connect_timeout,
            command_timeout=settings.command_timeout,
        )
        try:
            await link.start()
        except LedgerUnavailable as error:
            if any(word in str(error) for word in NO_ENTRY):
                raise ConfigurationError(f"{error}; see ledger.redis.url") from error
            raise
        self._link = link
        try:
            await self._check()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._link is not None:
            await self._link.close()
            self._link = None

    async def ready(self) -> None:
        """Return while there is a connection. Raises `LedgerUnavailable`."""
        await self._connected().ready()

    async def run(self, name: str, keys: tuple[str, ...], *arguments: Word) -> Reply:
        """Run a script. Raises the error that its refusal means, and `LedgerUnavailable`."""
        link = self._connected()
        script = self._scripts[name]
        command = pack("EVALSHA", script.sha, len(keys), *keys, *arguments)
        for _ in range(TRIES):
            reply = await link.call(command)
            if type(reply) is not ReplyError:
                return reply
            if not await self._repair(str(reply), script):
                break
        raise refusal(str(reply), name)

    async def command(self, *words: Word) -> Reply:
        """Run a command that is safe to be applied twice. Raises like `run`."""
        reply = await self._connected().call(pack(*words))
        if type(reply) is ReplyError:
            raise refusal(str(reply), str(words[0]))
        return reply

    async def ask(self, *words: Word) -> Reply:
        """The reply to a command, also where it is an error."""
        return await self._connected().call(pack(*words))

    async def watch(self, channel: bytes, hint: Hint) -> Callable[[], None]:
        """Call ``hint`` on what is published to ``channel``, and when messages may be lost."""
        remove = self._watchers.add(channel, hint)

        def unwatch() -> None:
            if remove() and self._link is not None:
                self._link.post(pack("UNSUBSCRIBE", channel))

        try:
            await self.command("SUBSCRIBE", channel)
        except BaseException:
            unwatch()
            raise
        return unwatch

    async def _check(self) -> None:
        address = self._connected().address
        server = await checks.inspect(self.ask)
        checks.refuse(server, str(address), self._settings.allow_weak_durability)
        state, wanted = self._keys.partitions[0].state, len(self._keys.partitions)
        await self.command("HSETNX", state, "partitions", wanted)
        found = int(await self.command("HGET", state, "partitions"))
        if found != wanted:
            raise ConfigurationError(
                f"the keys under {self._settings.prefix!r} in Redis at {address} are spread over "
                f"{found} partitions: set ledger.redis.partitions = {found}"
            )

    async def _greet(self, link: Link, wire: Wire) -> None:
        """Make a new connection fit for use; then everybody looks for what they missed."""
        run = _run_id(link.check(await wire.send(pack("INFO", "server"))))
        sent = [wire.send(pack("SCRIPT", "LOAD", s.source)) for s in self._scripts.values()]
        sent += [wire.send(self._attestation(place, run)) for place in self._keys.partitions]
        for channel in (*self._queues, *self._watchers.channels):
            sent.append(wire.send(pack("SUBSCRIBE", channel)))
        for reply in sent:
            link.check(await reply)
        self._tell_all()

    def _attestation(self, partition: Partition, run: str) -> bytes:
        source = self._scripts["attest"].source
        return pack("EVAL", source, 1, partition.state, run, secrets.token_hex(6))

    async def _repair(self, problem: str, script: Script) -> bool:
        """Whether the command may be tried again: the server had been emptied meanwhile."""
        if problem.startswith("NOSCRIPT"):
            await self.command("SCRIPT", "LOAD", script.source)
            return True
        if problem.startswith("NOLIFE"):
            run = _run_id(await self.command("INFO", "server"))
            for partition in self._keys.partitions:
                await self._connected().call(self._attestation(partition, run))
            self._tell_all()
            return True
        return False

    def _heard(self, channel: bytes, payload: bytes) -> None:
        if channel in self._queues:
            self.work.tell()
        else:
            self._watchers.tell(channel, payload)

    def _tell_all(self) -> None:
        self._watchers.tell_all()
        self.work.tell()

    def _connected(self) -> Link:
        if self._link is None:
            raise LedgerUnavailable("the Redis ledger is not open")
        return self._link


def _run_id(info: bytes) -> str:
    return checks.field_of(info.decode("utf-8", "replace"), "run_id")
