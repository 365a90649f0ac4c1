"""Platform: posts replies as messages of Discord."""

import base64
import dataclasses
import hashlib
import io
import re
from typing import Any

import discord

from palaver import Conversation
from palaver.platforms import (
    AlreadyPosted,
    MessageGone,
    NotEditable,
    OutgoingPost,
    Platform,
    Source,
    TurnReply,
    closing_text,
    escape,
)
from palaver_plugins.channels.discord.api import Api
from palaver_plugins.channels.discord.controls import has_controls_of, posts_of, view_of
from palaver_plugins.channels.discord.errors import (
    NO_HISTORY,
    UNKNOWN_MESSAGE,
    is_limit_of_old_edits,
)
from palaver_plugins.channels.discord.interactions import InteractionSource
from palaver_plugins.channels.discord.markdown import SUBTEXT_LEVEL, DiscordDialect
from palaver_plugins.channels.discord.places import COMMAND, MessageSource, Place

MAX_LENGTH = 2_000
EDIT_INTERVAL = 1.5
"""Edits and posts share a rate limit of about five in five seconds."""
MAX_UPLOAD = 10 * 2**20
"""Bytes of a file; servers with boosts take more."""
SEARCHED = 1_000
"""Messages among which a post is looked for whose answer was lost."""
SUBTEXT = "#" * SUBTEXT_LEVEL
NOTHING = "0"
"""Id of a post that shows nothing, or that somebody has deleted before its id was known."""
_SPACE = re.compile(r"[\s\u200b]+")


class DiscordPlatform(Platform):
    dialect = DiscordDialect()
    max_length = MAX_LENGTH
    edit_interval = EDIT_INTERVAL

    def __init__(self, api: Api) -> None:
        self._api = api

    def closing_text(self, reply: TurnReply) -> str:
        rest = closing_text(dataclasses.replace(reply, citations=[]))
        sources = " · ".join(
            rf"\[{each.number}\] {escape(' '.join(_source(each.title, each.section).split()))}"
            for each in reply.citations
        )
        return "\n\n".join(filter(None, (rest, sources and f"{SUBTEXT} {sources}")))

    async def create(self, post: OutgoingPost) -> str:
        text, file = _content(post)
        if not text and file is None:
            return NOTHING
        async with self._api.call() as client:
            try:
                message = await _send(client, post)
            except discord.NotFound as error:
                if error.code != UNKNOWN_MESSAGE:
                    raise
                return NOTHING  # an earlier attempt has posted it, and somebody has deleted it
        if file is None and not (
            _is_same(message.content, text) and has_controls_of(message, post)
        ):
            raise AlreadyPosted(str(message.id))  # with what it said at that time
        return str(message.id)

    async def edit(self, post: OutgoingPost) -> None:
        async with self._api.call() as client:
            view = view_of(post)
            try:
                await _message(client, post).edit(content=post.text, view=view)
            except (discord.HTTPException, discord.RateLimited) as error:
                if not is_limit_of_old_edits(error):
                    raise
                raise NotEditable("the message is older than an hour") from error
            _forget(view)

    async def delete(self, post: OutgoingPost) -> None:
        async with self._api.call() as client:
            await _message(client, post).delete()

    async def find(self, post: OutgoingPost) -> str:
        """Read the messages since the one before it in the reply, or since the one that was asked.

        Discord stores no nonce. Controls name their post; without controls it is the text, or the
        size of the file, that tells which message it is.
        """
        after = _id(post.previous) or _asked(post)
        async with self._api.call() as client:
            history = _channel(client, post.conversation).history(
                limit=SEARCHED if after else 100,
                after=discord.Object(after) if after else None,
                oldest_first=bool(after),
            )
            async for message in history:
                if message.author == client.user and _is_post(message, post):
                    return str(message.id)
        return ""

    async def notify(self, source: Source, text: str) -> None:
        if isinstance(source, InteractionSource):
            await source.answer.tell(self.dialect.text(text))
        elif isinstance(source, MessageSource):
            await self._reply(source, self.dialect.text(text))

    async def _reply(self, source: MessageSource, text: str) -> None:
        async with self._api.call() as client:
            channel = client.get_partial_messageable(source.channel)
            await channel.send(
                text,
                reference=reference(Place(None, source.channel), source.message),
                suppress_embeds=True,
                silent=True,  # by this `find` knows that it is no post
            )

    async def show_progress(self, conversation: Conversation, reply: TurnReply) -> None:
        async with self._api.call() as client:
            await _channel(client, conversation).typing()

    async def end_progress(self, conversation: Conversation, reply: TurnReply) -> None:
        """Do nothing: a post ends it, and so do ten seconds."""


