"""Settings of the channel."""

from typing import Self
from urllib.parse import urlsplit

import pydantic

from palaver import PluginSettings, check_url

NAME = "mcp"
PATH = "/mcp"


class Settings(PluginSettings):
    tools: tuple[str, ...] = ()
    """Registered tools that clients may call, beside the skills. ``palaver skills`` lists them."""
    documents: bool = True
    """Whether clients whose key has the right ``read`` may list and read the tenant's documents in
    the knowledge base."""
    url: str = ""
    """Public address of the endpoint, such as ``https://chat.example.org/mcp``. Requests that name
    another host get 421. Empty: any host, as far as the server allows it."""
    authorization_servers: tuple[str, ...] = ()
    """Issuers of OAuth authorization servers where clients get their keys, such as
    ``https://login.example.org``. The endpoint then tells clients about them; it needs ``url``."""

    @pydantic.field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value:
            check_url(value, ("https", "http"), "expected https://HOST/mcp")
            if urlsplit(value).path != PATH:
                raise ValueError(f"the path of the endpoint is {PATH}, behind no other path")
        return value

    @pydantic.field_validator("authorization_servers")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            check_url(url, ("https", "http"), "expected https://HOST")
        return value

    @pydantic.model_validator(mode="after")
    def _has_url(self) -> Self:
        if self.authorization_servers and not self.url:
            raise ValueError("'authorization_servers' needs 'url', the address of this endpoint")
        return self

    @property
    def host(self) -> str:
        """Return the host, with a port if there is one, by which clients call the endpoint."""
        return urlsplit(self.url).netloc.lower()

    @property
    def metadata_path(self) -> str:
        """Return the path of the metadata of the protected resource (RFC 9728)."""
        return f"/.well-known/oauth-protected-resource{PATH}"

    @property
    def metadata_url(self) -> str:
        """Return the address of the metadata; empty where there is no authorization server."""
        if not self.authorization_servers:
            return ""
        return self.url.removesuffix(PATH) + self.metadata_path
