"""Bodies: the JSON of the HTTP API's requests and responses."""

from typing import Annotated, Any, Literal

import msgspec

from palaver.config.settings import Right
from palaver.conversations import MAX_TITLE_LENGTH, ConversationSummary, Share
from palaver.feedback import MAX_COMMENT_LENGTH, Feedback, FeedbackReason
from palaver.ledger import StopState
from palaver.messages import MAX_ID_LENGTH, FileLimits, StoredFile
from palaver.models.choices import SetupProgress
from palaver.models.servers import ModelServer, ServedModel
from palaver.platforms.pairing import ApprovedPerson, PairingRequest
from palaver.tool_sources import OfferedTool
from palaver.web.frames import ConversationSnapshot, FileReference

_NAME = r"[^{}:*/\u0000-\u001f\u007f]"
NAME_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_ID_LENGTH,
    "pattern": f"^{_NAME}+$",
}
"""JSON schema of what `palaver.messages.check_name` accepts, which also explains a refusal."""
ID_SCHEMA = NAME_SCHEMA | {"pattern": r"^[^\u0000-\u001f\u007f]+$"}
"""JSON schema of what `palaver.messages.check_id` accepts."""
PERSON_SCHEMA = NAME_SCHEMA | {"minLength": 0, "pattern": f"^{_NAME}*$"}
"""JSON schema of a person's name; an empty one is as good as none."""
NOT_BLANK = r"[^\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
"""Pattern of a text that holds more than what `str.split` takes for white space."""
PersonName = Annotated[str, msgspec.Meta(extra_json_schema=PERSON_SCHEMA)]
TITLE_SCHEMA = {
    "type": "string",
    "maxLength": MAX_TITLE_LENGTH,
    "pattern": r"^[^\u0000-\u001f\u007f]*$",
}
Title = Annotated[str, msgspec.Meta(extra_json_schema=TITLE_SCHEMA)]
Comment = Annotated[str, msgspec.Meta(max_length=MAX_COMMENT_LENGTH)]
ClientId = Annotated[str, msgspec.Meta(extra_json_schema=ID_SCHEMA)]


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message. ``id`` is the client's own, unless the header has it. ``after``: the turn after
    which the conversation continues, null for the beginning. ``answers``: the id of the approval
    that the message answers."""

    text: str
    id: ClientId | None = None
    skill: str | None = None
    arguments: dict[str, Any] = {}  # JSON values, validated by the skill's Arguments model
    attachments: tuple[FileReference, ...] = ()
    person: PersonName | None = None
    after: str | msgspec.UnsetType | None = msgspec.UNSET
    answers: ClientId | None = None


class SelectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The alternative that becomes part of the history."""

    turn: str


class RevisionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The text that replaces that of a message; not blank."""

    text: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": NOT_BLANK})]


class StopRequest(msgspec.Struct, frozen=True, kw_only=True):
    turn: str | None = None


class StopResponse(msgspec.Struct, frozen=True, kw_only=True):
    turn: str
    state: StopState


class ConversationResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A whole conversation; its next event follows ``cursor``."""

    cursor: str
    snapshot: ConversationSnapshot


class ConversationEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation in a list. ``active_at`` is the time of one's own last message, in seconds
    since the epoch; ``excerpt`` is the text around what a search has found."""

    thread: str
    title: str
    active_at: float
    pinned: bool
    archived: bool
    excerpt: str = ""

    @classmethod
    def of(cls, summary: ConversationSummary, excerpt: str = "") -> "ConversationEntry":
        return cls(
            thread=summary.conversation.thread,
            title=summary.title,
            active_at=summary.active_at,
            pinned=summary.pinned,
            archived=summary.archived,
            excerpt=excerpt,
        )


class ConversationListResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a list. ``next`` is the ``before`` of the request for the following part; empty at
    the end."""

    conversations: tuple[ConversationEntry, ...]
    next: str


class ConversationChangeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of a conversation; null leaves a value as it is."""

    title: Title | None = None
    pinned: bool | None = None
    archived: bool | None = None


class ShareResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A shared snapshot: the page at ``path`` shows it, ``/v1/shares/{id}`` has the content."""

    id: str
    at: float
    path: str

    @classmethod
    def of(cls, share: Share) -> "ShareResponse":
        return cls(id=share.id, at=share.at, path=f"/s/{share.id}")


class SharesResponse(msgspec.Struct, frozen=True, kw_only=True):
    shares: tuple[ShareResponse, ...]


class RevokedResponse(msgspec.Struct, frozen=True, kw_only=True):
    id: str


class VisitorTokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A site's visitor: ``key`` is the site's public key, ``visitor`` the one of the last response,
    ``identity`` a JWT that the site's own backend has signed."""

    key: str
    visitor: str | None = None
    identity: str | None = None


class VisitorTokenResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A token for ``expires_in`` seconds, and ``visitor``, with which the same browser stays the
    same person."""

    token: str
    expires_in: int
    person: str
    visitor: str


class ThumbsUp(msgspec.Struct, frozen=True, kw_only=True, tag_field="rating", tag="up"):
    """A reply is good."""

    reason: None = None
    comment: Comment = ""


class ThumbsDown(msgspec.Struct, frozen=True, kw_only=True, tag_field="rating", tag="down"):
    """A reply is bad, for a ``reason``."""

    reason: FeedbackReason | None = None
    comment: Comment = ""


NewFeedback = ThumbsUp | ThumbsDown


class FeedbackListResponse(msgspec.Struct, frozen=True, kw_only=True):
    feedback: tuple[Feedback, ...]


class WithdrawnResponse(msgspec.Struct, frozen=True, kw_only=True):
    """``withdrawn`` is false when there was no feedback on the turn."""

    turn: str
    withdrawn: bool


class FilesResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A person's files, the newest first."""

    files: tuple[StoredFile, ...]


class DeletedFileResponse(msgspec.Struct, frozen=True, kw_only=True):
    id: str


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    message: str


class ErrorResponse(msgspec.Struct, frozen=True, kw_only=True):
    error: ErrorDetail


class SkillDescription(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str
    prompts: tuple[str, ...] = ()


class SkillsResponse(msgspec.Struct, frozen=True, kw_only=True):
    skills: tuple[SkillDescription, ...]


class AboutResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The server's version, its model, and the descriptions of its skills by name. ``sharing``:
    conversations may be shared. ``vision``: a skill sees images. ``setup``: the caller may connect
    another model."""

    version: str
    model: str
    demonstration: bool
    sharing: bool
    files: FileLimits | None
    vision: bool
    setup: bool
    skills: dict[str, str]


class IdentityResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The person that the server takes the caller for. ``key`` is the name of the key, empty on a
    server without keys. ``is_shared``: several people may stand behind the person, which has no
    list, no export and no erasure."""

    person: str
    key: str
    rights: tuple[Right, ...]
    is_shared: bool


class ChannelState(msgspec.Struct, frozen=True, kw_only=True):
    """An enabled channel. ``problem`` is what keeps it from working on this server, or empty."""

    name: str
    problem: str


class ChannelsResponse(msgspec.Struct, frozen=True, kw_only=True):
    channels: tuple[ChannelState, ...]


class PairingCode(msgspec.Struct, frozen=True, kw_only=True):
    """The code that a person has got from the channel's bot."""

    code: str


class PairingRequestsResponse(msgspec.Struct, frozen=True, kw_only=True):
    requests: tuple[PairingRequest, ...]


class ApprovedPeopleResponse(msgspec.Struct, frozen=True, kw_only=True):
    people: tuple[ApprovedPerson, ...]


class ToolSourceState(msgspec.Struct, frozen=True, kw_only=True):
    """An enabled source of tools. ``problems``: what is wrong with it on this server."""

    name: str
    problems: tuple[str, ...]
    tools: tuple[OfferedTool, ...]


class ToolSourcesResponse(msgspec.Struct, frozen=True, kw_only=True):
    sources: tuple[ToolSourceState, ...]


class ToolApprovals(msgspec.Struct, frozen=True, kw_only=True):
    """Tools by name, each with the digest of the definition that is approved."""

    digests: dict[str, str]


class ModelSetupState(msgspec.Struct, frozen=True, kw_only=True):
    """The model that answers, and where the setup of another one is. ``instance`` changes when the
    server restarts; ``added`` are the names of models that are on its machine."""

    instance: str
    model: str
    demonstration: bool
    settings_file: str
    added: tuple[str, ...]
    progress: SetupProgress | None


class ModelServersResponse(msgspec.Struct, frozen=True, kw_only=True):
    servers: tuple[ModelServer, ...]


class ModelListRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The address of a server with the OpenAI API, and the key for it."""

    url: str
    key: str = ""

    def __repr__(self) -> str:  # a key must not reach a log
        return f"ModelListRequest(url={self.url!r})"


class ModelListResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The models of a server, and its base URL in full."""

    url: str
    models: tuple[ServedModel, ...]


class LiveResponse(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["alive"]


class ReadyResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Readiness; ``problems`` are by component."""

    status: Literal["ready", "not ready"]
    problems: dict[str, str]
