"""Checks: what a given Redis promises, and whether a ledger may stand on it."""

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

from hiredis import ReplyError

from palaver.errors import ConfigurationError, LedgerUnavailable
from palaver.ledger import Guarantee
from palaver_plugins.ledgers.redis.wire import pack

Ask = Callable[[bytes], Awaitable[object]]
"""Sends a packed command and returns its reply, also where that is a `ReplyError`."""

OLDEST = (7, 0)
WEAK = "or set ledger.redis.allow_weak_durability = true to accept the loss"
DIRECTIVES = ("appendonly", "appendfsync", "maxmemory-policy")


class Server(NamedTuple):
    """A Redis server as it is configured; a directive that may not be read is empty."""

    version: str
    appendonly: str
    appendfsync: str
    policy: str
    replicas: int

    @property
    def durable(self) -> bool:
        return (self.appendonly, self.appendfsync) == ("yes", "always")


def field_of(info: str, name: str) -> str:
    """One field of what INFO replied; empty when it is not there."""
    found = re.search(rf"^{name}:(.*?)\r?$", info, re.MULTILINE)
    return found[1] if found else ""


async def inspect(ask: Ask) -> Server:
    """Ask a server what it is. Raises `LedgerUnavailable` when it does not tell."""
    info = ""
    for section in ("server", "replication"):
        reply = await ask(pack("INFO", section))
        if isinstance(reply, ReplyError):
            raise LedgerUnavailable(f"INFO: {reply}", retry_after=1.0)
        info += _text(reply)
    config = await ask(pack("CONFIG", "GET", *DIRECTIVES))
    values: dict[str, str] = {}
    if isinstance(config, dict):
        values = {_text(name): _text(value) for name, value in config.items()}
    appendonly, appendfsync, policy = (values.get(name, "") for name in DIRECTIVES)
    return Server(
        version=field_of(info, "redis_version"),
        appendonly=appendonly,
        appendfsync=appendfsync,
        policy=policy,
        replicas=int(field_of(info, "connected_slaves") or 0),
    )


def refuse(server: Server, where: str, allow_weak: bool) -> None:
    """Raise `ConfigurationError` when a ledger may not stand on ``server``."""
    version = tuple(int(part) for part in re.findall(r"\d+", server.version)[:2])
    if version < OLDEST:
        raise ConfigurationError(
            f"Redis at {where} is version {server.version or 'unknown'}; the ledger needs 7.0"
        )
    if allow_weak:
        return
    if problem := _problem(server):
        raise ConfigurationError(f"Redis at {where} {problem}, {WEAK}")


def _problem(server: Server) -> str:
    """What of a Redis's configuration loses acknowledged writes, and how to put it right."""
    if not (server.appendonly and server.appendfsync and server.policy):
        return (
            "does not let this user read its configuration, so its promises are unknown: "
            "permit it '+config|get'"
        )
    if server.policy != "noeviction":
        return (
            f"has 'maxmemory-policy {server.policy}', which evicts conversations when memory is "
            "short: set 'maxmemory-policy noeviction'"
        )
    if server.appendonly != "yes":
        return (
            "has 'appendonly no', so a crash loses everything since the last snapshot: "
            "set 'appendonly yes' and 'appendfsync always'"
        )
    if server.appendfsync != "always":
        return (
            f"has 'appendfsync {server.appendfsync}', so a crash loses acknowledged writes: "
            "set 'appendfsync always'"
        )
    return ""


def describe(servers: Sequence[Server], replicas: int) -> Guarantee:
    """What ``servers`` promise together, in sentences. ``replicas`` confirm every write."""
    holds = ["Turns of a conversation run one at a time, in the order of their acceptance."]
    if all(server.durable for server in servers):
        holds.append("What was acknowledged is on disk: it survives a crash of Redis or its host.")
    if all(server.policy == "noeviction" for server in servers):
        holds.append("Redis evicts nothing; when its memory is full, messages are refused.")
    if replicas:
        holds.append(
            f"What was acknowledged has reached replicas ({replicas}): a failover to one of them "
            "keeps it."
        )
    lacks = dict.fromkeys(loss for server in servers for loss in _losses(server, replicas))
    return Guarantee(holds=tuple(holds), lacks=tuple(lacks))


def _losses(server: Server, replicas: int) -> Iterator[str]:
    if not server.durable:
        yield LOSSES.get(_weakness(server), LOSSES["unknown"])
    if server.policy not in ("noeviction", ""):
        yield (
            f"With 'maxmemory-policy {server.policy}' any conversation may vanish when memory is "
            "short."
        )
    if server.replicas < replicas:
        yield f"Only {server.replicas} of {replicas} replicas are there: messages are refused."
    elif server.replicas and not replicas:
        yield "A failover to a replica loses what had not reached it."


def _weakness(server: Server) -> str:
    return server.appendfsync if server.appendonly == "yes" else f"appendonly {server.appendonly}"


LOSSES = {
    "no": "With 'appendfsync no' a crash of the host loses what the system had not yet written, "
    "often half a minute.",
    "appendonly no": "Without 'appendonly yes' a crash of Redis loses everything since its "
    "last snapshot.",
    "everysec": "With 'appendfsync everysec' a crash of Redis loses up to a second, in bad cases "
    "two, of acknowledged writes.",
    "unknown": "Redis does not tell its configuration: what a crash loses is not known.",
}


def _text(value: object) -> str:
    if isinstance(value, ReplyError):
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
