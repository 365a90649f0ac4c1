"""What arrives from a chat platform: who has done something, where, and what they wrote."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from palaver.messages import Conversation, check_name


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who has done something on a platform, and where.

    ``thread`` names the conversation, and has in it what the platform needs to post there, such as
    ``T1.C1.1700000000.000100``. ``person`` is unique in the tenant, such as ``slack.T1.U1``;
    ``user`` is the platform's own id of the same person, as settings name it. ``room`` is the
    platform's channel or group. ``is_direct``: a direct message, which nobody else reads.
    """

    thread: str
    person: str
    user: str
    tenant: str = "default"
    room: str = ""
    is_direct: bool = False
    is_bot: bool = False

    def __post_init__(self) -> None:
        check_name(self.person, "person")

    def conversation(self, channel: str) -> Conversation:
        return Conversation(self.tenant, channel, self.thread)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IncomingFile:
    """A file of a message. ``read`` yields its content; it raises a `PostingError` when the
    platform does not give it. ``size`` is in bytes, 0 where it is not known."""

    name: str
    read: Callable[[], AsyncIterator[bytes]]
    size: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IncomingMessage:
    """A message. ``id`` is the platform's: one that is delivered twice is the same message.

    ``order`` sorts the messages of a conversation as text, however they arrive; empty: as they do.
    ``skill``, ``arguments`` and ``answers`` as in `palaver.messages.Message`.
    """

    source: Source
    id: str
    text: str
    files: tuple[IncomingFile, ...] = ()
    skill: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # JSON values
    order: str = ""
    answers: str = ""
