"""Settings of the channel."""

import re
from typing import Self

import pydantic

from palaver import InvalidInput, PluginSettings, Secret, check_name, check_url
from palaver_plugins.networks import Networks


class EndpointSettings(PluginSettings):
    secret: Secret
    """Secret that signs messages in both directions, as a reference: ``whsec_`` and base64 of 24 to
    64 bytes. Each endpoint has its own; make one with
    ``echo whsec_$(openssl rand -base64 32)``."""
    previous_secret: Secret | None = None
    """The earlier ``secret``, while the other side still uses it. Messages that it has signed are
    accepted, and callbacks have a signature by each."""
    tenant: str = "default"
    """The tenant of the endpoint's conversations."""
    callback: str = ""
    """URL that gets the replies, such as ``https://example.org/palaver``. Empty: they are read with
    messages of the type ``reply.read``."""
    allowed_networks: Networks = ()
    """Networks beside the public internet where ``callback`` may be, such as ``10.20.0.0/16``;
    there it may be ``http``."""

    @pydantic.field_validator("tenant")
    @classmethod
    def _is_tenant(cls, value: str) -> str:
        try:
            return check_name(value, "tenant")
        except InvalidInput as error:
            raise ValueError(str(error)) from error

    @pydantic.field_validator("callback")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value:
            check_url(value, ("https", "http"), "expected https://HOST/PATH", has_query=True)
        if "#" in value or "@" in value.partition("://")[2].partition("/")[0].partition("?")[0]:
            raise ValueError("it has a fragment, a user or a password, which are of no use here")
        return value

    @pydantic.model_validator(mode="after")
    def _is_protected(self) -> Self:
        if self.callback.lower().startswith("http:") and not self.allowed_networks:
            raise ValueError(
                "'callback' needs https; http is for a host in one of 'allowed_networks'"
            )
        return self


class Settings(PluginSettings):
    endpoints: dict[str, EndpointSettings] = pydantic.Field(default={})
    """Endpoints by name: ``POST /webhooks/NAME`` takes messages for each."""

    @pydantic.field_validator("endpoints")
    @classmethod
    def _have_names(cls, value: dict[str, EndpointSettings]) -> dict[str, EndpointSettings]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
                raise ValueError(
                    f"the endpoint {name[:60]!r} needs a name of 1 to 40 letters, digits, '_' or "
                    "'-'"
                )
        return value
