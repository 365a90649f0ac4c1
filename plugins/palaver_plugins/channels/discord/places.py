"""Places: where conversations are held on Discord, and how people are named."""

import dataclasses
import re

from palaver import Conversation, InvalidInput
from palaver.platforms import Source

NAME = "discord"
"""Name of the channel."""
DIRECT = "dm"
_THREAD = re.compile(r"(dm|\d{1,20})\.(\d{1,20})")


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A channel, a thread or a direct message; ``str`` is the thread of its `Conversation`.

    ``guild`` is Discord's word for a server; None for direct messages.
    """

    guild: int | None
    channel: int

    def __str__(self) -> str:
        return f"{self.guild or DIRECT}.{self.channel}"

    @classmethod
    def of(cls, conversation: Conversation) -> "Place":
        """Return the place of a conversation. Raises `InvalidInput` for another channel's."""
        match = _THREAD.fullmatch(conversation.thread)
        if match is None:
            raise InvalidInput(f"the thread {conversation.thread[:60]!r} is none of Discord")
        guild, channel = match.groups()
        return cls(None if guild == DIRECT else int(guild), int(channel))


def person_of(user: int) -> str:
    return f"discord.{user}"


COMMAND = "command."
"""Begins the ids of messages that are commands; the interaction's id follows."""


def order_of(snowflake: int) -> str:
    """Return an id of Discord as text that sorts like the time at which it was made."""
    return f"{snowflake:020d}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MessageSource(Source):
    """Source of a message. ``message`` is in the channel ``channel``: what is told to the person
    replies to it."""

    channel: int
    message: int
