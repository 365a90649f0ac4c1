"""Everything that a fake Discord knows, and the events that follow from its changes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.discord.errors import Refusal
from palaver.testing.fakes.discord.forms import EditChannel, StartThread
from palaver.testing.fakes.discord.limits import DiscordLimits
from palaver.testing.fakes.discord.objects import (
    DIRECT,
    HAS_THREAD,
    JSON,
    PUBLIC_THREAD,
    THREAD_CREATED,
    THREAD_STARTER,
    DiscordAttachment,
    DiscordChannel,
    DiscordFile,
    DiscordGuild,
    DiscordMessage,
    DiscordUser,
    MessageReference,
)
from palaver.testing.fakes.discord.payloads import (
    channel_payload,
    member_payload,
    message_payload,
)

EPOCH = 1_420_070_400.0
"""The first second of 2015, from which Discord's ids count milliseconds."""

GUILDS, GUILD_MEMBERS = 1 << 0, 1 << 1
GUILD_PRESENCES = 1 << 8
GUILD_MESSAGES, DIRECT_MESSAGES = 1 << 9, 1 << 12
GUILD_REACTIONS, DIRECT_REACTIONS = 1 << 10, 1 << 13
MESSAGE_CONTENT = 1 << 15

Payload = Callable[[int], JSON]
"""An event's data for a session with these intents."""


class Publish(Protocol):
    """Sends an event to every session that has the intent and the server's shard."""

    def __call__(
        self, event: str, data: JSON | Payload, *, intent: int, guild: DiscordGuild | None
    ) -> None: ...


@dataclasses.dataclass(slots=True)
class Application:
    """The application of the bot under test, as in the developer portal."""

    id: int
    name: str
    bot: DiscordUser
    token: str
    privileged_intents: int
    interactions_url: str = ""
    public_key: str = ""


