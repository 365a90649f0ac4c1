"""The data that flows: conversations, messages, events, history. Read this first.

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

ToolState = Literal["started", "done", "failed", "unknown", "denied"]
"""``unknown``: it was started before a takeover, and may or may not have run. ``denied``: the
person did not approve it."""

MAX_ID_LENGTH = 200
_FORBIDDEN_IN_NAMES = re.compile(r"[{}:*/\x00-\x1f\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ORDER = re.compile(r"[\w.-]{1,64}", re.ASCII)

FinishReason = Literal["stop", "length", "tool_calls"]
"""Why a generation ended: by itself; ``length``: its limit of tokens cut it; ``tool_calls``: the
model waits for the results of tools."""

Role = Literal["system", "developer", "user", "assistant", "tool"]
"""Who wrote a message."""

Outcome = Literal["done", "asked", "stopped", "failed"]
"""How a turn ended. ``asked``: with a question; the person's next message continues the skill."""

ConcurrencyPolicy = Literal["queue", "merge", "interrupt", "steer"]
"""What happens to a message while turns of its conversation are unsettled.

``queue``: it gets a turn of its own, after the others. ``merge``: its turn begins when no message
of the same person has arrived for a window (at most five windows after the first); a message that
arrives before that joins it, if it is still the newest turn. ``interrupt``: the running turn is
stopped, if it is the same person's, and the message's own turn answers the stopped messages too; a
message that arrives before that turn has begun joins it. ``steer``: it is passed to the running
turn, whichever person's that is. With ``interrupt`` and ``steer``, a message of the same person
also joins the newest turn while that waits for a start delay and none runs.

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


def check_order(value: str) -> str:
    """Refuse an order that is no word of up to 64 ASCII letters, digits and ``. _ -``.

    Raises `InvalidInput`."""
    if not _ORDER.fullmatch(value):
        raise InvalidInput(
            f"order {value[:60]!r} is not usable: 1 to 64 ASCII letters, digits and . _ -"
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


class Attachment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file that travels with a message or a reply. ``url`` may be a ``data:`` URL; that of a
    stored file is its `FILE_PATH` and its id. ``size`` is in bytes, 0 where it is not known."""

    name: str
    media_type: str
    url: str
    size: int = 0


FILE_PATH = "/v1/files/"
"""Address of the stored files; an id follows."""


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the files that a person may upload and send, in bytes and in files."""

    max_file_bytes: int
    per_message: int


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a person has uploaded. ``media_type`` is that of its content. Times are in
    seconds since the epoch; ``expires_at`` is null when the file was sent with a message: then it
    lasts as long as the conversation."""

    id: str
    name: str
    media_type: str
    size: int
    sha256: str
    created_at: float
    expires_at: float | None

    @property
    def attachment(self) -> Attachment:
        """Return the file as an attachment of a message."""
        return Attachment(
            name=self.name,
            media_type=self.media_type,
            url=FILE_PATH + self.id,
            size=self.size,
        )


class ClientTool(msgspec.Struct, frozen=True, kw_only=True):
    """Tool that a program offers to the model, and runs itself. ``parameters`` is the JSON Schema
    of an object."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}  # a JSON Schema document


class ClientCall(msgspec.Struct, frozen=True, kw_only=True):
    """Call of a `ClientTool`, with which a reply ends: the program sends the result with a message
    of its own. ``arguments`` is what the model wrote: a JSON object, unless it made a mistake."""

    id: str
    name: str
    arguments: str


class SentMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Message of a conversation as a program has sent it. The URLs of ``attachments`` are ``data:``
    URLs. An assistant's may have ``calls``; ``call`` is the id of the one whose result a message of
    role ``tool`` is."""

    role: Role
    text: str
    attachments: tuple[Attachment, ...] = ()
    calls: tuple[ClientCall, ...] = ()
    call: str = ""

    @property
    def shown(self) -> str:
        """Return the text, with the tools that it calls."""
        called = [f"[calls {call.name}({call.arguments})]" for call in self.calls]
        return "\n".join([self.text, *called] if self.text else called)


class ProgramRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a program asks for with a message.

    ``history`` is the conversation so far, where the program keeps it: the skill sees it in place
    of the ledger's; None: the ledger's. Of that history, the last ``following`` entries come after
    the message: calls of tools and their results. ``input`` is the message and others that were
    sent with it, in their order, where it is not a single one of the user; the history keeps them.
    ``instructions`` are a system message for this message only. ``note`` is what the channel keeps
    with the message, for itself.

    ``tools`` are those that the program runs; `tool_choice`: as in `palaver.engine`, or the name of
    one of them in ``forced_tool``. ``call_prefix``: what ids of calls begin with when a skill waits
    for their results; empty: the turn's id. The others override the sampling parameters of what the
    model writes for the reply, see `palaver.engine.Sampling`; None: those of the skill.
    ``max_tokens`` limits all of it together. ``retention``: seconds for which the conversation is
    kept after its last turn; None: as long as any other. A text with an unknown ``/command`` is a
    text.
    ``is_answer``: the message answers the question that waits in the conversation, whatever it
    looks like. ``model``: the model of ``engine.models`` that writes; empty: that of the skill.
    """

    history: tuple[SentMessage, ...] | None = None
    following: int = 0
    input: tuple[SentMessage, ...] = ()
    instructions: str = ""
    note: str = ""
    tools: tuple[ClientTool, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    forced_tool: str = ""
    parallel_tool_calls: bool = True
    call_prefix: str = ""
    retention: float | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    logprobs: int | None = None
    json_schema: dict[str, Any] | None = None  # a JSON Schema document
    is_answer: bool = False
    model: str = ""

    @property
    def results(self) -> dict[str, str]:
        """Return the results that the input brings, by the id of their call; nothing when it has
        anything else."""
        if any(sent.role != "tool" for sent in self.input):
            return {}
        return {sent.call: sent.text for sent in self.input}


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a person sent.

    ``id`` is the client's own id for it (a client UUID, a Slack event id): the same id twice in a
    conversation is the same message. ``person`` identifies who wrote it within the tenant.
    ``skill`` and ``arguments`` are set when the person named a skill explicitly, ``program`` where
    a program asks for more. ``after``: the settled turn of the history that the message follows,
    empty for the beginning; what came after it is superseded. None: it follows the newest turn.

    ``answers`` is the id of the `Approval` that the message answers, as a button sends it. Empty:
    it may answer the question that was asked last.

    ``withdraws`` is the turn whose question the message ends without an answer: its own turn ends
    as stopped, and no skill runs.

    ``order`` is the message's place on its platform, as text of a fixed width that compares as the
    platform orders the messages of the conversation (its time, or its id): a message goes before
    those with a greater ``order`` that were accepted before it and have not begun. Empty: messages
    keep the order in which they are accepted.
    """

    conversation: Conversation
    id: str
    person: str
    text: str
    skill: str | None = None
    arguments: dict[str, Any] = {}  # JSON values, validated by the skill's Arguments model
    attachments: tuple[Attachment, ...] = ()
    metadata: dict[str, str] = {}
    program: ProgramRequest | msgspec.UnsetType = msgspec.UNSET
    after: str | None = None
    answers: str = ""
    withdraws: str = ""
    order: str = ""

    def __post_init__(self) -> None:
        check_id(self.id, "message id")
        check_name(self.person, "person")
        if self.answers:
            check_id(self.answers, "answered approval")
        if self.order:
            check_order(self.order)
            if self.after is not None:
                raise InvalidInput(f"message {self.id!r} has an order, and follows a named turn")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over what the message says, to tell a retry from another body."""
        body = (self.person, self.text, self.skill, self.arguments, self.attachments)
        more: tuple[object, ...] = () if self.program is msgspec.UNSET else (self.program,)
        if self.after is not None:
            more = (*more, self.after)
        if self.answers:
            more = (*more, ("answers", self.answers))
        if self.withdraws:
            more = (*more, ("withdraws", self.withdraws))
        return hashlib.sha256(_sorted_encoder.encode((*body, *more))).hexdigest()

    @property
    def sent_history(self) -> tuple[SentMessage, ...] | None:
        """Return the conversation so far where the program keeps it, else None."""
        return None if self.program is msgspec.UNSET else self.program.history


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
        answers="",  # what is said together with something else is no approval
        withdraws="",
    )


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a statement comes from: the ``number`` shown as [n], the document and its passage."""

    number: int
    document: str
    title: str
    passage: str
    section: str = ""


class ToolUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tool that a reply has used, as the history keeps it: what is long is cut. ``call`` as in
    `ToolCalled`."""

    call: str = ""
    name: str
    state: ToolState
    arguments: dict[str, Any] = {}  # JSON values
    result: str = ""


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """Call of a tool that waits for the approval of the person who sent the message.

    ``id`` names it in `Message.answers`. ``arguments`` are all arguments of the call, with the
    defaults of those that were not given; ``shown_arguments`` are the same as a person sees them:
    JSON of several lines, with what is invisible escaped. ``definition`` is `Tool.digest`: another
    definition needs another approval. ``expires_at`` is in seconds since the epoch.
    """

    id: str
    tool: str
    description: str
    arguments: dict[str, Any]  # JSON values, validated by the tool's Arguments model
    shown_arguments: str
    definition: str
    expires_at: float


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Question with which a reply ended. ``options`` and ``approval`` as in `Asked`."""

    text: str
    options: tuple[str, ...] = ()
    approval: Approval | msgspec.UnsetType = msgspec.UNSET


