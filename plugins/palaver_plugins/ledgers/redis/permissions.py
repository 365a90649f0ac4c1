"""Rights: what the user of a ledger must be permitted in Redis, and what it had better not be."""

from collections.abc import Iterable

from palaver import ConfigurationError
from palaver_plugins.ledgers.redis.connection import RedisReply, pack
from palaver_plugins.ledgers.redis.scripts import Script, commands_of

DIRECT_COMMANDS = frozenset(
    "asking config|get eval evalsha hdel hget hgetall hlen hmget hset hsetnx info persist pexpire "
    "ping script|load select smembers subscribe time unlink unsubscribe wait zrange".split()
)
"""Commands that are sent as they are, beside those that the scripts call."""
OPTIONAL = frozenset({"asking", "config|get", "select", "wait"})
"""Those of them that a ledger can do without, in another profile or with a weaker guarantee."""
DANGEROUS = frozenset({"acl|setuser", "config|set", "flushall", "keys", "shutdown"})


def required_commands(scripts: Iterable[Script]) -> frozenset[str]:
    """Every command that a ledger may use."""
    return DIRECT_COMMANDS | commands_of(scripts)


def pack_check(rights: Script, key: str, commands: Iterable[str]) -> bytes:
    """The packed command that asks which of ``commands`` this user may not run, on ``key`` where
    they take a key or a channel."""
    names = (name.replace("|", " ") for name in sorted(commands))
    return pack("EVAL", rights.source, 0, key, *names)


def parse_denied(reply: RedisReply) -> frozenset[str]:
    """The commands that were named in reply to a `question`."""
    return frozenset(name.decode().replace(" ", "|") for name in reply)


def refuse(lacking: frozenset[str], where: str, user: str, prefix: str) -> None:
    """Raise `ConfigurationError` when the user lacks a right that no ledger can do without."""
    if lacking:
        permit = " ".join(f"+{name}" for name in sorted(lacking))
        raise ConfigurationError(
            f"Redis at {where} does not let user {user!r} do what a ledger does: permit {permit} "
            f"on ~{prefix}:* and &{prefix}:*, as config/redis.conf does"
        )
