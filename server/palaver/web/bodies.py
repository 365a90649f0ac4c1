"""Bodies: the JSON of the HTTP API's requests and responses."""

from typing import Any

import msgspec

from palaver.ledger import StopState
from palaver.web.frames import ConversationSnapshot


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message. ``id`` is the client's own, unless the header has it."""

    text: str
    id: str | None = None
    skill: str | None = None
    arguments: dict[str, Any] = {}  # JSON values, validated by the skill's Arguments model
    person: str | None = None


class StopRequest(msgspec.Struct, frozen=True, kw_only=True):
    turn: str | None = None


class StopResponse(msgspec.Struct, frozen=True, kw_only=True):
    turn: str
    state: StopState


class ConversationResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A whole conversation; its next event follows ``cursor``."""

    cursor: str
    snapshot: ConversationSnapshot


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    message: str


class ErrorResponse(msgspec.Struct, frozen=True, kw_only=True):
    error: ErrorDetail


class SkillDescription(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str


class SkillsResponse(msgspec.Struct, frozen=True, kw_only=True):
    skills: tuple[SkillDescription, ...]
