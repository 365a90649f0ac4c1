"""Reading of responses: from the events of their turns while the ledger has them, else from the
history."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import msgspec

from palaver import (
    Asked,
    Attached,
    Cited,
    ClientCall,
    Conversation,
    ConversationAccess,
    ConversationService,
    Cursor,
    Event,
    Finished,
    Forbidden,
    HistoryEntry,
    Overloaded,
    PendingTurn,
    Received,
    Routed,
    SentMessage,
    Snapshot,
    Started,
    Text,
    ToolCalled,
)
from palaver_plugins.channels.openai_api.errors import Json, NoSuchObject
from palaver_plugins.channels.openai_api.response_builder import ResponseBuilder
from palaver_plugins.channels.openai_api.response_ids import ItemId, ResponseId

MAX_PAGES = 200
"""Pages of a conversation's history that are read for one request."""
MAX_EVENTS = 20_000
"""Events of a conversation that are read for those of one response."""
MAX_CHAIN = 500
"""Responses that follow each other by ``previous_response_id``."""


class StoredResponse(msgspec.Struct, frozen=True):
    """The request of a response, as the ledger has it, and its reply; a ``pending`` turn has none
    yet."""

    id: ResponseId
    request: HistoryEntry
    reply: HistoryEntry | None = None
    pending: PendingTurn | None = None

    @property
    def note(self) -> str:
        return self.request.note or ""

    @property
    def model(self) -> str:
        """Return the model that was asked for."""
        note: Json = msgspec.json.decode(self.note) if self.note else {}
        return str(note.get("model", ""))

    @property
    def input(self) -> tuple[SentMessage, ...]:
        """Return the messages of the request."""
        return _sent(self.request)


def _sent(entry: HistoryEntry) -> tuple[SentMessage, ...]:
    """Return the messages that an entry of the history stands for."""
    if entry.input:
        return entry.input
    if entry.role == "assistant":
        calls = entry.client_calls or ()
        return (SentMessage("assistant", entry.text, calls=calls),) if entry.text or calls else ()
    return (SentMessage("user", entry.text, entry.attachments or ()),)


class ResponseReader:
    """Reads the responses of one person."""

    def __init__(self, service: ConversationService, person: str) -> None:
        self.service = service
        self._person = person

    async def find(self, id: ResponseId) -> StoredResponse:
        """Return a response of the person. Raises `NoSuchObject`."""
        entries, pending = await self._read(id.conversation, until=id.turn)
        own = [entry for entry in entries if entry.turn == id.turn]
        asked = next((entry for entry in own if entry.role == "user"), None)
        reply = next((entry for entry in own if entry.role == "assistant"), None)
        if asked is not None and reply is not None:
            return StoredResponse(id, asked, reply)
        turn = next((each for each in pending if each.turn == id.turn), None)
        if turn is None:
            raise NoSuchObject("response", str(id))
        return StoredResponse(id, _pending_request(turn), pending=turn)

    async def entries(self, conversation: Conversation) -> list[HistoryEntry]:
        """Return the history of a conversation, oldest first. Raises `NoSuchObject`."""
        return (await self._read(conversation))[0]

    async def check_member(self, conversation: Conversation) -> bool:
        """Return whether the person has written to the conversation. Raises `NoSuchObject` when
        only others have."""
        try:
            access = ConversationAccess(self.service, conversation, self._person)
            return await access.is_member()
        except Forbidden:
            raise NoSuchObject("conversation", conversation.thread) from None

    async def _read(
        self, conversation: Conversation, until: str = ""
    ) -> tuple[list[HistoryEntry], Sequence[PendingTurn]]:
        """Return the entries from the turn ``until`` on, or all, and the turns that have not
        ended."""
        access = ConversationAccess(self.service, conversation, self._person)
        try:
            if not await access.is_member():
                return [], ()
            snapshot = await access.snapshot()
            entries, earlier = list(snapshot.history), snapshot.earlier
            for _ in range(MAX_PAGES):
                is_whole = entries and entries[0].turn != until  # the turn has no earlier entry
                if not earlier or (is_whole and any(it.turn == until for it in entries)):
                    break
                page = await access.history(earlier, 1_000)
                first = entries[0] if entries else None
                cut = bool(page.history and first and _is_same(page.history[-1], first))
                entries = [*page.history, *entries[1 if cut else 0 :]]
                earlier = page.earlier
        except Forbidden:
            return [], ()
        return entries, snapshot.pending

    async def transcript(self, id: ResponseId) -> tuple[SentMessage, ...]:
        """Return the conversation up to a response that has ended, and through those before it.

        Raises `NoSuchObject`.
        """
        parts: list[list[SentMessage]] = []
        following: ResponseId | None = id
        while following is not None:
            if len(parts) >= MAX_CHAIN:
                raise NoSuchObject("response", str(id))
            entries, _ = await self._read(following.conversation)
            turns = [entry.turn for entry in entries]
            if following.turn not in turns:
                raise NoSuchObject("response", str(following))
            end = len(turns) - turns[::-1].index(following.turn)
            parts.append([sent for entry in entries[:end] for sent in _sent(entry)])
            following = _previous(entries[0], following)
        return tuple(sent for part in reversed(parts) for sent in part)

    async def item(self, id: ItemId) -> SentMessage:
        """Return the message of an item. Raises `NoSuchObject`."""
        stored = await self.find(id.response)
        if id.is_input:
            if id.place < len(stored.input):
                return stored.input[id.place]
            raise NoSuchObject("item", str(id))
        builder = await self.build(stored, lambda skill: skill)
        output = builder.response["output"]
        if id.place >= len(output):
            raise NoSuchObject("item", str(id))
        return sent_item(output[id.place])

    async def build(
        self, stored: StoredResponse, model_of: Callable[[str], str]
    ) -> ResponseBuilder:
        """Return a response as it is now."""
        async with self.follow(stored.id, stored.note, model_of) as follower:
            if follower.has_all(stored):
                return follower.builder
        return _from_history(stored, model_of)

    @contextlib.asynccontextmanager
    async def follow(
        self,
        id: ResponseId,
        note: str,
        model_of: Callable[[str], str],
        since: Cursor | None = None,
    ) -> AsyncIterator["ResponseFollower"]:
        """Follow the events of a response, from the first one on. ``since``: a position before it,
        where it is known."""
        if since is None:
            latest = await self.service.latest(id.conversation)
            since = Cursor(latest.epoch, 0 if latest.offset <= MAX_EVENTS else latest.offset)
        follower = ResponseFollower(ResponseBuilder(id, note, model_of))
        subscription = await self.service.subscribe(
            id.conversation,
            follower,
            since,
            person=self._person,
            stored_only=True,
        )
        try:
            yield follower
        finally:
            self.service.unsubscribe(subscription)