class DiscordState:
    """People, servers, channels and messages, by id."""

    def __init__(self, clock: FakeClock, limits: DiscordLimits) -> None:
        self.clock = clock
        self.limits = limits
        self._last_id = 0
        self.users: dict[int, DiscordUser] = {}
        self.guilds: dict[int, DiscordGuild] = {}
        self.channels: dict[int, DiscordChannel] = {}
        self._direct: dict[int, DiscordChannel] = {}
        self.attachments: dict[int, DiscordAttachment] = {}
        self.publish: Publish
        self.url = ""
        self.application: Application

    @property
    def gateway_url(self) -> str:
        return f"ws{self.url.removeprefix('http')}/gateway"

    def new_id(self) -> int:
        """Return an id that is greater than all before, and tells the time."""
        milliseconds = int((self.clock.now() - EPOCH) * 1000)
        self._last_id = max(self._last_id + 1, milliseconds << 22)
        return self._last_id

    @property
    def bot(self) -> DiscordUser:
        return self.application.bot

    def find_channel(self, channel_id: int) -> DiscordChannel:
        """Return a channel that the bot may view."""
        channel = self.channels.get(channel_id)
        if channel is None or channel.is_deleted:
            raise Refusal(10003)
        if not may_view(channel):
            raise Refusal(50001)
        return channel

    def visible_channels(self, guild_id: int) -> list[DiscordChannel]:
        """Return the channels and threads of a server that the bot may view."""
        return [
            channel
            for channel in self.channels.values()
            if channel.guild
            and channel.guild.id == guild_id
            and may_view(channel)
            and not channel.is_deleted
        ]

    def find_message(self, channel: DiscordChannel, message_id: int) -> DiscordMessage:
        """Return a message that is not deleted and that everybody in the channel may see."""
        message = channel.messages.get(message_id)
        if message is None or message.is_deleted or message.visible_to:
            raise Refusal(10008)
        return message

    def open_direct(self, user: DiscordUser) -> DiscordChannel:
        """Return the direct conversation of the bot and a person; there is one."""
        if user.id not in self._direct:
            channel = DiscordChannel(
                id=self.new_id(), kind=DIRECT, recipient=user, created=self.clock.now()
            )
            self.channels[channel.id] = self._direct[user.id] = channel
        return self._direct[user.id]

    def store_file(
        self, channel: DiscordChannel, file: DiscordFile, description: str = ""
    ) -> DiscordAttachment:
        attachment_id = self.new_id()
        url = f"{self.url}/attachments/{channel.id}/{attachment_id}/{file.name}"
        attachment = DiscordAttachment(
            id=attachment_id, file=file, url=url, description=description
        )
        self.attachments[attachment_id] = attachment
        return attachment

    def add_message(self, message: DiscordMessage) -> DiscordMessage:
        """Store a message, which opens an archived thread, and announce it."""
        channel = message.channel
        if channel.is_archived:
            channel.is_archived = False
            self.publish_channel("THREAD_UPDATE", channel)
        channel.messages[message.id] = message
        channel.typing_until = 0.0
        self.publish_message("MESSAGE_CREATE", message)
        return message

    def change_message(self, message: DiscordMessage) -> None:
        """Announce that a message was edited."""
        message.edited = self.clock.now()
        self.publish_message("MESSAGE_UPDATE", message)

    def delete_message(self, message: DiscordMessage) -> None:
        message.is_deleted = True
        if not message.visible_to:
            fields = {"id": str(message.id)}
            self._publish_deletion("MESSAGE_DELETE", message.channel, fields)

    def delete_messages(self, messages: Sequence[DiscordMessage]) -> None:
        """Delete messages of one channel, with one event."""
        for message in messages:
            message.is_deleted = True
        fields = {"ids": [str(message.id) for message in messages]}
        self._publish_deletion("MESSAGE_DELETE_BULK", messages[0].channel, fields)

    def _publish_deletion(self, event: str, channel: DiscordChannel, fields: JSON) -> None:
        data = fields | {"channel_id": str(channel.id)}
        if channel.guild:
            data["guild_id"] = str(channel.guild.id)
        intent = GUILD_MESSAGES if channel.guild else DIRECT_MESSAGES
        if may_view(channel):
            self.publish(event, data, intent=intent, guild=channel.guild)

    def publish_message(self, event: str, message: DiscordMessage) -> None:
        if message.visible_to or not may_view(message.channel):
            return
        guild = message.channel.guild
        intent = GUILD_MESSAGES if guild else DIRECT_MESSAGES
        has_nonce = event == "MESSAGE_CREATE"

        def payload(intents: int) -> JSON:
            return self.event_payload(message, intents, has_nonce=has_nonce)

        self.publish(event, payload, intent=intent, guild=guild)

    def event_payload(self, message: DiscordMessage, intents: int, *, has_nonce: bool) -> JSON:
        """Return a message for a session; its content depends on the session's intents."""
        has_content = bool(intents & MESSAGE_CONTENT) or self.shows_content(message)
        payload = message_payload(
            message, reader=self.bot, has_content=has_content, has_nonce=has_nonce
        )
        if message.channel.guild:
            payload["guild_id"] = str(message.channel.guild.id)
            if not message.webhook_id:
                payload["member"] = member_payload()
        return payload

    def rest_payload(self, message: DiscordMessage, *, has_nonce: bool = False) -> JSON:
        """Return a message as an answer to the bot's request."""
        has_content = bool(self.application.privileged_intents & MESSAGE_CONTENT)
        has_content = has_content or self.shows_content(message)
        return message_payload(
            message, reader=self.bot, has_content=has_content, has_nonce=has_nonce
        )

    def shows_content(self, message: DiscordMessage) -> bool:
        """Return True when the bot may read a message without the Message Content intent."""
        is_own = message.author is self.bot
        return message.channel.is_direct or is_own or self.bot in message.mentions.users

    def publish_channel(self, event: str, channel: DiscordChannel, **fields: object) -> None:
        """Announce a change of a channel, or of a thread that the bot may view."""
        if channel.guild and (may_view(channel) or not channel.is_thread):
            data = channel_payload(channel) | fields
            self.publish(event, data, intent=GUILDS, guild=channel.guild)

    # Threads

    def start_thread(
        self,
        parent: DiscordChannel,
        owner: DiscordUser,
        form: StartThread,
        starter: DiscordMessage | None = None,
    ) -> DiscordChannel:
        """Start a thread. From a message it gets that message's id, and the message stays in
        ``parent``."""
        if starter and starter.thread:
            raise Refusal(160004)
        thread = DiscordChannel(
            id=starter.id if starter else self.new_id(),
            kind=PUBLIC_THREAD if starter else form.type,
            name=form.name,
            guild=parent.guild,
            parent=parent,
            owner=owner,
            created=self.clock.now(),
            auto_archive_minutes=form.auto_archive_duration,
        )
        self.channels[thread.id] = thread
        self.publish_channel("THREAD_CREATE", thread, newly_created=True)
        if starter:
            starter.thread = thread
            starter.flags |= HAS_THREAD
            self.publish_message("MESSAGE_UPDATE", starter)
            self._add_note(thread, owner, THREAD_STARTER, MessageReference(starter.id, parent))
        elif thread.kind == PUBLIC_THREAD:
            self._add_note(parent, owner, THREAD_CREATED, None, content=form.name)
        return thread

    def _add_note(
        self,
        channel: DiscordChannel,
        author: DiscordUser,
        kind: int,
        reference: MessageReference | None,
        content: str = "",
    ) -> None:
        """Add a message that Discord writes itself."""
        note = DiscordMessage(
            id=self.new_id(),
            channel=channel,
            author=author,
            created=self.clock.now(),
            kind=kind,
            reference=reference,
            content=content,
        )
        self.add_message(note)

    def edit_thread(self, thread: DiscordChannel, form: EditChannel) -> None:
        if thread.is_archived and form.archived is not False:
            raise Refusal(50083)
        thread.name = thread.name if form.name is None else form.name
        thread.is_archived = bool(form.archived)
        thread.is_locked = thread.is_locked if form.locked is None else form.locked
        thread.auto_archive_minutes = form.auto_archive_duration or thread.auto_archive_minutes
        self.publish_channel("THREAD_UPDATE", thread)


def may_view(channel: DiscordChannel) -> bool:
    return channel.bot_may_view and (channel.parent is None or channel.parent.bot_may_view)


def may_post(channel: DiscordChannel) -> bool:
    return channel.bot_may_post and (channel.parent is None or channel.parent.bot_may_post)
