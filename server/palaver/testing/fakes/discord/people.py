"""What people do on a fake Discord."""

from collections.abc import Sequence

from palaver.testing.fakes.discord.forms import EditChannel, StartThread
from palaver.testing.fakes.discord.gateway import Gateway
from palaver.testing.fakes.discord.objects import (
    AUDIO_MESSAGE,
    HAS_SNAPSHOT,
    REPLY,
    SPOKEN,
    TEXT,
    DiscordChannel,
    DiscordFile,
    DiscordGuild,
    DiscordMessage,
    DiscordUser,
    MessageReference,
)
from palaver.testing.fakes.discord.payloads import (
    member_payload,
    snapshot_payload,
    user_payload,
)
from palaver.testing.fakes.discord.state import (
    DIRECT_REACTIONS,
    GUILD_MEMBERS,
    GUILD_REACTIONS,
    GUILDS,
    DiscordState,
    may_view,
)
from palaver.testing.fakes.discord.writing import add_replied_user, find_mentions


class People:
    """What people do: they talk, edit, delete, start threads, come and leave.

    Each step reaches the bot as an event before the method returns to the test, or waits for it
    while the bot is disconnected.
    """

    state: DiscordState
    gateway: Gateway

    # Who and where

    def add_guild(self, name: str) -> DiscordGuild:
        """Invite the bot to another server."""
        bot = self.state.bot
        guild = DiscordGuild(id=self.state.new_id(), name=name, members={bot.id: bot})
        self.state.guilds[guild.id] = guild
        payload = self.gateway.guild_payload(guild)
        self.state.publish("GUILD_CREATE", payload, intent=GUILDS, guild=guild)
        return guild

    @property
    def guild(self) -> DiscordGuild:
        """Return the first server."""
        return next(iter(self.state.guilds.values()))

    @property
    def bot(self) -> DiscordUser:
        """Return the bot under test."""
        return self.state.bot

    def add_user(
        self, name: str, *, is_bot: bool = False, guild: DiscordGuild | None = None
    ) -> DiscordUser:
        """Add a person, or another bot, as a member of a server."""
        user = DiscordUser(id=self.state.new_id(), name=name, is_bot=is_bot)
        self.state.users[user.id] = user
        self.join(user, guild)
        return user

    def join(self, user: DiscordUser, guild: DiscordGuild | None = None) -> None:
        guild = guild or self.guild
        guild.members[user.id] = user
        data = member_payload(user) | {"guild_id": str(guild.id)}
        self.state.publish("GUILD_MEMBER_ADD", data, intent=GUILD_MEMBERS, guild=guild)

    def leave(self, user: DiscordUser, guild: DiscordGuild | None = None) -> None:
        """Let a person leave. The bot cannot write to somebody with whom it shares no server."""
        guild = guild or self.guild
        del guild.members[user.id]
        data = {"guild_id": str(guild.id), "user": user_payload(user)}
        self.state.publish("GUILD_MEMBER_REMOVE", data, intent=GUILD_MEMBERS, guild=guild)

    def remove_bot(self, guild: DiscordGuild | None = None) -> None:
        """Remove the bot from a server: it loses every channel there."""
        guild = guild or self.guild
        for channel in self.state.visible_channels(guild.id):
            channel.bot_may_view = False
        data = {"id": str(guild.id)}
        self.state.publish("GUILD_DELETE", data, intent=GUILDS, guild=guild)

    def add_channel(self, name: str, *, guild: DiscordGuild | None = None) -> DiscordChannel:
        channel = DiscordChannel(
            id=self.state.new_id(),
            kind=TEXT,
            name=name,
            guild=guild or self.guild,
            created=self.state.clock.now(),
        )
        self.state.channels[channel.id] = channel
        self.state.publish_channel("CHANNEL_CREATE", channel)
        return channel

    def restrict(
        self, channel: DiscordChannel, *, may_view: bool = True, may_post: bool = True
    ) -> None:
        """Change the bot's permissions in a channel."""
        channel.bot_may_view, channel.bot_may_post = may_view, may_post
        self.state.publish_channel("CHANNEL_UPDATE", channel)

    def delete_channel(self, channel: DiscordChannel) -> None:
        event = "THREAD_DELETE" if channel.is_thread else "CHANNEL_DELETE"
        self.state.publish_channel(event, channel)
        channel.is_deleted = True

    def open_direct(self, user: DiscordUser) -> DiscordChannel:
        """Return the direct conversation of a person with the bot."""
        return self.state.open_direct(user)

    # Talking

    async def say(
        self,
        channel: DiscordChannel,
        user: DiscordUser,
        text: str = "",
        *,
        mentions_bot: bool = False,
        attachments: Sequence[DiscordFile] = (),
        reply_to: DiscordMessage | None = None,
        forward: DiscordMessage | None = None,
        webhook_id: int | None = None,
    ) -> DiscordMessage:
        """Post a message. ``mentions_bot`` puts a mention before the text. A file with
        ``audio_seconds`` makes it a voice message. With ``webhook_id`` a webhook posts it."""
        text = f"{self.bot.mention} {text}".strip() if mentions_bot else text
        message = DiscordMessage(
            id=self.state.new_id(),
            channel=channel,
            author=user,
            created=self.state.clock.now(),
            content=text,
            mentions=find_mentions(text, None, self.state.users, channel.guild),
            webhook_id=webhook_id,
        )
        message.attachments = [self.state.store_file(channel, file) for file in attachments]
        if any(file.audio_seconds for file in attachments):
            message.flags |= AUDIO_MESSAGE
        if reply_to:
            message.kind = REPLY
            message.reference = MessageReference(reply_to.id, channel)
            message.mentions = add_replied_user(message.mentions, None, reply_to.author)
        if forward:
            message.reference = MessageReference(forward.id, forward.channel, is_forward=True)
            message.snapshot, message.flags = snapshot_payload(forward), HAS_SNAPSHOT
        return self.state.add_message(message)

    async def edit(self, message: DiscordMessage, text: str) -> None:
        message.revisions.append(message.content)
        message.content = text
        message.mentions = find_mentions(text, None, self.state.users, message.channel.guild)
        self.state.change_message(message)

    async def delete(self, message: DiscordMessage) -> None:
        self.state.delete_message(message)

    async def delete_many(self, messages: Sequence[DiscordMessage]) -> None:
        """Delete messages of one channel at once, as moderators do."""
        self.state.delete_messages(messages)

    async def deliver_again(self, message: DiscordMessage) -> None:
        """Send the event of a message once more, with a number of its own."""
        self.state.publish_message("MESSAGE_CREATE", message)

    def remove_files(self, message: DiscordMessage) -> None:
        """Let the addresses of a message's files answer 404, as they do after some time."""
        for attachment in message.attachments:
            del self.state.attachments[attachment.id]

    async def add_preview(self, message: DiscordMessage) -> None:
        """Let Discord add the preview of a link: an edit in which the text stays the same."""
        message.embeds.append({"type": "link", "title": "A page", "url": "https://example.com"})
        self.state.publish_message("MESSAGE_UPDATE", message)

    async def react(self, message: DiscordMessage, user: DiscordUser, emoji: str) -> None:
        message.reactions.setdefault(emoji, []).append(user)
        guild = message.channel.guild
        data = {
            "user_id": str(user.id),
            "channel_id": str(message.channel.id),
            "message_id": str(message.id),
            "message_author_id": str(message.author.id),
            "emoji": {"id": None, "name": emoji},
            "burst": False,
            "type": 0,
        }
        if guild:
            data |= {"guild_id": str(guild.id), "member": member_payload(user)}
        intent = GUILD_REACTIONS if guild else DIRECT_REACTIONS
        self.state.publish("MESSAGE_REACTION_ADD", data, intent=intent, guild=guild)

    # Threads

    async def start_thread(
        self,
        channel: DiscordChannel,
        user: DiscordUser,
        name: str,
        *,
        message: DiscordMessage | None = None,
    ) -> DiscordChannel:
        """Start a thread, from a message or without one."""
        form = StartThread(name=name, type=11)
        return self.state.start_thread(channel, user, form, message)

    async def archive(self, thread: DiscordChannel, *, locked: bool = False) -> None:
        self.state.edit_thread(thread, EditChannel(archived=True, locked=locked))

    # What people see

    def conversation(
        self, channel: DiscordChannel, *, seen_by: DiscordUser | None = None
    ) -> list[DiscordMessage]:
        """Return the messages that people see, oldest first, and the ephemeral ones of ``seen_by``.

        Messages of Discord itself, such as that a thread was started, are left out.
        """
        return [
            message
            for message in sorted(channel.messages.values(), key=lambda message: message.id)
            if not message.is_deleted
            and message.kind in SPOKEN
            and message.visible_to in (None, seen_by)
        ]

    def is_typing(self, channel: DiscordChannel) -> bool:
        """Return True while people see that the bot is typing."""
        return may_view(channel) and self.state.clock.now() < channel.typing_until
