"""Frames: the JSON of the websocket and of server-sent events. docs/protocol.md describes it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from palaver.config.settings import Right
from palaver.errors import InvalidInput, PalaverError
from palaver.ledger import HistoryEntry, Snapshot, StopState
from palaver.messages import Attachment, Cursor, Event, Message, encode


class ClientFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A frame from the client."""


class Hello(ClientFrame, frozen=True, kw_only=True, tag="hello"):
    """The first frame. ``since``: a cursor, ``start`` (every stored event) or None (a snapshot)."""

    thread: str
    person: str | None = None
    token: str | None = None
    since: str | None = None


class FileReference(msgspec.Struct, frozen=True, kw_only=True):
    """A file of one's own, by the id that its upload has returned."""

    file: str


class Send(ClientFrame, frozen=True, kw_only=True, tag="send"):
    id: str
    text: str
    skill: str | None = None
    arguments: dict[str, Any] = {}  # JSON values, validated by the skill's Arguments model
    attachments: tuple[FileReference, ...] = ()
    after: str | msgspec.UnsetType | None = msgspec.UNSET
    answers: str = ""


def message_after(after: str | msgspec.UnsetType | None) -> str | None:
    """Return `Message.after` of a frame or body, in which null is the beginning."""
    return None if after is msgspec.UNSET else after or ""


class Select(ClientFrame, frozen=True, kw_only=True, tag="select"):
    """Make an alternative part of the history."""

    turn: str


class Stop(ClientFrame, frozen=True, kw_only=True, tag="stop"):
    turn: str | None = None


class Ping(ClientFrame, frozen=True, kw_only=True, tag="ping"):
    """A request for a pong: a page cannot see the websocket's own pings."""


class Refresh(ClientFrame, frozen=True, kw_only=True, tag="refresh"):
    """The next token of the visitor who said hello with one."""

    token: str


AnyClientFrame = Hello | Send | Select | Stop | Ping | Refresh
FRAME_RIGHTS: dict[type[ClientFrame], Right | None] = {
    Hello: "read",
    Send: "talk",
    Select: "talk",
    Stop: "talk",
    Ping: None,
    Refresh: None,
}
"""The right that each frame requires; None: the right of the hello is enough."""
_decode_client_frame = msgspec.json.Decoder(AnyClientFrame).decode


def decode_client_frame(data: bytes) -> AnyClientFrame:
    """Return the decoded frame. Raises `InvalidInput`."""
    try:
        frame: AnyClientFrame = _decode_client_frame(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"this frame cannot be read: {error}") from error
    return frame


class SnapshotMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a turn that is not settled."""

    id: str
    person: str
    text: str
    attachments: tuple[Attachment, ...] | msgspec.UnsetType = msgspec.UNSET


class SnapshotTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that is not settled, with its messages, the time of the first one in seconds since the
    epoch, and the reply so far. ``events``: those of a running turn that tell what is not in the
    reply."""

    turn: str
    messages: tuple[SnapshotMessage, ...]
    running: bool
    reply: str
    skill: str = ""
    at: float = 0.0
    events: tuple[Event, ...] | msgspec.UnsetType = msgspec.UNSET


class ConversationSnapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation's state: its history, then the turns that are not settled, oldest first.
    ``earlier``: the position from which the rest of the history can be read, where there is
    more. ``alternatives``: groups of turns that follow the same turn, each by age."""

    history: tuple[HistoryEntry, ...]
    pending: tuple[SnapshotTurn, ...]
    earlier: str = ""
    alternatives: tuple[tuple[str, ...], ...] = ()


class ServerFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A frame from the server that is not an event."""


class Welcome(ServerFrame, frozen=True, kw_only=True, tag="welcome", omit_defaults=True):
    recovered: bool
    cursor: str
    person: str
    max_message_bytes: int
    snapshot: ConversationSnapshot | None = None


