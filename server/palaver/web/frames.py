"""Frames: the JSON that crosses the websocket and SSE, as docs/protocol.md describes it."""

from typing import Any

import msgspec

from palaver.errors import InvalidInput, PalaverError
from palaver.ledger import HistoryEntry, Snapshot, StopState
from palaver.messages import Cursor, Event, encode


class ClientFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What a client may send."""


class Hello(ClientFrame, frozen=True, kw_only=True, tag="hello"):
    """The first frame. ``since``: a cursor, ``start`` (everything that is held) or None."""

    thread: str
    person: str | None = None
    token: str | None = None
    since: str | None = None


class Send(ClientFrame, frozen=True, kw_only=True, tag="send"):
    id: str
    text: str
    skill: str | None = None
    arguments: dict[str, Any] = {}  # JSON values, validated by the skill's Arguments model


class Stop(ClientFrame, frozen=True, kw_only=True, tag="stop"):
    turn: str | None = None


class Ping(ClientFrame, frozen=True, kw_only=True, tag="ping"):
    """Asks for a pong: a page cannot see the websocket's own pings."""


Incoming = Hello | Send | Stop | Ping
_decode_client_frame = msgspec.json.Decoder(Incoming).decode


def decode_client_frame(data: bytes) -> Incoming:
    """Raises `InvalidInput`."""
    try:
        frame: Incoming = _decode_client_frame(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"this frame cannot be read: {error}") from error
    return frame


class PendingMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a turn that is not settled."""

    id: str
    person: str
    text: str


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that is not settled, with its messages and the reply so far. ``id``, ``person`` and
    ``text`` are those of the messages as one."""

    turn: str
    id: str
    person: str
    text: str
    messages: tuple[PendingMessage, ...]
    running: bool
    reply: str
    skill: str = ""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation as a client gets it: settled lines, then pending turns, oldest first."""

    history: tuple[HistoryEntry, ...]
    pending: tuple[Pending, ...]


class ServerFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What the server sends besides events."""


class Welcome(ServerFrame, frozen=True, kw_only=True, tag="welcome", omit_defaults=True):
    recovered: bool
    cursor: str
    person: str
    max_message_bytes: int
    snapshot: View | None = None


class Restart(ServerFrame, frozen=True, kw_only=True, tag="restart"):
    recovered: bool
    cursor: str
    snapshot: View


class Ack(ServerFrame, frozen=True, kw_only=True, tag="ack"):
    id: str
    turn: str
    ahead: int
    duplicate: bool
    joined: bool


class Stopped(ServerFrame, frozen=True, kw_only=True, tag="stopped"):
    turn: str
    state: StopState


class Pong(ServerFrame, frozen=True, kw_only=True, tag="pong"):
    pass


class Failure(ServerFrame, frozen=True, kw_only=True, tag="error", omit_defaults=True):
    """A frame that was refused; ``id`` is the message's, ``retry_after`` in seconds."""

    code: str
    message: str
    id: str | None = None
    retry_after: float | None = None


def failure(error: PalaverError, id: str | None = None) -> Failure:
    return Failure(code=error.code, message=error.public, id=id, retry_after=error.retry_after)


def view_of(snapshot: Snapshot) -> View:
    return View(
        history=snapshot.history,
        pending=tuple(
            Pending(
                turn=turn.turn,
                id=turn.message.id,
                person=turn.message.person,
                text=turn.message.text,
                messages=tuple(
                    PendingMessage(id=message.id, person=message.person, text=message.text)
                    for message in turn.messages
                ),
                running=turn.running,
                reply=turn.reply,
                skill=turn.skill,
            )
            for turn in snapshot.pending
        ),
    )


def restart_of(snapshot: Snapshot) -> Restart:
    return Restart(recovered=False, cursor=str(snapshot.cursor), snapshot=view_of(snapshot))


class EventEncoder:
    """Encodes events for the viewers of one server.

    All viewers of a conversation get the same event object one after the other, so remembering
    the last one is enough to encode each event once.
    """

    def __init__(self) -> None:
        self._event: Event | None = None
        self._body = b""

    def __call__(self, event: Event, cursor: Cursor | None) -> bytes:
        """The event's JSON; with its cursor where it has one."""
        if event is not self._event:
            self._event, self._body = event, encode(event)
        if cursor is None:
            return self._body
        return b'%b,"cursor":%b}' % (self._body[:-1], encode(str(cursor)))
