"""The settings of the Redis ledger."""

from typing import Annotated

import pydantic

from palaver import ConfigurationError, Secret, check_name
from palaver_plugins.ledgers.redis.address import parse_target
from palaver_plugins.ledgers.retention import RetentionSettings


class RedisUrl(pydantic.RootModel[str]):
    """One of the forms of `address`. Printing it hides the password."""

    model_config = pydantic.ConfigDict(frozen=True)

    @pydantic.field_validator("root")
    @classmethod
    def _is_url(cls, value: str) -> str:
        try:
            parse_target(value)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return value

    def reveal(self) -> str:
        return self.root

    def __str__(self) -> str:
        scheme, _, rest = self.root.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    def __repr__(self) -> str:
        return f"RedisUrl({str(self)!r})"

    @pydantic.model_serializer
    def _serialize(self) -> str:
        return str(self)


class RedisLedgerSettings(RetentionSettings):
    url: Annotated[Secret | RedisUrl, pydantic.Field(union_mode="left_to_right")] = RedisUrl(
        "redis://127.0.0.1:6379/0"
    )
    """Where Redis is: a URL, or ``env:NAME`` or ``file:PATH`` of one that holds a password. One
    server is ``redis://host:6379/0``, with TLS ``rediss://``; ``redis+sentinel://host,host/service``
    asks sentinels for the master, ``redis+cluster://host,host`` enters a Cluster."""
    sentinel_password: Secret | None = None
    """What the sentinels themselves want, where they want it: ``env:NAME`` or ``file:PATH`` of a
    password, or of ``user:password``."""
    prefix: str = "palaver"
    """What every key begins with. Servers with the same prefix share their conversations."""
    partitions: int = pydantic.Field(default=1, ge=1, le=64)
    """Slots of a Redis Cluster over which conversations are spread. Fixed by the first start."""
    allow_weak_durability: bool = False
    """Start on a Redis that may lose what it has acknowledged, too."""
    replicas: int = pydantic.Field(default=0, ge=0)
    """Replicas of Redis that must have a write before it is acknowledged: what a failover needs."""
    events_kept: int = pydantic.Field(default=2_000, ge=1)
    """Events of a conversation that a reconnecting client can be brought, counted whenever a turn
    is settled; one that missed more gets a snapshot. They go after seven days of silence."""
    history_kept: int = pydantic.Field(default=10_000, ge=2)
    """Lines of a conversation's history that are stored; older ones go."""
    connect_timeout: float = pydantic.Field(default=2.0, gt=0)
    """Seconds in which a connection must be made."""
    command_timeout: float = pydantic.Field(default=3.0, gt=0)
    """Seconds without any answer after which a connection counts as dead."""

    @pydantic.field_validator("prefix")
    @classmethod
    def _is_name(cls, value: str) -> str:
        return check_name(value, "prefix")
