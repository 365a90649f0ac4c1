"""Tab: a person's open page. It comes back, and goes on where it was: see docs/protocol.md."""

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
from palaver.testing.screen import RecordingSubscriber

RETURN = (0.25, 0.5)
"""Seconds to wait before the first reconnect, at random between the two; doubled with each that
fails, up to `LONGEST`."""
LONGEST = 4.0
RESTART_SPREAD = 0.1
"""Seconds over which tabs come back to a server that restarts."""
RESEND = 1.0
"""Seconds without an acknowledgement after which a message is sent again."""
PASSING = {"too_many", "overloaded", "ledger_unavailable", "engine_unavailable"}
RESTARTS = 1012
EVENTS = {kind.__struct_config__.tag for kind in get_args(Event)}


class Refused(Exception):
    """The server will not have the message, nor would it later."""


class _Pending(msgspec.Struct):
    turn: str
    id: str
    person: str
    text: str
    running: bool
    reply: str
    skill: str = ""


class _View(msgspec.Struct):
    history: tuple[HistoryEntry, ...]
    pending: tuple[_Pending, ...]


class _Frame(msgspec.Struct):
    """What any frame may have besides an event's own fields."""

    type: str
    id: str | None = None
    turn: str | None = None
    cursor: str | None = None
    recovered: bool | None = None
    snapshot: _View | None = None
    code: str = ""


_decode = msgspec.json.Decoder(_Frame).decode


