"""Checks: what a given Redis is, and whether a ledger may stand on it."""

import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from hiredis import ReplyError

from palaver import ConfigurationError, LedgerUnavailable
from palaver_plugins.ledgers.redis.connection import RedisReply, pack

SendCommand = Callable[[bytes], Awaitable[RedisReply]]
"""Sends a packed command and returns its reply, also where that is a `ReplyError`."""
CheckReply = Callable[[RedisReply], RedisReply]
"""Returns a reply, unless it tells of a failure; then it raises what that means."""

MIN_VERSION = (7, 0)
OVERRIDE_HINT = "or set ledger.redis.allow_weak_durability = true to accept the loss"
DIRECTIVES = ("appendonly", "appendfsync", "maxmemory-policy")


class ServerInfo(NamedTuple):
    """A Redis server as it is configured; a directive that may not be read is empty."""

    version: str
    appendonly: str
    appendfsync: str
    policy: str
    replicas: int
    """Those that are connected and in step."""
    run_id: str = ""
    """Names the life of its process."""
    master: str = ""
    """Whose replica it is; empty when it is a master itself."""
    clustered: bool = False

    @property
    def durable(self) -> bool:
        return (self.appendonly, self.appendfsync) == ("yes", "always")


async def inspect(ask: SendCommand, check: CheckReply) -> ServerInfo:
    """Ask a server what it is."""
    info = ""
    for section in ("server", "replication"):
        info += _text(check(await ask(pack("INFO", section))))
    config = await ask(pack("CONFIG", "GET", *DIRECTIVES))
    values: dict[str, str] = {}
    if not isinstance(config, ReplyError):
        values = {_text(name): _text(value) for name, value in check(config).items()}
    appendonly, appendfsync, policy = (values.get(name, "") for name in DIRECTIVES)
    return ServerInfo(
        version=_field(info, "redis_version"),
        appendonly=appendonly,
        appendfsync=appendfsync,
        policy=policy,
        replicas=len(re.findall(r"^slave\d+:.*state=online", info, re.MULTILINE)),
        run_id=_field(info, "run_id"),
        master=":".join(filter(None, (_field(info, f"master_{it}") for it in ("host", "port")))),
        clustered=_field(info, "redis_mode") == "cluster",
    )


def refuse(server: ServerInfo, where: str, allow_weak: bool) -> None:
    """Raise `ConfigurationError` when a ledger may not stand on ``server``, and
    `LedgerUnavailable` when it may once ``server`` is a master."""
    version = tuple(int(part) for part in re.findall(r"\d+", server.version)[:2])
    if version < MIN_VERSION:
        raise ConfigurationError(
            f"Redis at {where} is version {server.version or 'unknown'}; the ledger needs 7.0"
        )
    if server.master and not server.clustered:
        raise LedgerUnavailable(
            f"Redis at {where} is a replica of {server.master} and takes no writes: name the "
            "master in ledger.redis.url, or the sentinels, which know it",
            retry_after=1.0,
        )
    if not allow_weak and (problem := _problem(server)):
        raise ConfigurationError(f"Redis at {where} {problem}, {OVERRIDE_HINT}")


def _problem(server: ServerInfo) -> str:
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


def _field(info: str, name: str) -> str:
    """One field of what INFO replied; empty when it is not there."""
    found = re.search(rf"^{name}:(.*?)\r?$", info, re.MULTILINE)
    return found[1] if found else ""


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
