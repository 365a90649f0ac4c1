"""Run input: what a client asks for with a run, and the message that it is for the server.

Everything in it is the client's to choose. The conversation so far is the ledger's: of the
transcript that clients resend with every run, only the newest message of the user counts.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from palaver import (
    Attachment,
    Conversation,
    InvalidInput,
    Message,
    ProgramRequest,
    Question,
    SentMessage,
    encode,
)
from palaver_plugins.channels.agui.client_tools import read_client_tools
from palaver_plugins.channels.inline_files import read_inline_file

CHANNEL = "agui"
MAX_ID_LENGTH = 1_000
"""Characters of an id of the client."""
OWN_KEY = "palaver"
"""Key of ``forwardedProps`` and of the state that is the server's."""
METADATA = {"state": "agui.state", "context": "agui.context", "tools": "agui.tools"}
"""Names under which `Message.metadata` has what the client's page tells, as JSON."""
APPROVAL_SCHEMA = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}},
    "required": ["approved"],
}
"""JSON Schema of what answers an interrupt about the call of a tool."""
_MEDIA_PARTS = frozenset({"image", "audio", "video", "document"})

Json = dict[str, Any]  # JSON values
T = TypeVar("T")


Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]


class OwnProps(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may tell the server itself, in ``forwardedProps.palaver``: ``skill`` and
    ``arguments`` name a skill explicitly."""

    skill: str | None = None
    arguments: dict[str, Any] = {}  # JSON values, validated by the skill's Arguments model


class ResumeEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to an interrupt, or that it was abandoned."""

    interrupt_id: str
    status: Literal["resolved", "cancelled"]
    payload: Any = None  # a JSON value

    def read_answer(self, question: Question | None) -> str:
        """Return the answer to a question; empty when it is abandoned. The call of a tool is then
        denied. Raises `InvalidInput` for a payload that is not as ``responseSchema`` says."""
        is_cancelled = self.status == "cancelled"
        if question is not None and question.approval:
            approve, deny = question.options
            if is_cancelled:
                return deny
            decision = self.payload.get("approved") if isinstance(self.payload, dict) else None
            if not isinstance(decision, bool):
                raise InvalidInput('resume[0].payload: expected {"approved": true} or false')
            return approve if decision else deny
        if is_cancelled:
            return ""
        if not isinstance(self.payload, str) or not self.payload:
            raise InvalidInput("resume[0].payload: expected a text, as responseSchema says")
        return self.payload


class RunInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``RunAgentInput`` of AG-UI."""

    thread_id: Id
    run_id: Id
    messages: list[Json]
    parent_run_id: str | None = None
    state: Json | None = None
    tools: list[Json] | None = None
    context: list[Json] | None = None
    forwarded_props: Any = None  # a JSON value
    resume: list[ResumeEntry] | None = None

    @property
    def own_props(self) -> OwnProps:
        """Return what is for the server itself. Raises `InvalidInput`."""
        props = self.forwarded_props
        own = props.get(OWN_KEY) if isinstance(props, dict) else None
        if own is None:
            return OwnProps()
        try:
            return msgspec.convert(own, OwnProps)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"forwardedProps.{OWN_KEY}: {error}") from error

    @property
    def user_message(self) -> Json | None:
        """Return the newest message of the user."""
        return next((it for it in reversed(self.messages) if it.get("role") == "user"), None)


class StopInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The run to stop: the one that runs in the thread, or the one whose reply has the id
    ``messageId``."""

    thread_id: Id
    message_id: str | None = None


_run_decoder = msgspec.json.Decoder(RunInput)
_stop_decoder = msgspec.json.Decoder(StopInput)


def read_run(body: bytes) -> RunInput:
    """Return the input of a run. Raises `InvalidInput`."""
    run = _decode(_run_decoder, body)
    for number, message in enumerate(run.messages):
        if not (isinstance(message.get("id"), str) and isinstance(message.get("role"), str)):
            raise InvalidInput(f"messages[{number}]: a message needs an 'id' and a 'role'")
    return run


def read_stop(body: bytes) -> StopInput:
    """Return what is to be stopped. Raises `InvalidInput`."""
    return _decode(_stop_decoder, body)


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body cannot be read: {error}") from error


def conversation_of(tenant: str, person: str, thread_id: str) -> Conversation:
    """Return the conversation of a person's thread; nobody else has the same one."""
    return Conversation(tenant, CHANNEL, _digest("thread", person, thread_id))


def user_message(conversation: Conversation, person: str, run: RunInput, *, retry: bool) -> Message:
    """Return the newest message of the user, the same in each run that has it; with ``retry``, the
    same in this run alone. Raises `InvalidInput`."""
    sent = run.user_message
    assert sent is not None
    attempt = (run.run_id,) if retry else ()
    text, attachments = _read_content(sent.get("content"))
    return _message(
        conversation,
        person,
        run,
        id=_digest("message", conversation.thread, sent["id"], *attempt),
        text=text,
        attachments=attachments,
    )


def answer_message(
    conversation: Conversation, person: str, run: RunInput, turn: str, text: str
) -> Message:
    """Return the answer to the question of a turn: there is one for each question."""
    id = _digest("answer", conversation.thread, turn)
    return _message(conversation, person, run, id=id, text=text)


def results_message(
    conversation: Conversation, person: str, run: RunInput, results: Sequence[SentMessage]
) -> Message:
    """Return the message with results of the client's tools: there is one for each reply that waits
    for some."""
    id = _digest("results", conversation.thread, *sorted(result.call for result in results))
    return _message(conversation, person, run, id=id, text="")


def _message(
    conversation: Conversation,
    person: str,
    run: RunInput,
    *,
    id: str,
    text: str,
    attachments: tuple[Attachment, ...] = (),
) -> Message:
    own = run.own_props
    tools = read_client_tools(run.tools or ())
    return Message(
        conversation=conversation,
        id=id,
        person=person,
        text=text,
        attachments=attachments,
        skill=own.skill,
        arguments=own.arguments,
        program=ProgramRequest(tools=tools) if tools else msgspec.UNSET,
        metadata={
            name: encode(value).decode()
            for field, name in METADATA.items()
            if (value := _without_own(getattr(run, field)))
        },
    )


def _without_own(value: Any) -> Any:  # Any: a JSON value
    """Return what is the client's own of a value: the server's part of the state is left out."""
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if key != OWN_KEY}
    return value


