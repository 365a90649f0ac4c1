"""Bodies: what the HTTP API reads and answers, as JSON."""

from typing import Any

import msgspec

from palaver.ledger import StopState
from palaver.web.frames import View


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a message. ``id``: the client's own, unless the header gives it."""

    text: str
    id: str | None = None
    skill: str | None = None
    arguments: dict[str, Any] = {}  # JSON values, validated by the skill's Arguments model
    person: str | None = None


class StopRequest(msgspec.Struct, frozen=True, kw_only=True):
    turn: str | None = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    turn: str
    ahead: int
    duplicate: bool
    joined: bool


class StopAnswer(msgspec.Struct, frozen=True, kw_only=True):
    turn: str
    state: StopState


class ConversationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole conversation; ``cursor`` is where its events go on."""

    cursor: str
    snapshot: View


class SkillAnswer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str


class SkillsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    skills: tuple[SkillAnswer, ...]
