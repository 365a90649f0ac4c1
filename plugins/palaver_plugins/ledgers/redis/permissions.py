"""Permissions of the Redis user: the commands that a ledger needs, and those that it should not
have."""

from collections.abc import Iterable

from palaver import ConfigurationError
from palaver_plugins.ledgers.redis.connection import RedisReply, pack
from palaver_plugins.ledgers.redis.scripts import Script, commands_of

DIRECT_COMMANDS = frozenset(
    "asking config|get eval evalsha hget hgetall hmget hset hsetnx info persist pexpire "
    "lindex lrange ping script|load select smembers subscribe time unlink unsubscribe wait "
    "zrange".split()
)
"""Commands that the client sends, in addition to those that the scripts call."""
OPTIONAL = frozenset({"asking", "config|get", "select", "wait"})
"""Those of them that some deployments do not need."""
DANGEROUS = frozenset({"acl|setuser", "config|set", "flushall", "keys", "shutdown"})


def required_commands(scripts: Iterable[Script]) -> frozenset[str]:
    """Return every command that a ledger may use."""
    return DIRECT_COMMANDS | commands_of(scripts)


def pack_check(script: Script, key: str, commands: Iterable[str]) -> bytes:
    """Return the packed command that lists which of ``commands`` this user may not run, on ``key``
    where they take a key or a channel."""
    names = (name.replace("|", " ") for name in sorted(commands))
    return pack("EVAL", script.source, 0, key, *names)


def parse_denied(reply: RedisReply) -> frozenset[str]:
    """Return the commands in the reply to `pack_check`."""
    return frozenset(name.decode().replace(" ", "|") for name in reply)


def refuse(denied: frozenset[str], address: str, user: str, prefix: str) -> None:
    """Raise `ConfigurationError` when the user may not run a required command."""
    if denied:
        permit = " ".join(f"+{name}" for name in sorted(denied))
        raise ConfigurationError(
            f"Redis at {address} denies user {user!r} commands that a ledger needs: permit "
            f"{permit} on ~{prefix}:* and &{prefix}:*, as config/redis.conf does"
        )
