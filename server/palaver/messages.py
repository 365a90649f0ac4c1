"""The data that flows: conversations, messages, events. Read this first.

A person's `Message` is accepted into a `Conversation`; answering it is a turn; what the turn puts
out is a sequence of `Event`. Events are tagged by ``type`` and are the wire format as they stand:
the websocket, SSE and the ledgers all carry the JSON that `encode` makes.

Text positions count Unicode code points, not bytes and not UTF-16 units.
"""

import hashlib
import re
import uuid
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from palaver.errors import InvalidInput

ToolState = Literal["started", "done", "failed", "unknown"]
"""``unknown``: it was started before a takeover, and may or may not have run."""

MAX_ID_LENGTH = 200
_FORBIDDEN_IN_NAMES = re.compile(r"[{}:*/\x00-\x1f\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Outcome = Literal["done", "asked", "stopped", "failed"]
"""How a turn ended. ``asked``: with a question; the person's next message continues the skill."""

ConcurrencyPolicy = Literal["queue", "merge", "interrupt", "steer"]
"""What happens to a message while turns of its conversation are unsettled.

``queue``: it gets a turn of its own, after the others. ``merge``: its turn begins when no message
of the same person has arrived for a window (at most five windows after the first); a message that
arrives before that joins it, if it is still the newest turn. ``interrupt``: the running turn is
stopped, if it is the same person's, and the message's own turn answers the stopped messages too; a
message that arrives before that turn has begun joins it. ``steer``: it is passed to the running
turn, whichever person's that is.

A message that names a skill joins no turn, and no message joins a turn that was told to stop. Where
a policy does not apply, the message queues.
"""


def check_name(value: str, what: str) -> str:
    """Refuse an id that could reach outside its own keys.

    Raises `InvalidInput` when ``value`` is empty, longer than 200 characters, or contains one of
    ``{ } : * /`` or a control character. The reserved ones separate and glob the ledgers' keys.
    """
    if not value or len(value) > MAX_ID_LENGTH or _FORBIDDEN_IN_NAMES.search(value):
        raise InvalidInput(
            f"{what} {value[:60]!r} is not usable: 1 to {MAX_ID_LENGTH} characters, "
            "none of {}:*/ and no control characters"
        )
    return value


def check_id(value: str, what: str) -> str:
    """Refuse a client's id that is empty, over-long or holds control characters."""
    if not value or len(value) > MAX_ID_LENGTH or _CONTROL.search(value):
        raise InvalidInput(
            f"{what} {value[:60]!r} is not usable: 1 to {MAX_ID_LENGTH} characters, "
            "no control characters"
        )
    return value


def new_id() -> str:
    """Return a new random id, 32 hexadecimal characters."""
    return uuid.uuid4().hex


class Conversation(msgspec.Struct, frozen=True):
    """One ordered exchange, written ``tenant/channel/thread``."""

    tenant: str
    channel: str
    thread: str

    def __post_init__(self) -> None:
        check_name(self.tenant, "tenant")
        check_name(self.channel, "channel")
        check_name(self.thread, "thread")

    def __str__(self) -> str:
        return f"{self.tenant}/{self.channel}/{self.thread}"

    @classmethod
    def parse(cls, text: str) -> "Conversation":
        """Return the value that ``str`` has written. Raises `InvalidInput`."""
        parts = text.split("/")
        if len(parts) != 3:
            raise InvalidInput(f"conversation {text!r} is not of the form tenant/channel/thread")
        return cls(*parts)


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A file that travels with a message or a reply. ``url`` may be a ``data:`` URL."""

    name: str
    media_type: str
    url: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a person sent.

    ``id`` is the client's own id for it (a client UUID, a Slack event id): the same id twice in a
    conversation is the same message. ``person`` identifies who wrote it within the tenant.
    ``skill``
    and ``arguments`` are set when the person named a skill explicitly.
    """

    conversation: Conversation
    id: str
    person: str
    text: str
    skill: str | None = None
    arguments: dict[str, Any] = {}  # JSON values, validated by the skill's Arguments model
    attachments: tuple[Attachment, ...] = ()
    metadata: dict[str, str] = {}

    def __post_init__(self) -> None:
        check_id(self.id, "message id")
        check_name(self.person, "person")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over what the message says, to tell a retry from another body."""
        body = (self.person, self.text, self.skill, self.arguments, self.attachments)
        return hashlib.sha256(_sorted_encoder.encode(body)).hexdigest()


def merge_messages(messages: Sequence[Message]) -> Message:
    """Several messages of a conversation as one: the texts set apart by an empty line, the ids,
    the person and what was asked for by name from the first that has it."""
    if len(messages) == 1:
        return messages[0]
    named = next((message for message in messages if message.skill), messages[0])
    return msgspec.structs.replace(
        messages[0],
        text="\n\n".join(message.text for message in messages),
        skill=named.skill,
        arguments=named.arguments,
        attachments=tuple(held for message in messages for held in message.attachments),
        metadata={key: value for message in messages for key, value in message.metadata.items()},
    )


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a statement comes from: the ``number`` shown as [n], the document and its passage."""

    number: int
    document: str
    title: str
    passage: str
    section: str = ""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens, as the engine counted them. ``cached_tokens`` of the prompt came from its cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )


