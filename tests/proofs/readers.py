"""Readers: clients as docs/protocol.md describes them, over the websocket and server-sent events.

They are built on aiohttp and the documented frames alone, remember nothing but what a page would,
and note what a server does against the protocol.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import aiohttp

from palaver.messages import Cursor, Event, Finished, Received, decode_event
from palaver.testing import RecordingSubscriber

Way = Literal["socket", "feed"]
Frame = dict[str, Any]  # JSON values
PERSON = "ada"
EVENTS = {kind.__struct_config__.tag for kind in get_args(Event)}
PASSING = {"too_many", "overloaded", "ledger_unavailable", 429, 503}
"""Refusals of a message that is then sent again."""
BROKEN = (aiohttp.ClientError, OSError, TimeoutError)


class Reader:
    """One tab of a person: what it shows, and the place to which it has read."""

    def __init__(self, session: aiohttp.ClientSession, thread: str) -> None:
        self.thread = thread
        self.screen = RecordingSubscriber()
        self.cursor: Cursor | None = None
        self.told: list[Frame] = []
        """Every welcome and restart."""
        self.faults: list[str] = []
        """What the server did that it must not."""
        self.snapshots = 0
        """Those that came in place of what follows the cursor."""
        self.whole = True
        """Whether every event was seen as such, none of them in a snapshot."""
        self.first = "start"
        """What is asked for without a cursor; empty for a snapshot."""
        self.end: Cursor | None = None
        """Where to leave."""
        self._session = session

    async def visit(self, address: str, way: Way) -> None:
        """Come back and read until the connection breaks, or until `satisfied`."""
        since = str(self.cursor) if self.cursor else self.first
        try:
            if way == "socket":
                await self._over_socket(address, since)
            else:
                await self._over_feed(address, since)
        except BROKEN:
            pass
        except AssertionError as gap:
            self.faults.append(str(gap))
            self.reload()

    @property
    def satisfied(self) -> bool:
        """Whether everything up to ``end`` was read."""
        end, here = self.end, self.cursor
        return bool(end and here and here.epoch == end.epoch and here.offset >= end.offset)

    @property
    def restless(self) -> bool:
        """Whether there is something to do that cannot be done while reading a feed."""
        return False

    def outgoing(self) -> list[Frame]:
        """What is to be sent now."""
        return []

    def acknowledged(self, id: str, turn: str) -> None:
        """The server has a message."""

    async def _over_socket(self, address: str, since: str) -> None:
        async with self._session.ws_connect(f"{address}/ws", max_msg_size=0) as socket:
            hello = {"type": "hello", "thread": self.thread, "person": PERSON, "since": since}
            await socket.send_str(json.dumps(hello))
            async for received in socket:
                if received.type is not aiohttp.WSMsgType.TEXT:
                    return
                self.take(json.loads(received.data), received.data)
                if self.satisfied:
                    return
                for frame in self.outgoing():
                    await socket.send_str(json.dumps(frame))

    async def _over_feed(self, address: str, since: str) -> None:
        url = f"{address}/v1/conversations/{self.thread}/events"
        headers = {"Last-Event-ID": since}
        async with self._session.get(url, params={"person": PERSON}, headers=headers) as response:
            response.raise_for_status()
            held = b""
            async for data in response.content.iter_any():
                *blocks, held = (held + data).split(b"\n\n")
                for id, frame, text in _events(blocks):
                    self._check_id(id, frame)
                    self.take(frame, text)
                if self.satisfied or self.restless:
                    return

    def _check_id(self, id: str | None, frame: Frame) -> None:
        if id != frame.get("cursor"):
            self.faults.append(f"the id {id} is not the cursor of {frame}")

    # What comes

    def take(self, frame: Frame, data: str) -> None:
        kind = frame["type"]
        if kind in ("welcome", "reset"):
            self._begin(frame)
        elif kind == "ack":
            self.acknowledged(frame["id"], frame["turn"])
        elif kind in EVENTS:
            self._show(decode_event(data), frame.get("cursor"))
        elif kind == "error" and frame["code"] not in PASSING:
            self.faults.append(f"refused: {frame}")

    def _begin(self, frame: Frame) -> None:
        self.told.append(frame)
        cursor = Cursor.parse(frame["cursor"])
        if frame["recovered"]:
            if self.cursor is not None and cursor != self.cursor:
                self.faults.append(f"recovered at {cursor}, not at {self.cursor}")
        else:
            self.snapshots += self.cursor is not None
            self.draw(frame["snapshot"])
        self.cursor = cursor

    def draw(self, snapshot: Frame) -> None:
        """Show the conversation anew."""
        self.whole = False
        self.screen.texts.clear()
        self.screen.events.clear()
        for line in snapshot["history"]:
            if line["role"] == "assistant":
                self.screen.texts[line["turn"]] = line["text"]
        for turn in snapshot["pending"]:
            self.screen.texts[turn["turn"]] = turn["reply"]

    def _show(self, event: Event, place: str | None) -> None:
        cursor = Cursor.parse(place) if place else None
        if cursor is not None:
            if self._knows(cursor):
                return
            self.cursor = cursor
        self.apply(event, cursor)
        if isinstance(event, Received):
            self.acknowledged(event.id, event.turn)
        elif isinstance(event, Finished) and len(self.screen.texts[event.turn]) != event.length:
            self.faults.append(f"{event} ends {len(self.screen.texts[event.turn])} characters")

    def _knows(self, cursor: Cursor) -> bool:
        last = self.cursor
        return last is not None and last.epoch == cursor.epoch and cursor.offset <= last.offset

    def apply(self, event: Event, cursor: Cursor | None) -> None:
        """Show an event that was not seen. Raises `AssertionError` when its text leaves a gap."""
        self.screen.on_event(event, cursor)

    def reload(self) -> None:
        """Forget everything, like a page that is opened anew."""
        self.cursor = None
        self.screen = RecordingSubscriber()
        self.whole = True


def _events(blocks: list[bytes]) -> Iterator[tuple[str | None, Frame, str]]:
    """The ids and data of server-sent events, comments left out."""
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if line[0] != ":")
        if "data" in fields:
            yield fields.get("id"), json.loads(fields["data"]), fields["data"]


class Author(Reader):
    """A reader who also writes: while ``writing``, ``ahead`` messages are not answered.

    Every message is sent again under its id, over each new connection, until the server has it.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        thread: str,
        *,
        accepted: Callable[[str, str, str], None],
        ahead: int = 2,
    ) -> None:
        super().__init__(session, thread)
        self.writing = True
        self.written = 0
        self.resent = 0
        self.unsent: dict[str, str] = {}
        self._accepted = accepted
        self._ahead = ahead
        self._answered: set[str] = set()
        self._sent: set[str] = set()
        self._sent_here: set[str] = set()

    async def visit(self, address: str, way: Way) -> None:
        self._sent_here = set()
        if way == "feed":
            try:
                await self._post(address)
            except BROKEN:
                return
        await super().visit(address, way)

    @property
    def restless(self) -> bool:
        return self.writing and self.written == len(self._answered)

    async def _post(self, address: str) -> None:
        for frame in self.outgoing():
            body = {"id": frame["id"], "text": frame["text"]}
            url = f"{address}/v1/conversations/{self.thread}/messages"
            async with self._session.post(url, params={"person": PERSON}, json=body) as response:
                answer = await response.json()
                if response.status == 202:
                    self.acknowledged(frame["id"], answer["turn"])
                elif response.status not in PASSING:
                    self.faults.append(f"refused: {answer}")

    def outgoing(self) -> list[Frame]:
        while self.writing and self.written - len(self._answered) < self._ahead:
            self.unsent[f"{self.thread}.{self.written}"] = f"{self.thread} {self.written}"
            self.written += 1
        fresh = [id for id in self.unsent if id not in self._sent_here]
        self.resent += len(self._sent.intersection(fresh))
        self._sent.update(fresh)
        self._sent_here.update(fresh)
        return [{"type": "send", "id": id, "text": self.unsent[id]} for id in fresh]

    def acknowledged(self, id: str, turn: str) -> None:
        text = self.unsent.pop(id, None)
        if text is not None:
            self._accepted(id, text, turn)

    def apply(self, event: Event, cursor: Cursor | None) -> None:
        super().apply(event, cursor)
        if isinstance(event, Finished):
            self._answered.add(event.turn)
