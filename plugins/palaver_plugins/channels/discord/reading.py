"""Reading: a message of Discord as text, as a person or a model reads it."""

import datetime
import re
from collections.abc import Collection, Iterable, Mapping

import discord

MAX_QUOTE = 2_000
"""Characters of another message that are quoted."""
_MARKUP = re.compile(
    r"<(?:@!?(?P<user>\d{1,20})|@&(?P<role>\d{1,20})|\#(?P<channel>\d{1,20})"
    r"|a?:(?P<emoji>\w{1,40}):\d{1,20}|/(?P<command>[^<>:\n]{1,100}):\d{1,20}"
    r"|t:(?P<time>-?\d{1,12})(?::\w)?|id:(?P<page>\w{1,20}))>"
)


def readable(text: str, message: discord.Message) -> str:
    """Return text with the names of what it mentions; ``message`` tells them."""
    names = {
        "user": {user.id: user.display_name for user in message.mentions},
        "role": {role.id: role.name for role in message.role_mentions},
        "channel": {channel.id: channel.name for channel in message.channel_mentions},
    }
    return _MARKUP.sub(lambda match: _name(match, names), text)


def _name(match: re.Match[str], names: Mapping[str, Mapping[int, str]]) -> str:
    kind = match.lastgroup or ""
    value = match[kind]
    if kind in names:
        mark = "#" if kind == "channel" else "@"
        return mark + names[kind].get(int(value), kind)
    match kind:
        case "emoji":
            return f":{value}:"
        case "command":
            return f"/{value}"
        case "time":
            return _time(int(value))
        case _:
            return f"#{value}"


def _time(seconds: int) -> str:
    try:
        time = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"
    return f"{time:%Y-%m-%d %H:%M} UTC"


def read_text(message: discord.Message, address: Collection[str]) -> str:
    """Return what a message says, without the mentions of the bot around it: ``address``."""
    own = readable(without_address(message.content, address), message)
    return "\n\n".join(filter(None, (own, *_other_content(message))))


def without_address(text: str, address: Collection[str]) -> str:
    """Return a text without the mentions with which it begins or ends."""
    text = text.strip()
    for mention in address:
        if mention in text:
            while text.startswith(mention):
                text = text.removeprefix(mention).lstrip(" ,:\n")
            while text.endswith(mention):
                text = text.removesuffix(mention).rstrip()
    return text


def _other_content(message: discord.Message) -> Iterable[str]:
    for snapshot in message.message_snapshots:
        yield quote("Forwarded message", readable(snapshot.content, message))
    for sticker in message.stickers:
        yield f"[sticker: {sticker.name}]"
    if message.poll:
        answers = " / ".join(answer.text for answer in message.poll.answers)
        yield f"[poll: {message.poll.question} {answers}]"
    if message.flags.voice:
        seconds = sum(file.duration or 0 for file in message.attachments)
        yield f"[voice message of {seconds:.0f} s]"


def quote(title: str, text: str) -> str:
    """Return another message as a quote; an empty one as nothing."""
    text = text.strip()
    if not text:
        return ""
    text = text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]} […]"
    return f"{title}:\n> " + text.replace("\n", "\n> ")


def attachments_of(message: discord.Message) -> list[discord.Attachment]:
    """Return the files of a message, and of those that it forwards."""
    forwarded = [file for each in message.message_snapshots for file in each.attachments]
    return [*message.attachments, *forwarded]