def nonce_of(post: str) -> str:
    """Return the nonce of a post: while Discord remembers it, a repeated post is the same one."""
    digest = hashlib.sha256(post.encode()).digest()
    return base64.urlsafe_b64encode(digest)[:25].decode()


def _channel(client: discord.Client, conversation: Conversation) -> discord.PartialMessageable:
    place = Place.of(conversation)
    return client.get_partial_messageable(place.channel, guild_id=place.guild)


def _message(client: discord.Client, post: OutgoingPost) -> discord.PartialMessage:
    """Return the message of a post. Raises `MessageGone` when it has none."""
    message = _id(post.message)
    if not message:
        raise MessageGone("the message is deleted")
    return _channel(client, post.conversation).get_partial_message(message)


async def _send(client: discord.Client, post: OutgoingPost) -> discord.Message:
    """Post a message, as a reply to the one that was asked where the bot may refer to it."""
    asked = _asked_reference(post)
    try:
        return await _send_once(client, post, asked)
    except discord.HTTPException as error:
        if error.code != NO_HISTORY or asked is None:
            raise
        return await _send_once(client, post, None)


async def _send_once(
    client: discord.Client, post: OutgoingPost, asked: discord.MessageReference | None
) -> discord.Message:
    text, file = _content(post)
    view = view_of(post)
    parts = {"reference": asked, "view": view, "file": file}
    present: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
    channel = _channel(client, post.conversation)
    message = await channel.send(text, nonce=nonce_of(post.id), suppress_embeds=True, **present)
    _forget(view)
    return message


def _forget(view: discord.ui.View | None) -> None:
    """Let the library forget a view that it has sent."""
    if view is not None:
        view.stop()


def _content(post: OutgoingPost) -> tuple[str, discord.File | None]:
    """Return the text of a post, and its file."""
    file = post.attachment
    if file is None:
        return post.text.strip(), None
    if len(post.content) > MAX_UPLOAD:
        return DiscordPlatform.dialect.text(f"{file.name} is too large for Discord."), None
    return "", discord.File(io.BytesIO(post.content), file.name)


def _is_post(message: discord.Message, post: OutgoingPost) -> bool:
    """Return whether the bot's message is a post: not a notice, nor the answer to a command."""
    if message.flags.suppress_notifications or message.interaction_metadata:
        return False
    if posts := posts_of(message):
        return post.id in posts
    text, file = _content(post)
    if file is None:
        return _is_same(message.content, text)
    return any(each.size == len(post.content) for each in message.attachments)


def _is_same(shown: str, text: str) -> bool:
    """Return whether Discord shows a text, whose space it may have changed."""
    return _SPACE.sub("", shown) == _SPACE.sub("", text)


def _asked_reference(post: OutgoingPost) -> discord.MessageReference | None:
    """Return what the first post of a reply in a channel of many people refers to."""
    place = Place.of(post.conversation)
    asked = _id(next(iter(post.reply.messages), ""))  # none for a command
    is_here = asked not in (0, place.channel)  # a thread has its first message's id
    is_first = post.number == 0 and place.guild is not None
    return reference(place, asked) if is_here and is_first else None


def reference(place: Place, message: int) -> discord.MessageReference:
    return discord.MessageReference(
        message_id=message,
        channel_id=place.channel,
        guild_id=place.guild,
        fail_if_not_exists=False,
    )


def _asked(post: OutgoingPost) -> int:
    """Return the id of the message that the post answers, or of the command; 0: not known."""
    return _id(post.reply.messages[0].removeprefix(COMMAND)) if post.reply.messages else 0


def _id(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _source(title: str, section: str) -> str:
    return f"{title}, {section}" if section else title
