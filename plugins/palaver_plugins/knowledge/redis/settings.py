"""Settings of the knowledge base in Redis."""

from urllib.parse import urlsplit

import pydantic

from palaver import Secret, check_name
from palaver_plugins.knowledge.hybrid import HybridSettings


class RedisKnowledgeSettings(HybridSettings):
    url: str = "redis://127.0.0.1:6379/0"
    """URL of one Redis with the query engine (Redis 8 or Redis Stack); ``rediss://`` is TLS. Only
    database 0 can be searched."""
    password: Secret | None = None
    """Password, as a reference; a user's name may be in the URL."""
    prefix: str = "palaver-knowledge"
    """Prefix of every key and index. Servers with the same one share their documents."""
    timeout: float = pydantic.Field(default=5.0, gt=0)
    """Seconds that one request to Redis may take."""

    @pydantic.field_validator("prefix")
    @classmethod
    def _is_name(cls, value: str) -> str:
        return check_name(value, "prefix")

    @pydantic.field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in ("redis", "rediss") or not url.hostname:
            raise ValueError("expected the URL of one server, such as redis://127.0.0.1:6379/0")
        if url.password is not None:
            raise ValueError("the password belongs into knowledge.redis.password, as a reference")
        if url.path not in ("", "/", "/0"):
            raise ValueError("only database 0 can be searched")
        return value
