"""Settings of the knowledge base in Qdrant."""

import pydantic

from palaver import Secret, check_name
from palaver_plugins.knowledge.hybrid import HybridSettings


class QdrantSettings(HybridSettings):
    url: str = "http://127.0.0.1:6333"
    """Address of Qdrant, 1.19 or newer; without a port, it is 6333."""
    api_key: Secret | None = None
    """API key, as a reference. Use an ``https`` address with it beyond this machine."""
    prefix: str = "palaver"
    """Beginning of the names of the collections in Qdrant. Servers with the same one share their
    documents."""
    timeout: int = pydantic.Field(default=5, ge=1)
    """Seconds that one request to Qdrant may take."""

    @pydantic.field_validator("prefix")
    @classmethod
    def _is_name(cls, value: str) -> str:
        return check_name(value, "prefix")

    @pydantic.field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        url = pydantic.TypeAdapter(pydantic.HttpUrl).validate_python(value)
        if url.username or url.password:
            raise ValueError("the API key belongs into knowledge.qdrant.api_key")
        return value.rstrip("/")
