"""Texts: what people write in Slack, as plain text and Markdown that a model reads.

Slack sends mentions and links in angle brackets, ``&``, ``<`` and ``>`` as entities, and emoji by
their names.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping

_TOKEN = re.compile(r"<([^<>]{1,4000})>")
_USER = re.compile(r"<@([UW][A-Z0-9]{1,30})(?:\|[^<>]{0,200})?>")
_ADDRESS = re.compile(_USER.pattern + r"[,:]?[ \t]?")
_EMOJI = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)"
    r"|(?<!\w):(?P<name>[a-z0-9_+'-]{1,60}):(?!\w)(?::skin-tone-[2-6]:)?",
    re.DOTALL,
)
_EVERYBODY = ("here", "channel", "everyone")
MAX_MENTIONS = 20
"""Mentions of a message that are shown with names."""

EMOJI = {
    "+1": "👍", "-1": "👎", "100": "💯", "blush": "😊", "boom": "💥", "clap": "👏",
    "confused": "😕", "cry": "😢", "disappointed": "😞", "exploding_head": "🤯", "eyes": "👀",
    "facepalm": "🤦", "grin": "😁", "grinning": "😀", "heart": "❤️", "heart_eyes": "😍",
    "heavy_check_mark": "✔️", "hugging_face": "🤗", "joy": "😂", "kissing_heart": "😘",
    "laughing": "😆", "muscle": "💪", "neutral_face": "😐", "no_entry": "⛔", "ok": "🆗",
    "ok_hand": "👌", "open_mouth": "😮", "party": "🥳", "partying_face": "🥳",
    "point_up": "☝️", "pray": "🙏", "question": "❓", "rage": "😡", "raised_hands": "🙌",
    "relaxed": "☺️", "rolling_on_the_floor_laughing": "🤣", "scream": "😱", "shrug": "🤷",
    "simple_smile": "🙂", "slightly_frowning_face": "🙁", "slightly_smiling_face": "🙂",
    "smile": "😄", "smiley": "😃", "smirk": "😏", "sob": "😭", "star-struck": "🤩",
    "stuck_out_tongue": "😛", "sunglasses": "😎", "sweat_smile": "😅", "tada": "🎉",
    "thinking_face": "🤔", "thumbsdown": "👎", "thumbsup": "👍", "upside_down_face": "🙃",
    "v": "✌️", "warning": "⚠️", "wave": "👋", "white_check_mark": "✅", "wink": "😉",
    "x": "❌", "yum": "😋", "zap": "⚡",
}  # fmt: skip
"""Emoji that people use most, by Slack's names. Most others have the names of Unicode."""


def mentioned_users(text: str) -> list[str]:
    """Return the ids of the users that a text mentions, the first `MAX_MENTIONS`."""
    return list(dict.fromkeys(match[1] for match in _USER.finditer(text)))[:MAX_MENTIONS]


def mentions(text: str, user: str) -> bool:
    """Return whether a text mentions a user."""
    return any(match[1] == user for match in _USER.finditer(text))


def without_mention(text: str, user: str) -> str:
    """Return a text without the mentions of one user, which is the bot."""
    return _ADDRESS.sub(lambda match: "" if match[1] == user else match[0], text).strip()


def readable(text: str, names: Mapping[str, str]) -> str:
    """Return a text of Slack as Markdown. ``names``: those of mentioned users by their ids."""
    return _EMOJI.sub(_emoji, "".join(_parts(text, names)))


def _parts(text: str, names: Mapping[str, str]) -> Iterator[str]:
    end = 0
    for match in _TOKEN.finditer(text):
        yield _unescape(text[end : match.start()])
        yield _token(_unescape(match[1]), names)
        end = match.end()
    yield _unescape(text[end:])


def _token(token: str, names: Mapping[str, str]) -> str:
    target, _, label = token.partition("|")
    kind, id = target[:1], target[1:]
    if kind == "@":
        return f"@{label or names.get(id, id)}"
    if kind == "#":
        return f"#{label or id}"
    if kind == "!":
        return f"@{id}" if id in _EVERYBODY else label or f"@{id.partition('^')[0]}"
    if not label or target.partition(":")[2].removeprefix("//") in (label, f"{label}/"):
        return target.removeprefix("mailto:")
    return target if label == target else f"[{label}]({target})"


def _unescape(text: str) -> str:
    """Resolve the three entities that Slack uses, and no other."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _emoji(match: re.Match[str]) -> str:
    if match["code"]:
        return match[0]
    return EMOJI.get(match["name"]) or _of_unicode(match["name"]) or match[0]


def _of_unicode(name: str) -> str:
    """Return the emoji whose name in Unicode is that of Slack, empty when there is none."""
    try:
        character = unicodedata.lookup(name.replace("_", " "))
    except KeyError:
        return ""
    return character if unicodedata.category(character) == "So" else ""
