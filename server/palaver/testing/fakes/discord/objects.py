"""What a fake Discord holds: people, servers (guilds), channels and messages."""

import dataclasses
from typing import Any

JSON = dict[str, Any]
"""An object of JSON, in Discord's own form."""

TEXT, DIRECT, PUBLIC_THREAD, PRIVATE_THREAD = 0, 1, 11, 12
THREADS = (10, PUBLIC_THREAD, PRIVATE_THREAD)

SUPPRESS_EMBEDS = 1 << 2
HAS_THREAD = 1 << 5
EPHEMERAL = 1 << 6
LOADING = 1 << 7
AUDIO_MESSAGE = 1 << 13
HAS_SNAPSHOT = 1 << 14
COMPONENTS_V2 = 1 << 15

DEFAULT, THREAD_CREATED, REPLY, COMMAND_REPLY, THREAD_STARTER = 0, 18, 19, 20, 21
SPOKEN = (DEFAULT, REPLY, COMMAND_REPLY)
"""Types of messages that somebody has written."""


@dataclasses.dataclass(eq=False, slots=True, kw_only=True)
class DiscordUser:
    """A person or a bot. ``accepts_messages``: allows direct messages of the bot under test."""

    id: int
    name: str
    is_bot: bool = False
    accepts_messages: bool = True

    @property
    def mention(self) -> str:
        return f"<@{self.id}>"


@dataclasses.dataclass(eq=False, slots=True, kw_only=True)
class DiscordGuild:
    """A server of Discord, with its members by id."""

    id: int
    name: str
    members: dict[int, DiscordUser] = dataclasses.field(default_factory=dict, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class DiscordFile:
    """A file to attach. With ``audio_seconds`` the message is a voice message."""

    name: str
    content: bytes
    media_type: str = "application/octet-stream"
    audio_seconds: float = 0.0


@dataclasses.dataclass(eq=False, slots=True, kw_only=True)
class DiscordAttachment:
    """A file of a message; ``url`` answers with its content."""

    id: int
    file: DiscordFile
    url: str
    description: str = ""


@dataclasses.dataclass(eq=False, slots=True, kw_only=True)
class DiscordChannel:
    """A text channel, a direct conversation with ``recipient``, or a thread of ``parent``.

    ``bot_may_view`` and ``bot_may_post`` are the permissions of the bot under test.
    """

    id: int
    kind: int
    name: str = ""
    guild: DiscordGuild | None = None
    recipient: DiscordUser | None = None
    parent: "DiscordChannel | None" = None
    owner: DiscordUser | None = None
    created: float = 0.0
    is_archived: bool = False
    is_locked: bool = False
    auto_archive_minutes: int = 1440
    is_deleted: bool = False
    bot_may_view: bool = True
    bot_may_post: bool = True
    typing_until: float = 0.0
    messages: dict[int, "DiscordMessage"] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def is_thread(self) -> bool:
        return self.kind in THREADS

    @property
    def is_direct(self) -> bool:
        return self.kind == DIRECT


@dataclasses.dataclass(frozen=True, slots=True)
class Mentions:
    """Who is notified by a message: not what its text looks like, but whom Discord notifies."""

    users: tuple[DiscordUser, ...] = ()
    roles: tuple[int, ...] = ()
    everyone: bool = False

    def __bool__(self) -> bool:
        return bool(self.users or self.roles or self.everyone)


@dataclasses.dataclass(frozen=True, slots=True)
class MessageReference:
    """The message that a reply answers or a forward copies."""

    message_id: int
    channel: DiscordChannel
    is_forward: bool = False


@dataclasses.dataclass(eq=False, slots=True, kw_only=True)
class DiscordMessage:
    """A message as it stands now; ``revisions`` are its earlier texts.

    ``visible_to`` is set for an ephemeral message: the one person who sees it. ``used_command`` is
    the name of the command that the message answers; people see it above.
    """

    id: int
    channel: DiscordChannel = dataclasses.field(repr=False)
    author: DiscordUser
    created: float
    content: str = ""
    edited: float | None = None
    kind: int = DEFAULT
    flags: int = 0
    attachments: list[DiscordAttachment] = dataclasses.field(default_factory=list)
    embeds: list[JSON] = dataclasses.field(default_factory=list)
    components: list[JSON] = dataclasses.field(default_factory=list)
    mentions: Mentions = Mentions()
    nonce: str | int | None = None
    reference: MessageReference | None = None
    snapshot: JSON | None = None
    reactions: dict[str, list[DiscordUser]] = dataclasses.field(default_factory=dict)
    thread: DiscordChannel | None = dataclasses.field(default=None, repr=False)
    webhook_id: int | None = None
    interaction: JSON | None = None
    used_command: str = ""
    visible_to: DiscordUser | None = None
    is_deleted: bool = False
    revisions: list[str] = dataclasses.field(default_factory=list)

    @property
    def has_components_v2(self) -> bool:
        return bool(self.flags & COMPONENTS_V2)

    @property
    def is_loading(self) -> bool:
        """Return whether it shows "… is thinking" in place of a text."""
        return bool(self.flags & LOADING)
