"""Shapes of A2A 1.0, as ProtoJSON has them: camelCase, names of enums, absent for default."""

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from palaver import Attachment, CallerError, encode
from palaver_plugins.channels.a2a.errors import (
    ContentTypeNotSupported,
    InvalidParams,
    ParseFailed,
)
from palaver_plugins.channels.inline_files import read_inline_file

OWN_KEY = "palaver"
"""Key of ``metadata`` for the server itself."""
MAX_PAGE = 100
OUTPUT_MODES = ("text/plain", "application/json")

Json = dict[str, Any]  # JSON values
Role = Literal["ROLE_USER", "ROLE_AGENT"]
TaskState = Literal[
    "TASK_STATE_SUBMITTED",
    "TASK_STATE_WORKING",
    "TASK_STATE_COMPLETED",
    "TASK_STATE_FAILED",
    "TASK_STATE_CANCELED",
    "TASK_STATE_INPUT_REQUIRED",
    "TASK_STATE_REJECTED",
    "TASK_STATE_AUTH_REQUIRED",
]
TERMINAL: frozenset[TaskState] = frozenset(
    {"TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"}
)
ENDS_STREAM: frozenset[TaskState] = TERMINAL | {"TASK_STATE_INPUT_REQUIRED"}
T = TypeVar("T")


class Shape(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """A message of the protocol."""


class Part(Shape):
    """Part of a message or an artifact: one of text, raw (base64), url, data."""

    text: str | None = None
    raw: str | None = None
    url: str | None = None
    data: Any = msgspec.UNSET  # a JSON value
    filename: str = ""
    media_type: str = ""
    metadata: Json | None = None


class ProtocolMessage(Shape):
    """What a client or the agent says."""

    message_id: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
    role: Role
    parts: Annotated[list[Part], msgspec.Meta(min_length=1)]
    context_id: str = ""
    task_id: str = ""
    metadata: Json | None = None
    extensions: list[str] = []
    reference_task_ids: list[str] = []


class TaskStatus(Shape):
    state: TaskState
    message: ProtocolMessage | None = None
    timestamp: str = ""


class Artifact(Shape):
    artifact_id: str
    parts: list[Part]
    name: str = ""


class Task(Shape):
    id: str
    context_id: str
    status: TaskStatus
    artifacts: list[Artifact] = []
    history: list[ProtocolMessage] = []


class AuthenticationInfo(Shape):
    """How a push notification proves where it comes from."""

    scheme: str = ""
    credentials: str = ""


class PushConfig(Shape):
    """Where the states of a task are posted to."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]
    id: str = ""
    task_id: str = ""
    token: Annotated[str, msgspec.Meta(max_length=2_000)] = ""
    authentication: AuthenticationInfo | None = None
    tenant: str = ""


class SendConfiguration(Shape):
    accepted_output_modes: list[str] = []
    task_push_notification_config: PushConfig | None = None
    history_length: Annotated[int, msgspec.Meta(ge=0)] | None = None
    return_immediately: bool = False


class SendRequest(Shape):
    """``SendMessageRequest``."""

    message: ProtocolMessage
    configuration: SendConfiguration = msgspec.field(default_factory=SendConfiguration)
    metadata: Json | None = None


class TaskRequest(Shape):
    """``GetTaskRequest``, ``CancelTaskRequest`` and ``SubscribeToTaskRequest``."""

    id: str
    history_length: Annotated[int, msgspec.Meta(ge=0)] | None = None


class ListRequest(Shape):
    """``ListTasksRequest``."""

    context_id: str = ""
    status: TaskState | Literal["", "TASK_STATE_UNSPECIFIED"] = ""
    page_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = 50
    page_token: str = ""
    history_length: Annotated[int, msgspec.Meta(ge=0)] | None = None
    status_timestamp_after: str = ""
    include_artifacts: bool = False


class ListResponse(msgspec.Struct, kw_only=True, rename="camel"):
    """``ListTasksResponse``; it has all its fields, always."""

    tasks: list[Task]
    next_page_token: str
    page_size: int
    total_size: int


class PushRequest(Shape):
    """A request about a push notification configuration, or about those of a task."""

    task_id: str
    id: str = ""
    page_size: int = 0
    page_token: str = ""


class PushConfigs(Shape):
    configs: list[PushConfig] = []


class Nothing(Shape):
    """No parameters."""


def read_json(body: bytes) -> Any:  # Any: a JSON value
    """Return a body. Raises `ParseFailed`."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ParseFailed(f"the body cannot be read: {error}") from error


def read_shape(value: object, kind: type[T], *, is_text: bool = False) -> T:
    """Return parameters. ``is_text``: the values come from a query. Raises `InvalidParams`."""
    try:
        return msgspec.convert(value, kind, strict=not is_text)
    except (msgspec.ValidationError, RecursionError) as error:
        message, _, place = str(error).partition(" - at `$")
        raise InvalidParams(str(error), place.strip(".`") or message) from error


def check_output_modes(modes: list[str]) -> None:
    """Raise `ContentTypeNotSupported` when a client accepts nothing that replies are made of."""
    known = {"*/*", "text/*", *OUTPUT_MODES}
    if modes and not known.intersection(mode.lower() for mode in modes):
        raise ContentTypeNotSupported(f"replies are {' and '.join(OUTPUT_MODES)}")


def read_parts(parts: list[Part]) -> tuple[str, tuple[Attachment, ...]]:
    """Return the text and the files of a message. Raises `ContentTypeNotSupported`,
    `InvalidParams`."""
    texts: list[str] = []
    attachments: list[Attachment] = []
    for number, part in enumerate(parts):
        where = f"message.parts[{number}]"
        if part.text is not None:
            texts.append(part.text)
        elif part.data is not msgspec.UNSET:
            texts.append(encode(part.data).decode())
        elif part.raw is not None:
            attachments.append(_read_file(part, where))
        elif part.url is not None:
            raise ContentTypeNotSupported(
                f"{where}: this server fetches no files; send the content itself, as 'raw'"
            )
        else:
            raise InvalidParams(f"{where}: a part has a text, raw or data", where)
    return "\n\n".join(texts), tuple(attachments)


def read_approval(parts: list[Part]) -> bool | None:
    """Return whether a message approves the call of a tool; None when it says nothing of that
    form."""
    for part in parts:
        match part.data:
            case {"approved": bool(is_approved)}:
                return is_approved
    return None


def _read_file(part: Part, where: str) -> Attachment:
    try:
        return read_inline_file(part.raw, part.media_type, part.filename, where=where)
    except CallerError as error:
        raise InvalidParams(error.public, where) from error