class ChaosClient:
    """A websocket to any server that ``where`` names, over and over, and what its reader sees.

    ``where`` returns an address like ``http://127.0.0.1:7252/``; it is asked before every
    connection, and again at once when nobody listens there. Run `stay` in a task. Times are the
    event loop's.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        where: Callable[[], str],
        *,
        thread: str,
        person: str,
        chance: random.Random,
    ) -> None:
        self.screen = RecordingSubscriber()
        self.growth: dict[str, list[float]] = {}
        """For each turn, when its reply became longer than it had ever been."""
        self.takeovers: dict[str, list[float]] = {}
        """For each turn, when it was seen to be begun again."""
        self.ended: set[str] = set()
        """The turns whose end was seen."""
        self.losses: list[float] = []
        """When the connection was lost."""
        self.faults: list[str] = []
        """What the server sent against the protocol: gaps."""
        self._session = session
        self._where = where
        self._conversation = Conversation("default", "web", thread)
        self._person = person
        self._chance = chance
        self._longest: dict[str, int] = {}
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._connected = asyncio.Event()
        self._cursor: Cursor | None = None
        self._news = asyncio.Event()

    # The connection

    async def stay(self) -> None:
        """Be connected, until cancelled."""
        failures = 0
        while True:
            code = None
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with await self._connect() as socket:
                    await self._attend(socket)
                    failures = 0
                    code = socket.close_code
            failures += 1
            await asyncio.sleep(self._pause(code, failures))

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        """The next server that listens; those in vain cost no time, as behind a load balancer."""
        for _ in range(5):
            with contextlib.suppress(aiohttp.ClientConnectorError):
                return await self._session.ws_connect(self._where() + "ws", max_msg_size=0)
        return await self._session.ws_connect(self._where() + "ws", max_msg_size=0)

    def _pause(self, code: int | None, failures: int) -> float:
        if code == RESTARTS:
            return self._chance.uniform(0, RESTART_SPREAD)
        return min(LONGEST, self._chance.uniform(*RETURN) * 2.0 ** (failures - 1))

    async def _attend(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        hello = {
            "type": "hello",
            "thread": self._conversation.thread,
            "person": self._person,
            "since": str(self._cursor) if self._cursor else None,
        }
        try:
            await socket.send_str(encode(hello).decode())
            self._socket = socket
            async for received in socket:
                if received.type is aiohttp.WSMsgType.ERROR:
                    break
                self._take(received.data)
        except AssertionError as error:
            self.faults.append(str(error))
            self._cursor = None
        finally:
            self._socket = None
            self._connected.clear()
            self.losses.append(_now())

    # What comes

    def _take(self, data: str | bytes) -> None:
        frame = _decode(data)
        if frame.type in EVENTS:
            self._show(decode_event(data), frame.cursor)
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
            self.screen.on_snapshot(self._snapshot(frame.snapshot, self._cursor))
            self.ended |= {line.turn for line in frame.snapshot.history}
            for turn in self.screen.texts:
                self._note_growth(turn)
            self._news.set()
        self._connected.set()

    def _snapshot(self, view: _View, cursor: Cursor) -> Snapshot:
        return Snapshot(
            cursor=cursor,
            history=view.history,
            pending=tuple(self._pending(each) for each in view.pending),
        )

    def _pending(self, turn: _Pending) -> PendingTurn:
        message = Message(
            conversation=self._conversation, id=turn.id, person=turn.person, text=turn.text
        )
        return PendingTurn(
            turn=turn.turn,
            messages=(message,),
            running=turn.running,
            reply=turn.reply,
            skill=turn.skill,
        )

    def _show(self, event: Event, place: str | None) -> None:
        cursor = None
        if place is not None:
            cursor = Cursor.parse(place)
            if self._passed(cursor):
                return
            self._cursor = cursor
        self.screen.on_event(event, cursor)
        self._note_growth(event.turn)
        if isinstance(event, Finished):
            self.ended.add(event.turn)
            self._news.set()
        elif isinstance(event, Received):
            self._acknowledge(event.id, event.turn)
        elif isinstance(event, Started) and len(self.screen.of(event.turn, Started)) > 1:
            self.takeovers.setdefault(event.turn, []).append(_now())

    def _passed(self, cursor: Cursor) -> bool:
        """Whether it was seen. Raises `AssertionError` in a new epoch, which a snapshot begins."""
        last = self._cursor
        if last is None or cursor.epoch != last.epoch:
            raise AssertionError(f"a gap: {cursor} without a snapshot, after {last}")
        return cursor.offset <= last.offset

    def _note_growth(self, turn: str) -> None:
        length = len(self.screen.texts.get(turn, ""))
        if length > self._longest.get(turn, 0):
            self._longest[turn] = length
            self.growth.setdefault(turn, []).append(_now())
            self._news.set()

    async def until(self, holds: Callable[[], bool], patience: float) -> bool:
        """Wait for something to be seen; whether it was before ``patience`` seconds without any
        news."""
        while not holds():
            self._news.clear()
            try:
                async with asyncio.timeout(patience):  # `wait_for` loses a cancellation in 3.11
                    await self._news.wait()
            except TimeoutError:
                return False
        return True

    # Sending

    async def send(self, id: str, text: str) -> str:
        """Send a message until the server has it; returns its turn. Raises `Refused`."""
        acknowledged = self._waiting.setdefault(id, asyncio.get_running_loop().create_future())
        frame = encode({"type": "send", "id": id, "text": text}).decode()
        try:
            while not acknowledged.done():
                await self._connected.wait()
                await self._put(frame)
                await asyncio.wait({acknowledged}, timeout=RESEND)
            return acknowledged.result()
        finally:
            self._waiting.pop(id, None)

    async def _put(self, frame: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await self._socket.send_str(frame)

    def _acknowledge(self, id: str, turn: str) -> None:
        acknowledged = self._waiting.get(id)
        if acknowledged is not None and not acknowledged.done():
            acknowledged.set_result(turn)

    def _refuse(self, id: str, code: str) -> None:
        acknowledged = self._waiting.get(id)
        if code not in PASSING and acknowledged is not None and not acknowledged.done():
            acknowledged.set_exception(Refused(f"message {id}: {code}"))

    # What its reader noticed

    def interruptions(self) -> list[float]:
        """Seconds between two characters of a reply, wherever its worker or this tab's connection
        was lost between them."""
        return [gap for turn in self.growth for gap in self._interruptions(turn)]

    def _interruptions(self, turn: str) -> set[float]:
        times = self.growth[turn]
        between = list(itertools.pairwise(times))
        found = set()
        for at in (*self.losses, *self.takeovers.get(turn, ())):
            # Live text may come before the news that the turn was begun again.
            gaps = [end - start for start, end in between if start <= at <= end + 0.2]
            found |= {max(gaps)} if gaps else set()
        return found


def _now() -> float:
    return asyncio.get_running_loop().time()