class Problem(msgspec.Struct, frozen=True):
    """Why a turn failed: a `PalaverError` code and its public sentence."""

    code: str
    message: str


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Past message of a conversation. A ledger has those of users and the assistant, a program that
    keeps its history itself may send others (`ProgramRequest`). ``outcome`` and ``skill`` are set
    on the assistant's entries, ``person`` on the users'; the fields of `ReplyParts` where a reply
    has them, ``attachments`` where a message has some, ``input`` and ``note`` where a program has
    sent them with its message (`ProgramRequest`). ``call`` as in `SentMessage`. ``at`` is in
    seconds since the epoch. A ``text`` that was cut ends in `palaver.history.CUT_MARK`."""

    role: Role
    text: str
    turn: str
    at: float
    person: str = ""
    skill: str = ""
    outcome: Outcome | None = None
    citations: tuple[Citation, ...] | msgspec.UnsetType = msgspec.UNSET
    attachments: tuple[Attachment, ...] | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET
    score: float | msgspec.UnsetType = msgspec.UNSET
    tools: tuple[ToolUse, ...] | msgspec.UnsetType = msgspec.UNSET
    question: Question | msgspec.UnsetType = msgspec.UNSET
    problem: Problem | msgspec.UnsetType = msgspec.UNSET
    finish_reason: FinishReason | msgspec.UnsetType = msgspec.UNSET
    client_calls: tuple[ClientCall, ...] | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET
    input: tuple[SentMessage, ...] | msgspec.UnsetType = msgspec.UNSET
    note: str | msgspec.UnsetType = msgspec.UNSET
    call: str | msgspec.UnsetType = msgspec.UNSET


class ReplyParts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a reply has beside its text, and the history keeps with it. ``reason`` and ``score``
    tell why the skill was chosen, see `Routed`; ``finish_reason``, ``client_calls`` and ``model``
    as in `Finished`."""

    citations: tuple[Citation, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    reason: str = ""
    score: float | None = None
    tools: tuple[ToolUse, ...] = ()
    question: Question | None = None
    problem: Problem | None = None
    finish_reason: FinishReason = "stop"
    client_calls: tuple[ClientCall, ...] = ()
    model: str = ""

    @property
    def present(self) -> dict[str, Any]:
        """Return the fields that the reply has, as those of a `HistoryEntry`."""
        return {
            name: value
            for name, default in _NO_PARTS_FIELDS
            if (value := getattr(self, name)) != default
        }


NO_PARTS = ReplyParts()
_NO_PARTS_FIELDS = tuple(msgspec.structs.asdict(NO_PARTS).items())


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


class Received(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A message was accepted, ``at`` that time, in seconds since the epoch. ``ahead``: turns of
    this conversation that come first. ``moved``: the running turn that it was handed to is over and
    did not take it; this is its turn now."""

    turn: str
    id: str
    person: str
    text: str
    attachments: tuple[Attachment, ...] | msgspec.UnsetType = msgspec.UNSET
    moved: bool = False
    ahead: int = 0
    at: float = 0.0


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
    """A tool runs, or has run. ``call`` identifies the call: its events have the same."""

    turn: str
    call: str = ""
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
    """The skill asks and waits. ``options``: answers to choose from, or suggestions. ``approval``:
    the call of a tool that the question is about."""

    turn: str
    question: str
    options: tuple[str, ...] = ()
    approval: Approval | msgspec.UnsetType = msgspec.UNSET


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="finished"):
    """The turn is closed and stored. ``length``: code points of the whole reply. ``messages``: ids
    of the messages that the turn took, its own and those that steered it. One that steered it and
    is not among them becomes part of the next turn: a `Received` with ``moved`` follows.
    ``finish_reason`` is ``length`` when the limit of tokens has cut the reply, and ``tool_calls``
    when the model waits for the results of ``client_calls``. ``model`` is the name of the model
    that wrote the reply, the last one of several."""

    turn: str
    outcome: Outcome
    length: int
    messages: tuple[str, ...] = ()
    usage: Usage = Usage()
    problem: Problem | None = None
    finish_reason: FinishReason = "stop"
    client_calls: tuple[ClientCall, ...] | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET


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


BEGINS_LATER = "-later"
"""End of the epoch of a stream that begins after the conversation: its events are not all of it."""


def later_epoch() -> str:
    """Return the epoch of a stream that begins after the conversation."""
    return new_id() + BEGINS_LATER


def following_epoch(epoch: str) -> str:
    """Return an epoch after ``epoch``, of a stream that begins where that one does."""
    return later_epoch() if epoch.endswith(BEGINS_LATER) else new_id()


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
encode_sorted = _sorted_encoder.encode
decode_event = msgspec.json.Decoder(Event).decode
decode_message = msgspec.json.Decoder(Message).decode
