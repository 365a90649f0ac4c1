"""Bodies: what senders post to an endpoint, and what they are answered."""

from typing import Annotated, Any

import msgspec

from palaver import InvalidInput

MAX_BODY_BYTES = 20_480
"""Bytes of a body that is posted to an endpoint."""
Name = Annotated[
    str,
    msgspec.Meta(min_length=1, max_length=150, pattern=r"^[^{}:*/\u0000-\u001f\u007f]+$"),
]
"""Name of a thread or a person; the server adds the endpoint's name to it."""


class MessageData(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says. ``thread`` names the conversation, ``person`` who writes; both are the
    sender's own names. ``skill`` and ``arguments`` name a skill explicitly. ``answer_to``: the turn
    whose question the message answers; it is refused when another message has come before."""

    thread: Name
    person: Name
    text: str
    skill: str | None = None
    arguments: dict[str, Any] = {}  # JSON values, validated by the skill's Arguments model
    answer_to: str | None = None


class ReadData(msgspec.Struct, frozen=True, kw_only=True):
    """The turn whose reply is asked for."""

    thread: Name
    turn: str


class PostedMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A message, which is answered by a turn. ``timestamp``: when it was written; not used."""

    data: MessageData
    timestamp: str = ""


class PostedRead(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reply.read"):
    """A request for the whole reply of a turn."""

    data: ReadData
    timestamp: str = ""


Posted = PostedMessage | PostedRead


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag_field="state", tag="accepted"):
    """The message is stored, and ``turn`` answers it. ``duplicate``: it had been stored before."""

    turn: str
    duplicate: bool


class Unfinished(msgspec.Struct, frozen=True, kw_only=True, tag_field="state", tag="unfinished"):
    """The turn has not ended."""

    turn: str


_decoder: msgspec.json.Decoder[Posted] = msgspec.json.Decoder(Posted)


def decode_posted(body: bytes) -> Posted:
    """Return a body. Raises `InvalidInput`."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body cannot be read: {error}") from error