class Problem(msgspec.Struct, frozen=True):
    """Why a turn failed: a `PalaverError` code and its public sentence."""

    code: str
    message: str


class Received(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A message was accepted. ``ahead``: turns of this conversation that come first. ``moved``:
    the running turn that it was handed to is over and did not take it; this is its turn now."""

    turn: str
    id: str
    person: str
    text: str
    moved: bool = False
    ahead: int = 0


class Started(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="started"):
    """A worker began the turn. ``attempt`` is 1, or more after a takeover; then the reply goes on
    from ``position``, and what a reader has beyond it was never stored and is withdrawn."""

    turn: str
    attempt: int
    position: int = 0


class Queued(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="queued"):
    """The turn waits for its place at the engine; about ``ahead`` generations come first."""

    turn: str
    ahead: int


class Routed(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="routed"):
    """The skill was chosen. ``reason`` is a sentence; ``score`` is a probability, or None."""

    turn: str
    skill: str
    reason: str
    score: float | None = None


class Text(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """The reply goes on with ``text`` at ``position`` (code points said before it)."""

    turn: str
    position: int
    text: str

    @property
    def end(self) -> int:
        return self.position + len(self.text)


class TextReset(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="text_reset"):
    """What was said from ``position`` on is withdrawn."""

    turn: str
    position: int


class ToolCalled(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="tool"):
    """A tool runs, or has run."""

    turn: str
    name: str
    arguments: dict[str, Any]  # JSON values, validated by the tool's Arguments model
    state: ToolState
    result: str = ""


class Cited(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="citation"):
    turn: str
    citation: Citation


class Attached(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="attachment"):
    turn: str
    attachment: Attachment


class Asked(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="question"):
    """The skill asks and waits. ``options``: answers to choose from, or suggestions."""

    turn: str
    question: str
    options: tuple[str, ...] = ()


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="finished"):
    """The turn is closed and stored. ``length``: code points of the whole reply. ``messages``: ids
    of the messages that the turn took, its own and those that steered it. One that steered it and
    is not among them becomes part of the next turn: a `Received` with ``moved`` follows."""

    turn: str
    outcome: Outcome
    length: int
    messages: tuple[str, ...] = ()
    usage: Usage = Usage()
    problem: Problem | None = None


Event = (
    Received
    | Started
    | Queued
    | Routed
    | Text
    | TextReset
    | ToolCalled
    | Cited
    | Attached
    | Asked
    | Finished
)


class StoredEvent(msgspec.Struct, frozen=True):
    """An event as the ledger holds it: its ``offset`` in the conversation (1, 2, 3, …)."""

    offset: int
    event: Event


OFFSET_DIGITS = 15
"""Most digits of an offset: above 2⁵³ neither JavaScript nor Redis' Lua counts exactly."""


MAX_OFFSET = 10**OFFSET_DIGITS - 1


class Cursor(msgspec.Struct, frozen=True):
    """A place in a conversation's stream: everything up to and including ``offset`` was seen.

    ``epoch`` names the stream's life; a cursor of another epoch means nothing.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Return the value that ``str`` has written. Raises `InvalidInput`."""
        epoch, separator, offset = text.rpartition(":")
        known = offset.isascii() and offset.isdigit() and len(offset) <= OFFSET_DIGITS
        if not separator or not epoch or not known:
            raise InvalidInput(f"cursor {text[:60]!r} is not of the form epoch:offset")
        return cls(epoch, int(offset))


_sorted_encoder = msgspec.json.Encoder(order="deterministic")
encode = msgspec.json.Encoder().encode
decode_event = msgspec.json.Decoder(Event).decode
decode_message = msgspec.json.Decoder(Message).decode
