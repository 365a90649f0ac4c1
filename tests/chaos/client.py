"""ReconnectingClient: a websocket client that reconnects and resumes, see docs/protocol.md."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable
from typing import get_args

import aiohttp
import msgspec

from palaver.ledger import HistoryEntry, PendingTurn, Snapshot
from palaver.messages import (
    Conversation,
    Cursor,
    Event,
    Finished,
    Message,
    Received,
    Started,
    decode_event,
    encode,
)
from palaver.testing import RecordingSubscriber

FIRST_BACKOFF_SECONDS = (0.25, 0.5)
"""Range of the random wait before the first reconnect; doubled with each further failure."""
MAX_BACKOFF_SECONDS = 4.0
RESTART_SPREAD_SECONDS = 0.1
"""Maximum of the random wait before a reconnect to a server that restarts."""
RESEND_SECONDS = 1.0
"""Wait for an acknowledgement before a message is sent again."""
CONNECT_ATTEMPTS = 6
LATE_TEXT_SECONDS = 0.2
"""Live text may arrive before the news that another worker has taken over its turn."""
RETRYABLE = {"too_many", "overloaded", "ledger_unavailable", "engine_unavailable"}
SERVICE_RESTART = 1012
EVENTS = {kind.__struct_config__.tag for kind in get_args(Event)}


def message_fields(message: Message) -> dict[str, str | None]:
    """Return what a message says, as a frame or a body has it."""
    after = {} if message.after is None else {"after": message.after or None}
    return {"text": message.text, **after}


class Refused(Exception):
    """The server refused a message with a code that a later attempt would not change."""


class _MessageFrame(msgspec.Struct):
    id: str
    person: str
    text: str


class _PendingTurnFrame(msgspec.Struct):
    turn: str
    messages: tuple[_MessageFrame, ...]
    running: bool
    reply: str
    skill: str = ""


class _SnapshotFrame(msgspec.Struct):
    history: tuple[HistoryEntry, ...]
    pending: tuple[_PendingTurnFrame, ...]


class _Frame(msgspec.Struct):
    """Fields of a frame other than those of an event."""

    type: str
    id: str | None = None
    turn: str | None = None
    cursor: str | None = None
    recovered: bool | None = None
    snapshot: _SnapshotFrame | None = None
    code: str = ""


_decode = msgspec.json.Decoder(_Frame).decode


class ReconnectingClient:
    """One person's client of one conversation, connected to a server that ``pick_address`` names.

    ``pick_address`` returns a URL like ``http://127.0.0.1:7252/``. It is called before every
    connection, and again at once when the connection is refused. ``token`` is a key of the server,
    which decides on the person unless it may name one. Run `run` in a task. Times are the event
    loop's, in seconds.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        pick_address: Callable[[], str],
        *,
        thread: str,
        person: str | None,
        rng: random.Random,
        token: str | None = None,
    ) -> None:
        self.recorder = RecordingSubscriber()
        self.growth_times: dict[str, list[float]] = {}
        """By turn, the times at which its reply became longer than ever before."""
        self.takeover_times: dict[str, list[float]] = {}
        """By turn, the times at which another worker started it again."""
        self.finished: set[str] = set()
        """Turns of which the end was received."""
        self.disconnect_times: list[float] = []
        self.protocol_errors: list[str] = []
        """Gaps in the stream that the server sent."""
        self._session = session
        self._pick_address = pick_address
        self._conversation = Conversation("default", "web", thread)
        self._person = person
        self._token = token
        self._rng = rng
        self._max_length: dict[str, int] = {}
        self._acknowledgements: dict[str, asyncio.Future[str]] = {}
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._connected = asyncio.Event()
        self._cursor: Cursor | None = None
        self._changed = asyncio.Event()

    # Connection

    async def run(self) -> None:
        """Connect, and reconnect after each disconnect, until cancelled."""
        failures = 0
        while True:
            code = None
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with await self._connect() as socket:
                    await self._receive(socket)
                    failures = 0
                    code = socket.close_code
            failures += 1
            await asyncio.sleep(self._backoff(code, failures))

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        """Connect to the next server that listens, as a load balancer does."""
        for _ in range(CONNECT_ATTEMPTS - 1):
            with contextlib.suppress(aiohttp.ClientConnectorError):
                return await self._connect_once()
        return await self._connect_once()

    async def _connect_once(self) -> aiohttp.ClientWebSocketResponse:
        return await self._session.ws_connect(self._pick_address() + "ws", max_msg_size=0)

    def _backoff(self, close_code: int | None, failures: int) -> float:
        if close_code == SERVICE_RESTART:
            return self._rng.uniform(0, RESTART_SPREAD_SECONDS)
        first = self._rng.uniform(*FIRST_BACKOFF_SECONDS)
        return min(MAX_BACKOFF_SECONDS, first * 2.0 ** (failures - 1))

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Say hello and handle frames until the connection ends."""
        hello = {
            "type": "hello",
            "thread": self._conversation.thread,
            "person": self._person,
            "token": self._token,
            "since": str(self._cursor) if self._cursor else None,
        }
        try:
            await socket.send_str(encode(hello).decode())
            self._socket = socket
            async for received in socket:
                if received.type is aiohttp.WSMsgType.ERROR:
                    break
                self._handle(received.data)
        except AssertionError as error:
            self.protocol_errors.append(str(error))
            self._cursor = None
        finally:
            self._socket = None
            self._connected.clear()
            self.disconnect_times.append(_now())

    # Incoming frames

    def _handle(self, data: str | bytes) -> None:
        frame = _decode(data)
        if frame.type in EVENTS:
            self._apply_event(decode_event(data), frame.cursor)
        elif frame.type in ("welcome", "reset"):
            self._begin(frame)
        elif frame.type == "ack" and frame.id and frame.turn:
            self._acknowledge(frame.id, frame.turn)
        elif frame.type == "error" and frame.id:
            self._refuse(frame.id, frame.code)

    def _begin(self, frame: _Frame) -> None:
        if frame.snapshot is not None:
            assert frame.cursor is not None, frame
            self._cursor = Cursor.parse(frame.cursor)
            self.recorder.on_snapshot(self._decode_snapshot(frame.snapshot, self._cursor))
            self.finished |= {entry.turn for entry in frame.snapshot.history}
            for turn in self.recorder.texts:
                self._note_growth(turn)
            self._changed.set()
        self._connected.set()

    def _decode_snapshot(self, frame: _SnapshotFrame, cursor: Cursor) -> Snapshot:
        return Snapshot(
            cursor=cursor,
            history=frame.history,
            pending=tuple(self._decode_pending(turn) for turn in frame.pending),
        )

    def _decode_pending(self, turn: _PendingTurnFrame) -> PendingTurn:
        return PendingTurn(
            turn=turn.turn,
            messages=tuple(
                Message(
                    conversation=self._conversation,
                    id=message.id,
                    person=message.person,
                    text=message.text,
                )
                for message in turn.messages
            ),
            running=turn.running,
            reply=turn.reply,
            skill=turn.skill,
        )

    def _apply_event(self, event: Event, position: str | None) -> None:
        cursor = None
        if position is not None:
            cursor = Cursor.parse(position)
            if self._is_duplicate(cursor):
                return
            self._cursor = cursor
        self.recorder.on_event(event, cursor)
        self._note_growth(event.turn)
        if isinstance(event, Finished):
            self.finished.add(event.turn)
            self._changed.set()
        elif isinstance(event, Received):
            self._acknowledge(event.id, event.turn)
        elif isinstance(event, Started) and len(self.recorder.events_of(event.turn, Started)) > 1:
            self.takeover_times.setdefault(event.turn, []).append(_now())

    def _is_duplicate(self, cursor: Cursor) -> bool:
        """Return True when the event was received before.

        Raises `AssertionError` in a new epoch, which must begin with a snapshot.
        """
        last = self._cursor
        if last is None or cursor.epoch != last.epoch:
            raise AssertionError(f"a gap: {cursor} without a snapshot, after {last}")
        return cursor.offset <= last.offset

    def _note_growth(self, turn: str) -> None:
        length = len(self.recorder.texts.get(turn, ""))
        if length > self._max_length.get(turn, 0):
            self._max_length[turn] = length
            self.growth_times.setdefault(turn, []).append(_now())
            self._changed.set()

    async def wait_until(self, condition: Callable[[], bool], *, idle_seconds: float) -> bool:
        """Wait until ``condition`` holds; return False after ``idle_seconds`` without progress."""
        while not condition():
            self._changed.clear()
            try:
                async with asyncio.timeout(idle_seconds):  # `wait_for` loses a cancellation in 3.11
                    await self._changed.wait()
            except TimeoutError:
                return False
        return True

    # Sending

    async def send(self, message: Message) -> str:
        """Send a message until it is acknowledged; return its turn. Raises `Refused`."""
        id = message.id
        loop = asyncio.get_running_loop()
        acknowledgement = self._acknowledgements.setdefault(id, loop.create_future())
        frame = encode({"type": "send", "id": id, **message_fields(message)}).decode()
        try:
            while not acknowledgement.done():
                await self._connected.wait()
                await self._send_frame(frame)
                await asyncio.wait({acknowledgement}, timeout=RESEND_SECONDS)
            return acknowledgement.result()
        finally:
            self._acknowledgements.pop(id, None)

    async def _send_frame(self, frame: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await self._socket.send_str(frame)

    def _acknowledge(self, id: str, turn: str) -> None:
        acknowledgement = self._acknowledgements.get(id)
        if acknowledgement is not None and not acknowledgement.done():
            acknowledgement.set_result(turn)

    def _refuse(self, id: str, code: str) -> None:
        acknowledgement = self._acknowledgements.get(id)
        if code in RETRYABLE or acknowledgement is None or acknowledgement.done():
            return
        acknowledgement.set_exception(Refused(f"message {id}: {code}"))

    # Measurements

    def pauses(self) -> list[float]:
        """Return the seconds between two characters of a reply, for each takeover and disconnect
        that fell between them."""
        return [gap for turn in self.growth_times for gap in self._pauses(turn)]

    def _pauses(self, turn: str) -> set[float]:
        intervals = list(itertools.pairwise(self.growth_times[turn]))
        found = set()
        for at in (*self.disconnect_times, *self.takeover_times.get(turn, ())):
            gaps = [
                end - start for start, end in intervals if start <= at <= end + LATE_TEXT_SECONDS
            ]
            found |= {max(gaps)} if gaps else set()
        return found


def _now() -> float:
    return asyncio.get_running_loop().time()
