"""Text as Slack stores and returns it, which is not the text that it was given."""

import re
from types import MappingProxyType

_ENTITY = r"<(?:[@#!][^<>\n]*|(?:https?|mailto):[^<>\n]+)>"
_URL = r"https?://[^\s<>|]+"
_PARTS = re.compile(f"({_ENTITY})|({_URL})|([&<>])")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

EMOJI = MappingProxyType(
    {
        "👍": "+1",
        "👎": "-1",
        "👀": "eyes",
        "👋": "wave",
        "🙏": "pray",
        "🎉": "tada",
        "🚀": "rocket",
        "🔥": "fire",
        "😀": "grinning",
        "😂": "joy",
        "😊": "blush",
        "🤔": "thinking_face",
        "❤️": "heart",
        "✅": "white_check_mark",
        "❌": "x",
        "⏳": "hourglass_flowing_sand",
    }
)
"""Emoji that the fake knows, with Slack's name; Slack knows all."""
_EMOJI = re.compile("|".join(map(re.escape, EMOJI)))
_NAMED_EMOJI = re.compile(r":([a-z0-9_+-]{1,40}):")
_BY_NAME = {name: emoji for emoji, name in EMOJI.items()}
_SHOWN = re.compile(r"<([^<>\n]*)>|&(amp|lt|gt);")


def encode(text: str) -> str:
    """Return what Slack makes of a text that a person types: ``& < >`` escaped, addresses marked
    as links, emoji as ``:name:``. Mentions like ``<@U1>`` stay."""
    return _named(_PARTS.sub(_encode_part, text)).strip()


def _encode_part(match: re.Match[str]) -> str:
    entity, url, special = match.groups()
    if entity:
        return str(entity)
    return f"<{url.replace('&', '&amp;')}>" if url else _ESCAPES[special]


def as_returned(text: str) -> str:
    """Return what Slack returns of a text that an app has posted: links marked, emoji as
    ``:name:``, white space at the ends removed, and a lone ``&`` escaped."""
    lone = re.sub(r"&(?!(?:amp|lt|gt);)", "&amp;", text)
    return _named(re.sub(f"{_ENTITY}|{_URL}", _mark_link, lone)).strip()


def _mark_link(match: re.Match[str]) -> str:
    return match[0] if match[0].startswith("<") else f"<{match[0]}>"


def _named(text: str) -> str:
    return _EMOJI.sub(lambda match: f":{EMOJI[match[0]]}:", text)


def emoji_of(name: str) -> str:
    """Return the emoji with a name, or the name between colons."""
    return _BY_NAME.get(name, f":{name}:")


def show_emoji(text: str) -> str:
    return _NAMED_EMOJI.sub(lambda match: emoji_of(match[1]), text)


def has_link(text: str) -> bool:
    return re.search(_URL, text) is not None