def _digest(*words: str) -> str:
    return hashlib.sha256(encode((CHANNEL, *words))).hexdigest()[:32]


# Content


def _read_content(content: object) -> tuple[str, tuple[Attachment, ...]]:
    """Return the text and the files of a message. Raises `InvalidInput`."""
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, Sequence) or not content:
        raise InvalidInput("the content of a user's message is a text, or a list of parts")
    texts: list[str] = []
    attachments: list[Attachment] = []
    for number, part in enumerate(content):
        where = f"content[{number}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in _MEDIA_PARTS:
            attachments.append(_read_file(part, f"{where}.source"))
        else:
            raise InvalidInput(f"{where}: expected a part of the type text, image or document")
    return "\n\n".join(texts), tuple(attachments)


def _read_file(part: Mapping[str, Any], where: str) -> Attachment:
    source, metadata = part.get("source"), part.get("metadata")
    if not isinstance(source, Mapping) or source.get("type") != "data":
        raise InvalidInput(
            f"{where}: this server fetches no files; send the content itself, as a source of the "
            "type 'data'"
        )
    name = metadata.get("filename") if isinstance(metadata, Mapping) else None
    return read_inline_file(
        source.get("value"),
        source.get("mimeType"),
        name,
        where=where,
        is_image=part["type"] == "image",
    )


def without_nulls(message: Json) -> Json:
    """Return a message of the client without fields that are null: older clients refuse them."""
    return {key: value for key, value in message.items() if value is not None}


def other_messages(messages: Sequence[Json], own_ids: set[str]) -> Iterator[Json]:
    """Yield the client's messages that are no part of the reply with ``own_ids``."""
    for message in messages:
        if message["id"] not in own_ids and message.get("toolCallId") not in own_ids:
            yield without_nulls(message)
