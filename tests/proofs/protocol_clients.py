"""Protocol clients: strict clients of docs/protocol.md over websocket and server-sent events.

They are built on aiohttp and the documented frames alone, keep only what a page would keep, and
record what a server does against the protocol.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import aiohttp

from palaver.messages import Cursor, Event, Finished, Received, decode_event
from palaver.testing import RecordingSubscriber

Transport = Literal["websocket", "sse"]
Frame = dict[str, Any]  # JSON values
PERSON = "ada"
EVENTS = {kind.__struct_config__.tag for kind in get_args(Event)}
RETRYABLE = {"too_many", "overloaded", "ledger_unavailable", 429, 503}
"""Codes and statuses of a refusal after which the message is sent again."""
CONNECTION_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


class ProtocolClient:
    """Client that follows one conversation and resumes after each disconnect."""

    def __init__(self, session: aiohttp.ClientSession, thread: str) -> None:
        self.thread = thread
        self.recorder = RecordingSubscriber()
        self.cursor: Cursor | None = None
        self.welcomes: list[Frame] = []
        """Every welcome and reset frame."""
        self.protocol_errors: list[str] = []
        self.snapshot_count = 0
        """Snapshots received although a cursor was sent."""
        self.has_every_event = True
        """False after a snapshot, which has texts instead of events."""
        self.initial_since = "start"
        """Value of ``since`` while there is no cursor; empty for a snapshot."""
        self.target: Cursor | None = None
        """Position at which to disconnect."""
        self._session = session

    async def connect(self, address: str, transport: Transport) -> None:
        """Connect, and receive until a disconnect or until `has_reached_target`."""
        since = str(self.cursor) if self.cursor else self.initial_since
        try:
            if transport == "websocket":
                await self._receive_websocket(address, since)
            else:
                await self._receive_sse(address, since)
        except CONNECTION_ERRORS:
            pass
        except AssertionError as gap:
            self.protocol_errors.append(str(gap))
            self.reload()

    @property
    def has_reached_target(self) -> bool:
        """True when every event up to ``target`` was received."""
        target, here = self.target, self.cursor
        return bool(target and here and here.epoch == target.epoch and here.offset >= target.offset)

    @property
    def must_send(self) -> bool:
        """True when there is a message to send, for which the event stream must be left."""
        return False

    def outgoing_frames(self) -> list[Frame]:
        """Return the frames to send now."""
        return []

    def on_acknowledged(self, id: str, turn: str) -> None:
        """Handle the acknowledgement of a message."""

    async def _receive_websocket(self, address: str, since: str) -> None:
        async with self._session.ws_connect(f"{address}/ws", max_msg_size=0) as socket:
            hello = {"type": "hello", "thread": self.thread, "person": PERSON, "since": since}
            await socket.send_str(json.dumps(hello))
            async for received in socket:
                if received.type is not aiohttp.WSMsgType.TEXT:
                    return
                self.handle(json.loads(received.data), received.data)
                if self.has_reached_target:
                    return
                for frame in self.outgoing_frames():
                    await socket.send_str(json.dumps(frame))

    async def _receive_sse(self, address: str, since: str) -> None:
        url = f"{address}/v1/conversations/{self.thread}/events"
        headers = {"Last-Event-ID": since}
        async with self._session.get(url, params={"person": PERSON}, headers=headers) as response:
            response.raise_for_status()
            incomplete = b""
            async for data in response.content.iter_any():
                *blocks, incomplete = (incomplete + data).split(b"\n\n")
                for id, frame, text in _parse_sse(blocks):
                    self._check_id(id, frame)
                    self.handle(frame, text)
                if self.has_reached_target or self.must_send:
                    return

    def _check_id(self, id: str | None, frame: Frame) -> None:
        if id != frame.get("cursor"):
            self.protocol_errors.append(f"the id {id} is not the cursor of {frame}")

    # Incoming frames

    def handle(self, frame: Frame, data: str) -> None:
        """Handle a decoded frame, with its undecoded form in ``data``."""
        kind = frame["type"]
        if kind in ("welcome", "reset"):
            self._begin(frame)
        elif kind == "ack":
            self.on_acknowledged(frame["id"], frame["turn"])
        elif kind in EVENTS:
            self._handle_event(decode_event(data), frame.get("cursor"))
        elif kind == "error" and frame["code"] not in RETRYABLE:
            self.protocol_errors.append(f"refused: {frame}")

    def _begin(self, frame: Frame) -> None:
        self.welcomes.append(frame)
        cursor = Cursor.parse(frame["cursor"])
        if frame["recovered"]:
            if self.cursor is not None and cursor != self.cursor:
                self.protocol_errors.append(f"recovered at {cursor}, not at {self.cursor}")
        else:
            self.snapshot_count += self.cursor is not None
            self.apply_snapshot(frame["snapshot"])
        self.cursor = cursor

    def apply_snapshot(self, snapshot: Frame) -> None:
        """Replace everything that was received by a snapshot."""
        self.has_every_event = False
        self.recorder.texts.clear()
        self.recorder.events.clear()
        for entry in snapshot["history"]:
            if entry["role"] == "assistant":
                self.recorder.texts[entry["turn"]] = entry["text"]
        for turn in snapshot["pending"]:
            self.recorder.texts[turn["turn"]] = turn["reply"]

    def _handle_event(self, event: Event, position: str | None) -> None:
        cursor = Cursor.parse(position) if position else None
        if cursor is not None:
            if self._is_duplicate(cursor):
                return
            self.cursor = cursor
        self.apply_event(event, cursor)
        if isinstance(event, Received):
            self.on_acknowledged(event.id, event.turn)
        elif isinstance(event, Finished):
            length = len(self.recorder.texts[event.turn])
            if length != event.length:
                self.protocol_errors.append(f"{event} ends {length} characters")

    def _is_duplicate(self, cursor: Cursor) -> bool:
        last = self.cursor
        return last is not None and last.epoch == cursor.epoch and cursor.offset <= last.offset

    def apply_event(self, event: Event, cursor: Cursor | None) -> None:
        """Record a new event. Raises `AssertionError` when its text leaves a gap."""
        self.recorder.on_event(event, cursor)

    def reload(self) -> None:
        """Drop everything that was received, as a reloaded page does."""
        self.cursor = None
        self.recorder = RecordingSubscriber()
        self.has_every_event = True


def _parse_sse(blocks: list[bytes]) -> Iterator[tuple[str | None, Frame, str]]:
    """Yield the id, the decoded and the undecoded data of each server-sent event."""
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if line[0] != ":")
        if "data" in fields:
            yield fields.get("id"), json.loads(fields["data"]), fields["data"]


class SendingClient(ProtocolClient):
    """Client that also sends: while ``sending``, up to ``max_unanswered`` messages at a time.

    Every message is sent again with its id, over each new connection, until it is acknowledged.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        thread: str,
        *,
        on_accepted: Callable[[str, str, str], None],
        max_unanswered: int = 2,
    ) -> None:
        super().__init__(session, thread)
        self.sending = True
        self.message_count = 0
        self.resent_count = 0
        self.unacknowledged: dict[str, str] = {}
        """Texts by message id."""
        self._on_accepted = on_accepted
        self._max_unanswered = max_unanswered
        self._answered: set[str] = set()
        self._sent: set[str] = set()
        self._sent_on_connection: set[str] = set()

    async def connect(self, address: str, transport: Transport) -> None:
        self._sent_on_connection = set()
        if transport == "sse":
            try:
                await self._post(address)
            except CONNECTION_ERRORS:
                return
        await super().connect(address, transport)

    @property
    def must_send(self) -> bool:
        return self.sending and self.message_count == len(self._answered)

    async def _post(self, address: str) -> None:
        for frame in self.outgoing_frames():
            body = {"id": frame["id"], "text": frame["text"]}
            url = f"{address}/v1/conversations/{self.thread}/messages"
            async with self._session.post(url, params={"person": PERSON}, json=body) as response:
                answer = await response.json()
                if response.status == 202:
                    self.on_acknowledged(frame["id"], answer["turn"])
                elif response.status not in RETRYABLE:
                    self.protocol_errors.append(f"refused: {answer}")

    def outgoing_frames(self) -> list[Frame]:
        while self.sending and self.message_count - len(self._answered) < self._max_unanswered:
            text = f"{self.thread} {self.message_count}"
            self.unacknowledged[f"{self.thread}.{self.message_count}"] = text
            self.message_count += 1
        due = [id for id in self.unacknowledged if id not in self._sent_on_connection]
        self.resent_count += len(self._sent.intersection(due))
        self._sent.update(due)
        self._sent_on_connection.update(due)
        return [{"type": "send", "id": id, "text": self.unacknowledged[id]} for id in due]

    def on_acknowledged(self, id: str, turn: str) -> None:
        text = self.unacknowledged.pop(id, None)
        if text is not None:
            self._on_accepted(id, text, turn)

    def apply_event(self, event: Event, cursor: Cursor | None) -> None:
        super().apply_event(event, cursor)
        if isinstance(event, Finished):
            self._answered.add(event.turn)
