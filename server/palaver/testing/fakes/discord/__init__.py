"""A fake Discord for tests: its HTTP API (version 10), its gateway and its people.

::

    async with FakeDiscord() as discord:
        channel, ada = discord.add_channel("general"), discord.add_user("Ada")
        # start a bot against discord.api_url and discord.gateway_url, with discord.token
        await discord.say(channel, ada, "Hello", mentions_bot=True)
        ...
        assert [m.content for m in discord.conversation(channel)] == ["<@1> Hello", "Hello Ada"]
"""

from palaver.testing.fakes.discord.actions import NotShown
from palaver.testing.fakes.discord.endpoint import EndpointRefused, Signature
from palaver.testing.fakes.discord.fake import FakeDiscord
from palaver.testing.fakes.discord.interaction import DiscordInteraction
from palaver.testing.fakes.discord.limits import DiscordLimits
from palaver.testing.fakes.discord.objects import (
    JSON,
    DiscordAttachment,
    DiscordChannel,
    DiscordFile,
    DiscordGuild,
    DiscordMessage,
    DiscordUser,
    Mentions,
)
from palaver.testing.fakes.discord.requests import DiscordRequest

__all__ = [
    "JSON",
    "DiscordAttachment",
    "DiscordChannel",
    "DiscordFile",
    "DiscordGuild",
    "DiscordInteraction",
    "DiscordLimits",
    "DiscordMessage",
    "DiscordRequest",
    "DiscordUser",
    "EndpointRefused",
    "FakeDiscord",
    "Mentions",
    "NotShown",
    "Signature",
]
