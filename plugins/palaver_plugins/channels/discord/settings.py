"""Settings of the Discord channel."""

from typing import Annotated, Literal

import pydantic

from palaver import Secret
from palaver.platforms import ChannelSettings

API_URL = "https://discord.com/api/v10"


class DiscordSettings(ChannelSettings):
    """In ``people`` and ``rooms`` stand Discord's ids of users and channels. A thread counts as the
    channel that it belongs to."""

    token: Secret
    """The bot's token, from the page "Bot" of the application in Discord's developer portal."""
    message_content: bool = True
    """Whether the bot reads messages that do not mention it: in the threads that it has opened, and
    replies to it. It needs the Message Content intent, which the page "Bot" switches on. Without
    it the bot answers direct messages, mentions and commands."""
    threads: Literal["reply", "thread"] = "reply"
    """How a message in a channel is answered: ``reply`` (in the channel, which is one conversation
    of all its people) or ``thread`` (in a new thread, a conversation of its own that goes on
    without mentions)."""
    interactions: Literal["gateway", "webhook"] = "gateway"
    """How commands and buttons arrive: ``gateway`` (over the bot's own connection) or ``webhook``
    (as requests to ``/discord/interactions`` of this server, which the page "General Information"
    then names as Interactions Endpoint URL)."""
    public_key: Annotated[str, pydantic.Field(pattern=r"^([0-9a-fA-F]{64})?$")] = ""
    """The application's public key, from the page "General Information"; for ``webhook`` only."""
    shards: Annotated[int, pydantic.Field(ge=1, le=1_000)] | Literal["auto"] = 1
    """Connections to Discord, among which it distributes its servers; ``auto``: as many as it
    recommends. One is enough for 2,500 of its servers."""
    tenant: str = "default"
    """Tenant of direct messages, and of the Discord servers that ``tenants`` does not name."""
    tenants: dict[str, str] = pydantic.Field(default_factory=dict)
    """Tenants of Discord servers, by the server's id."""
    api_url: str = API_URL
    """Address of Discord's API: another one for a proxy that keeps the rate limits of several
    programs with the same token."""

    @pydantic.model_validator(mode="after")
    def _has_public_key(self) -> "DiscordSettings":
        if self.interactions == "webhook" and not self.public_key:
            raise ValueError("interactions = 'webhook' needs the application's public_key")
        return self

    def tenant_of(self, guild: int | None) -> str:
        """Return the tenant of a server's conversations, or of direct messages."""
        return self.tenants.get(str(guild), self.tenant)