class ResponseFollower:
    """A response while it is made, as a `Subscriber` of its conversation."""

    def __init__(self, builder: ResponseBuilder) -> None:
        self.builder = builder
        self.events: list[Json] = []
        """Events of the stream, from the first one on."""
        self.changed = asyncio.Event()
        self.is_lost = False
        """Whether the ledger no longer has the events from the first one on."""
        self.error: Overloaded | None = None

    @property
    def has_ended(self) -> bool:
        return self.builder.is_finished or self.is_lost or self.error is not None

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if event.turn == self.builder.id.turn and not self.has_ended:
            self.events += self.builder.apply(event)
            self.changed.set()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self.is_lost = self.is_lost or not self.builder.is_finished
        self.changed.set()

    def on_shutdown(self) -> None:
        if not self.has_ended:
            self.error = Overloaded("the server restarts; read the response again", retry_after=1.0)
        self.changed.set()

    def has_all(self, stored: StoredResponse) -> bool:
        """Return whether the events are there as far as the turn has come."""
        has_begun = bool(self.events) and (self.builder.is_finished or stored.reply is None)
        return has_begun and not self.is_lost

    async def wait_for_end(self) -> None:
        """Wait until the turn has ended. Raises `Overloaded` when the server stops first."""
        while not self.has_ended:
            self.changed.clear()
            await self.changed.wait()
        if self.error is not None:
            raise self.error


def sent_item(item: Json) -> SentMessage:
    """Return an item of an output as a message of the conversation."""
    if item["type"] == "function_call":
        call = {name: item[name] for name in ("name", "arguments")}
        calls = (ClientCall(id=item["call_id"], **call),)
        return SentMessage("assistant", "", calls=calls)
    text = "".join(part["text"] for part in item.get("content", ()))
    return SentMessage("assistant", text)


def _previous(first: HistoryEntry, id: ResponseId) -> ResponseId | None:
    """Return the response that the first one of a conversation follows."""
    note: Json = msgspec.json.decode(first.note) if first.note else {}
    previous = note.get("previous_response_id")
    if not previous or id.is_in_conversation:
        return None
    return ResponseId.parse(previous, id.conversation.tenant, id.conversation.channel)


def _is_same(one: HistoryEntry, other: HistoryEntry) -> bool:
    return (one.turn, one.role, one.at) == (other.turn, other.role, other.at)


def _pending_request(turn: PendingTurn) -> HistoryEntry:
    message = turn.message
    program = message.program or None
    return HistoryEntry(
        role="user",
        text=message.text,
        turn=turn.turn,
        at=turn.at,
        person=message.person,
        attachments=message.attachments or msgspec.UNSET,
        input=(program.input if program else ()) or msgspec.UNSET,
        note=(program.note if program else "") or msgspec.UNSET,
    )


def _history_events(stored: StoredResponse) -> Iterable[Event]:
    """Yield events that make the same output as those which the ledger no longer has."""
    turn, asked, reply = stored.id.turn, stored.request, stored.reply
    yield Received(turn=turn, id="", person=asked.person, text="", at=asked.at)
    if reply is None:
        if stored.pending is not None and stored.pending.running:
            yield Started(turn=turn, attempt=1)
        return
    if reply.skill:
        yield Routed(turn=turn, skill=reply.skill, reason="")
    for number, use in enumerate(reply.tools or ()):
        yield ToolCalled(
            turn=turn,
            call=str(number),
            name=use.name,
            arguments=use.arguments,
            state=use.state,
            result=use.result,
        )
    for citation in reply.citations or ():
        yield Cited(turn=turn, citation=citation)
    if reply.text:
        yield Text(turn=turn, position=0, text=reply.text)
    for attachment in reply.attachments or ():
        yield Attached(turn=turn, attachment=attachment)
    if reply.question:
        question = reply.question
        yield Asked(
            turn=turn,
            question=question.text,
            options=question.options,
            approval=question.approval,
        )
    yield Finished(
        turn=turn,
        outcome=reply.outcome or "done",
        length=len(reply.text),
        problem=reply.problem or None,
        finish_reason=reply.finish_reason or "stop",
        client_calls=reply.client_calls,
    )


def history_output(stored: StoredResponse) -> list[Json]:
    """Return the output of a response that has ended, as the history has it."""
    output: list[Json] = _from_history(stored, lambda skill: skill).response["output"]
    return output


def _from_history(stored: StoredResponse, model_of: Callable[[str], str]) -> ResponseBuilder:
    builder = ResponseBuilder(stored.id, stored.note, model_of)
    for event in _history_events(stored):
        builder.apply(event)
    return builder
