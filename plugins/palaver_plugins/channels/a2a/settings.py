"""Settings of the channel."""

import pydantic

from palaver import PluginSettings, check_url
from palaver_plugins.networks import Networks


class Settings(PluginSettings):
    url: str = ""
    """Address of this server as other agents reach it, such as ``https://palaver.example.org``, for
    the agent card. Empty: that of the request for the card."""
    name: str = pydantic.Field(default="Palaver", min_length=1, max_length=100)
    """Name of the agent in its card."""
    description: str = pydantic.Field(
        default="Answers questions and follows requests in a conversation.", min_length=1
    )
    """What the agent does, for its card."""
    allowed_networks: Networks = ()
    """Networks beside the public internet that push notifications may reach, such as
    ``10.20.0.0/16``; there a URL may be ``http``."""

    @pydantic.field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value:
            check_url(value, ("https", "http"), "expected https://HOST", has_query=False)
        return value.rstrip("/")
