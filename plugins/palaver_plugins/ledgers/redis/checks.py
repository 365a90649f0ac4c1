"""Checks of a Redis server: its configuration, and whether a ledger may use it."""

import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from hiredis import ReplyError

from palaver import ConfigurationError, LedgerUnavailable
from palaver_plugins.ledgers.redis.connection import RedisReply, pack

SendCommand = Callable[[bytes], Awaitable[RedisReply]]
"""Sends a packed command and returns its reply, which may be a `ReplyError`."""
CheckReply = Callable[[RedisReply], RedisReply]
"""Returns a reply unless it is an error; then it raises the exception for it."""

MIN_VERSION = (7, 0)
OVERRIDE_HINT = "or set ledger.redis.allow_weak_durability = true to accept the loss"
DIRECTIVES = ("appendonly", "appendfsync", "maxmemory-policy")


class ServerInfo(NamedTuple):
    """Configuration of a Redis server; a directive that the user may not read is empty."""

    version: str
    appendonly: str
    appendfsync: str
    policy: str
    replicas: int
    """Number of replicas that are connected and in sync."""
    run_id: str = ""
    """Id of the server's process."""
    master: str = ""
    """Address of its master; empty when it is a master itself."""
    clustered: bool = False
    time: float = 0.0
    """Its clock, in seconds since the epoch; 0 when it is not known."""

    @property
    def durable(self) -> bool:
        return (self.appendonly, self.appendfsync) == ("yes", "always")


async def inspect(send: SendCommand, check: CheckReply) -> ServerInfo:
    """Read the configuration of a server."""
    info = ""
    for section in ("server", "replication"):
        info += _text(check(await send(pack("INFO", section))))
    config = await send(pack("CONFIG", "GET", *DIRECTIVES))
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
        master=":".join(
            filter(None, (_field(info, f"master_{part}") for part in ("host", "port")))
        ),
        clustered=_field(info, "redis_mode") == "cluster",
        time=int(_field(info, "server_time_usec") or 0) / 1e6,
    )


def refuse(server: ServerInfo, address: str, allow_weak: bool) -> None:
    """Raise `ConfigurationError` when a ledger may not use the server, and `LedgerUnavailable` when
    it is a replica."""
    version = tuple(int(part) for part in re.findall(r"\d+", server.version)[:2])
    if version < MIN_VERSION:
        raise ConfigurationError(
            f"Redis at {address} is version {server.version or 'unknown'}; the ledger needs 7.0"
        )
    if server.master and not server.clustered:
        raise LedgerUnavailable(
            f"Redis at {address} is a replica of {server.master} and takes no writes: name the "
            "master in ledger.redis.url, or the sentinels",
            retry_after=1.0,
        )
    if not allow_weak and (problem := _durability_problem(server)):
        raise ConfigurationError(f"Redis at {address} {problem}, {OVERRIDE_HINT}")


def _durability_problem(server: ServerInfo) -> str:
    """Return what in the configuration loses acknowledged writes, and the remedy; or nothing."""
    if not (server.appendonly and server.appendfsync and server.policy):
        return (
            "does not let this user read its configuration, so its durability is unknown: "
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
    """Return one field of the output of INFO; empty when it is missing."""
    found = re.search(rf"^{name}:(.*?)\r?$", info, re.MULTILINE)
    return found[1] if found else ""


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
