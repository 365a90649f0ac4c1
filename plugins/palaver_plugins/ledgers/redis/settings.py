"""Settings of the Redis ledger."""

from typing import Annotated

import pydantic

from palaver import Secret, check_name
from palaver_plugins.ledgers.redis.address import parse_target
from palaver_plugins.ledgers.retention import RetentionSettings


class RedisUrl(pydantic.RootModel[str]):
    """URL of a Redis, a Sentinel service or a Cluster. Its text form hides the password."""

    model_config = pydantic.ConfigDict(frozen=True)

    @pydantic.field_validator("root")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parse_target(value)
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


def _form_of_url(value: object) -> str:
    is_reference = isinstance(value, Secret) or str(value).startswith(("env:", "file:"))
    return "reference" if is_reference else "url"


class RedisLedgerSettings(RetentionSettings):
    url: Annotated[
        Annotated[Secret, pydantic.Tag("reference")] | Annotated[RedisUrl, pydantic.Tag("url")],
        pydantic.Discriminator(_form_of_url),
    ] = RedisUrl("redis://127.0.0.1:6379/0")
    """URL of Redis, or ``env:NAME`` or ``file:PATH`` of a URL with a password. One server is
    ``redis://host:6379/0``, with TLS ``rediss://``; ``redis+sentinel://host,host/service`` asks
    sentinels for the master, ``redis+cluster://host,host`` uses a Cluster."""
    sentinel_password: Secret | None = None
    """Credentials of the sentinels, if they require any: ``env:NAME`` or ``file:PATH`` of a
    password or of ``user:password``."""
    prefix: str = "palaver"
    """Prefix of every key. Servers with the same prefix share their conversations."""
    partitions: int = pydantic.Field(default=1, ge=1, le=64)
    """Number of slots of a Redis Cluster that have the conversations. Fixed by the first start."""
    allow_weak_durability: bool = False
    """Accept a Redis that may lose acknowledged writes."""
    replicas: int = pydantic.Field(default=0, ge=0)
    """Replicas that must have a write before it is acknowledged, so that a failover keeps it."""
    events_kept: int = pydantic.Field(default=2_000, ge=1)
    """Events that a conversation keeps for reconnecting clients when a turn is settled; a client
    that missed more gets a snapshot. They expire after seven days of inactivity."""
    history_kept: int = pydantic.Field(default=10_000, ge=2)
    """History entries that a conversation keeps, erased ones included; older ones are deleted."""
    connect_timeout: float = pydantic.Field(default=2.0, gt=0)
    """Seconds in which a connection must be established."""
    command_timeout: float = pydantic.Field(default=3.0, gt=0)
    """Seconds without an answer after which a connection counts as lost."""

    @pydantic.field_validator("prefix")
    @classmethod
    def _is_name(cls, value: str) -> str:
        return check_name(value, "prefix")
