"""Server-sent events: the websocket's events for clients that only read."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from functools import partial

from aiohttp import web

from palaver.channels import ConversationService
from palaver.config.settings import ServerSettings
from palaver.errors import Forbidden, InvalidInput
from palaver.ledger import Snapshot
from palaver.messages import Conversation, Cursor, Event, Finished, Received, encode
from palaver.web.authentication import Authenticator, ConversationAccess
from palaver.web.frames import EventEncoder, Welcome, failure, restart_of, view_of
from palaver.web.socket import CHANNEL, replay_from
from palaver.web.websocket import FAREWELL

log = logging.getLogger(__name__)

PING_INTERVAL = 15.0
"""Seconds of silence after which a comment keeps the connection open."""
RETRY = (100, 500)
"""Milliseconds after which a browser comes back by itself, at random between the two: without being
told, it waits for seconds."""
EXPELLED = "the conversation belongs to someone else"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would gather what must leave at once
}


class Feed:
    """One reader of one conversation, as a `Viewer`.

    ``pending`` is the set of turns after whose end the feed ends, or None when it never does.
    """

    def __init__(
        self, visit: ConversationAccess, encoder: EventEncoder, limit: int, pending: set[str] | None
    ) -> None:
        self.visit = visit
        self.snapshot: Snapshot | None = None
        self.opened = False
        self.over = False
        self.fall_behind: Callable[[], None] = lambda: None
        """Called when too much waits for the reader."""
        self._encoder = encoder
        self._limit = limit
        self._pending = pending
        self._parts: list[bytes] = []
        self._size = 0
        self._news = asyncio.Event()

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if not self.visit.allows(event):
            self._expel()
            return
        self._add(self._encoder(event, cursor), cursor)
        self._note(event)

    def _note(self, event: Event) -> None:
        if self._pending is None:
            return
        if isinstance(event, Received):
            self._pending.add(event.turn)
        elif isinstance(event, Finished):
            self._pending.discard(event.turn)
            self._end_when_idle()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        if self.opened and not self.visit.renewed(snapshot):
            self.end()  # the reader comes back and is let in again, or not
            return
        if not self.opened and not self.visit.allows_all(snapshot):
            self._expel()
            return
        if self._pending is not None:
            self._pending = {turn.turn for turn in snapshot.pending}
        if self.opened:
            self._add(encode(restart_of(snapshot)), snapshot.cursor)
            self._end_when_idle()
        else:
            self._parts.clear()
            self._size = 0
            self.snapshot = snapshot

    def on_shutdown(self) -> None:
        """The reader comes back with its last id."""
        self.end()

    def open(self, welcome: Welcome, cursor: Cursor) -> None:
        """Begin, with the events that came while opening behind the welcome."""
        retry = b"retry: %d\n" % random.randint(*RETRY)
        self._parts.insert(0, retry + _field(encode(welcome), cursor))
        self._size = 0  # what is asked for on opening does not count as falling behind
        self.opened = True
        self._news.set()
        self._end_when_idle()

    def _end_when_idle(self) -> None:
        if self.opened and self._pending is not None and not self._pending:
            self.end()

    def _expel(self) -> None:
        self._add(encode(failure(Forbidden(EXPELLED))), None)
        self.end()

    def _add(self, frame: bytes, cursor: Cursor | None) -> None:
        if self.over:
            return
        field = _field(frame, cursor)
        self._parts.append(field)
        self._size += len(field)
        if self.opened and self._size > self._limit:
            self._parts.clear()  # the reader comes back with its last id
            self.end()
            self.fall_behind()
        self._news.set()

    def end(self) -> None:
        """Nothing comes after what has come."""
        self.over = True
        self._news.set()

    async def next(self) -> bytes:
        """What has come since; a comment after `PING_INTERVAL` seconds of silence, and nothing at
        the end."""
        try:
            async with asyncio.timeout(PING_INTERVAL):
                await self._news.wait()
        except TimeoutError:
            return b": ping\n\n"
        if not self.over:
            self._news.clear()
        data = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return data


def _field(frame: bytes, cursor: Cursor | None) -> bytes:
    if cursor is None:
        return b"data: %b\n\n" % frame
    return b"id: %b\ndata: %b\n\n" % (str(cursor).encode(), frame)


class EventStreams:
    """All the open feeds of this server."""

    def __init__(
        self,
        service: ConversationService,
        authenticator: Authenticator,
        settings: ServerSettings,
        slow_reader: Callable[[], None],
    ) -> None:
        self._slow_reader = slow_reader
        self._service = service
        self._authenticator = authenticator
        self._settings = settings
        self._encoder = EventEncoder()
        self.count = 0

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.get("/v1/conversations/{thread}/events", self._serve, allow_head=False),)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        feed = await self._feed(request)
        since = await self._since(request, feed.visit.conversation)
        subscription = await self._service.subscribe(feed.visit.conversation, feed, since)
        self.count += 1
        try:
            self._welcome(feed, subscription.recovered, since)
            return await self._write(request, feed)
        finally:
            self.count -= 1
            self._service.unsubscribe(subscription)

    async def _feed(self, request: web.Request) -> Feed:
        principal = self._authenticator.principal(request)
        person = principal.speaks_for(request.query.get("person"))
        conversation = Conversation(principal.tenant, CHANNEL, request.match_info["thread"])
        visit = ConversationAccess(self._service, conversation, person)
        await visit.enter()
        pending: set[str] | None = None
        until = request.query.get("until")
        if until == "finished":
            snapshot = await self._service.snapshot(conversation)
            pending = {turn.turn for turn in snapshot.pending}
        elif until is not None:
            raise InvalidInput(f"until is 'finished' or absent, not {until[:60]!r}")
        return Feed(visit, self._encoder, self._settings.send_queue_bytes, pending)

    async def _since(self, request: web.Request, conversation: Conversation) -> Cursor | None:
        # A browser that reconnects by itself repeats the address and adds the header.
        since = request.headers.get("Last-Event-ID") or request.query.get("since")
        return await replay_from(self._service, conversation, since)

    def _welcome(self, feed: Feed, recovered: bool, since: Cursor | None) -> None:
        if feed.over:  # somebody else has written first, since the membership was checked
            raise Forbidden(EXPELLED)
        snapshot = feed.snapshot
        cursor = since if snapshot is None else snapshot.cursor
        assert cursor is not None
        welcome = Welcome(
            recovered=recovered and snapshot is None,
            cursor=str(cursor),
            person=feed.visit.person,
            max_message_bytes=self._settings.max_message_bytes,
            snapshot=None if snapshot is None else view_of(snapshot),
        )
        feed.open(welcome, cursor)

    def _fall_behind(self, patience: asyncio.Timeout) -> None:
        self._slow_reader()
        patience.reschedule(asyncio.get_running_loop().time() + FAREWELL)

    async def _write(self, request: web.Request, feed: Feed) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        try:
            async with asyncio.timeout(None) as patience:
                feed.fall_behind = partial(self._fall_behind, patience)
                while data := await feed.next():
                    await response.write(data)
                await response.write_eof()
        except TimeoutError:
            log.info("a reader of a feed fell behind and was disconnected")
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # the reader has left; the turns go on
        return response