class Reset(ServerFrame, frozen=True, kw_only=True, tag="reset"):
    recovered: bool
    cursor: str
    snapshot: ConversationSnapshot


class Ack(ServerFrame, frozen=True, kw_only=True, tag="ack"):
    id: str
    turn: str
    ahead: int
    duplicate: bool
    joined: bool


class Stopped(ServerFrame, frozen=True, kw_only=True, tag="stopped"):
    turn: str
    state: StopState


class Selected(ServerFrame, frozen=True, kw_only=True, tag="selected"):
    turn: str


class Pong(ServerFrame, frozen=True, kw_only=True, tag="pong"):
    pass


class Refreshed(ServerFrame, frozen=True, kw_only=True, tag="refreshed"):
    """The connection may stay open for ``expires_in`` seconds more."""

    expires_in: int


class ErrorFrame(ServerFrame, frozen=True, kw_only=True, tag="error", omit_defaults=True):
    """The refusal of a frame. ``id`` is the message's; ``retry_after`` is in seconds."""

    code: str
    message: str
    id: str | None = None
    retry_after: float | None = None


StreamFrame = Welcome | Reset | ErrorFrame | Event
"""What an event stream sends; an `Event` has its cursor as well."""


def make_error(error: PalaverError, id: str | None = None) -> ErrorFrame:
    return ErrorFrame(code=error.code, message=error.public, id=id, retry_after=error.retry_after)


def _in_order(history: Sequence[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """Return the entries with times that do not go backwards: the clock may have been set, and a
    message may have waited for an earlier reply."""
    latest = 0.0
    entries = []
    for entry in history:
        if entry.at < latest:
            entry = msgspec.structs.replace(entry, at=latest)
        latest = entry.at
        entries.append(entry)
    return tuple(entries)


def make_snapshot(snapshot: Snapshot) -> ConversationSnapshot:
    return ConversationSnapshot(
        history=_in_order(snapshot.history),
        earlier=snapshot.earlier,
        alternatives=snapshot.alternatives,
        pending=tuple(
            SnapshotTurn(
                turn=turn.turn,
                messages=tuple(map(_make_snapshot_message, turn.messages)),
                running=turn.running,
                reply=turn.reply,
                skill=turn.skill,
                at=turn.at,
                events=turn.events or msgspec.UNSET,
            )
            for turn in snapshot.pending
        ),
    )


def _make_snapshot_message(message: Message) -> SnapshotMessage:
    return SnapshotMessage(
        id=message.id,
        person=message.person,
        text=message.text,
        attachments=message.attachments or msgspec.UNSET,
    )


def make_welcome(
    snapshot: Snapshot | None,
    since: Cursor | None,
    *,
    recovered: bool,
    person: str,
    max_message_bytes: int,
) -> Welcome:
    """Return the welcome to a subscription that starts with ``snapshot``, or after ``since``."""
    return Welcome(
        recovered=recovered and snapshot is None,
        cursor=str(since if snapshot is None else snapshot.cursor),
        person=person,
        max_message_bytes=max_message_bytes,
        snapshot=None if snapshot is None else make_snapshot(snapshot),
    )


def make_reset(snapshot: Snapshot) -> Reset:
    return Reset(recovered=False, cursor=str(snapshot.cursor), snapshot=make_snapshot(snapshot))


class EventEncoder:
    """Encoder of events that encodes each event once for all its subscribers.

    The subscribers of a conversation get the same event object one after the other, so it is
    enough to cache the last one.
    """

    def __init__(self) -> None:
        self._event: Event | None = None
        self._body = b""

    def __call__(self, event: Event, cursor: Cursor | None) -> bytes:
        """Return the event's JSON, with the cursor where there is one."""
        if event is not self._event:
            self._event, self._body = event, encode(event)
        if cursor is None:
            return self._body
        return b'%b,"cursor":%b}' % (self._body[:-1], encode(str(cursor)))
