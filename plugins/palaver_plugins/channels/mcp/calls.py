"""Calls: what a client asks for, as messages of a conversation, and the turns that answer them.

A call begins with a message. Where the skill asks, the answer is the next message of the call, with
an id that follows from the first one's and from the number of the question: an answer that arrives
twice is one, and every replica knows for which message to wait.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator

import msgspec
from mcp_types import INVALID_PARAMS

from palaver import (
    Approval,
    Asked,
    Cited,
    Conflict,
    Conversation,
    ConversationService,
    Cursor,
    Event,
    Finished,
    Message,
    NotFound,
    PalaverError,
    ProgramRequest,
    Queued,
    Received,
    Routed,
    Seals,
    Snapshot,
    Started,
    Text,
    ToolCalled,
    TurnReply,
    new_id,
    settled_reply,
)
from palaver_plugins.channels.mcp.catalog import KEY, Action, Order
from palaver_plugins.channels.mcp.clients import Client
from palaver_plugins.channels.mcp.protocol import RpcError
from palaver_plugins.channels.mcp.records import KEEP_SECONDS
from palaver_plugins.channels.mcp.settings import NAME

REPLAY_LIMIT = 5_000
"""Events of a conversation up to which a repeated call reads it from its beginning."""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A call, as clients bring it back in a sealed text.

    ``message`` is the id of its first message, ``turn`` its first turn. ``since`` is the offset in
    the conversation's stream before it; -1: unknown. ``name`` is the conversation's as the client
    knows it, ``is_shared`` whether other calls use it too.
    """

    tenant: str
    person: str
    action: str
    thread: str
    message: str
    turn: str
    epoch: str
    since: int
    name: str
    is_shared: bool
    has_key: bool

    @property
    def conversation(self) -> Conversation:
        return Conversation(self.tenant, NAME, self.thread)

    @property
    def start(self) -> Cursor | None:
        return None if self.since < 0 else Cursor(self.epoch, self.since)

    def message_id(self, number: int) -> str:
        """Return the id of the call's message after ``number`` questions."""
        return f"{self.message}.{number}" if number else self.message

    def number_of(self, message: str) -> int | None:
        """Return how many questions came before a message; None: it is none of the call."""
        if message == self.message:
            return 0
        prefix, _, number = message.rpartition(".")
        return int(number) if prefix == self.message and number.isdigit() else None

    def is_of(self, client: Client) -> bool:
        return (self.tenant, self.person) == (client.principal.tenant, client.person)


class CallFollower:
    """A call's turns so far, as a `Subscriber` of its conversation."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.changed = asyncio.Event()
        """Set after every change; the reader clears it."""
        self.turns: list[TurnReply] = []
        """The turns, oldest first; each but the last one ended with a question."""
        self.number = 0
        """Questions that were asked."""
        self.progress: tuple[int, str] | None = None
        """The newest event: its offset, and a sentence about it."""
        self.offset = 0
        """The offset of the newest event of the call."""
        self.created_at = self.updated_at = 0.0
        """Times of the first and the newest message, in seconds since the epoch."""
        self.is_finished = False
        self.is_shut_down = False
        self._failure: PalaverError | None = None

    @property
    def reply(self) -> TurnReply:
        """Return the newest turn. Raises `NotFound` when the call is no longer stored."""
        if self._failure is not None:
            raise self._failure
        return self.turns[-1]

    @property
    def is_asking(self) -> bool:
        """Return whether the newest turn ended with a question that waits for its answer."""
        return bool(self.turns) and self.turns[-1].outcome == "asked"

    @property
    def approval(self) -> Approval | None:
        """Return the call of a tool that the open question is about; None: there is none."""
        question = self.reply.question if self.is_asking else None
        return (question.approval or None) if question else None

    @property
    def is_known(self) -> bool:
        """Return whether the call's state is here, or is known to be lost."""
        return bool(self.turns) or self._failure is not None

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if isinstance(event, Received) and event.id == self.call.message_id(self.number):
            self._begin(event)
        if not self.turns or event.turn != self.turns[-1].turn:
            return
        reply = self.turns[-1]
        if isinstance(event, Finished) and self.call.message_id(self.number) not in event.messages:
            return  # the turn did not take the message; a `Received` moves it to another
        reply.apply(event)
        if cursor is not None:
            self.offset = cursor.offset
            if sentence := _describe(event):
                self.progress = (cursor.offset, sentence)
        if isinstance(event, Finished):
            self._end(event.outcome == "asked")
        self.changed.set()

    def _begin(self, event: Received) -> None:
        if event.moved and self.turns:
            del self.turns[-1]
        self.turns.append(TurnReply(event.turn, event.person, event.text, [event.id]))
        self.updated_at = event.at
        self.created_at = self.created_at or event.at

    def _end(self, is_asking: bool) -> None:
        if is_asking:
            self.number += 1
        else:
            self.is_finished = True

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self.turns, self.number, self.is_finished = [], 0, False
        self.offset = snapshot.cursor.offset
        self._take_settled(snapshot)
        for pending in snapshot.pending:
            for message in pending.messages:
                number = self.call.number_of(message.id)
                if number is not None:
                    reply = TurnReply(pending.turn, text=pending.reply, skill=pending.skill)
                    reply.messages = [message.id]
                    for event in pending.events:
                        reply.apply(event)
                    self.turns.append(reply)
                    self.number, self.is_finished = number, False
                    self.updated_at = pending.at
                    self.created_at = self.created_at or pending.at
        if not self.turns:
            self._failure = NotFound("the call is no longer stored")
        self.changed.set()

    def _take_settled(self, snapshot: Snapshot) -> None:
        """Take the settled turns: in a conversation of the call's own, all that follow."""
        settled = [entry for entry in snapshot.history if entry.role == "assistant"]
        turns = [entry.turn for entry in settled]
        if self.call.turn not in turns:
            return
        first = turns.index(self.call.turn)
        own = settled[first : first + 1] if self.call.is_shared else settled[first:]
        for entry in own:
            self.turns.append(settled_reply(entry))
            self.updated_at = entry.at
            self.created_at = self.created_at or entry.at
            self._end(entry.outcome == "asked")

    def on_shutdown(self) -> None:
        self.is_shut_down = True
        self.changed.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a change, at most for some seconds. Return whether there was one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        has_changed = self.changed.is_set()
        self.changed.clear()
        return has_changed


def _describe(event: Event) -> str:
    """Return a sentence about an event for a person who waits; empty: it says nothing."""
    match event:
        case Received():
            return "Accepted"
        case Started(attempt=attempt):
            return "Started" if attempt == 1 else f"Started again (attempt {attempt})"
        case Queued(ahead=ahead):
            return f"Waiting behind {ahead} others"
        case Routed(skill=skill):
            return f"{skill} answers"
        case ToolCalled(name=name, state=state):
            return f"Tool {name}: {state}"
        case Text():
            return f"{event.end} characters written"
        case Cited(citation=citation):
            return f"Source: {citation.title}"
        case Asked(question=question):
            return question
        case _:
            return ""


class Calls:
    """Begins, follows, answers and stops calls."""

    def __init__(self, service: ConversationService, seals: Seals) -> None:
        self._service = service
        self._seals = seals

    def seal(self, call: Call) -> str:
        return self._seals.seal(call)

    def read(self, sealed: object, client: Client) -> Call | None:
        """Return a call of the client's own person; None: it is not sealed here, or another's."""
        call = self._seals.read(sealed, Call) if isinstance(sealed, str) else None
        return call if call is not None and call.is_of(client) else None

    async def begin(self, client: Client, action: Action, order: Order) -> Call:
        """Store the first message of a call. Raises as `ConversationService.accept`, and `RpcError`
        where the idempotency key belongs to another call."""
        key = _digest(client.principal.name, client.person, order.key) if order.key else ""
        name = order.conversation or key or new_id()
        conversation = Conversation(
            client.principal.tenant, NAME, _digest("conversation", client.person, name)
        )
        self._service.check_subscriptions(conversation.tenant, client.person)
        is_answer = bool(order.conversation) and await self._is_asking(conversation, action.skill)
        before = await self._service.latest(conversation)
        message = Message(
            conversation=conversation,
            id=key or new_id(),
            person=client.person,
            text=order.text,
            skill=None if is_answer else action.skill,
            arguments={} if is_answer else order.arguments,
            program=_program(is_shared=bool(order.conversation), is_answer=is_answer),
        )
        try:
            receipt = await self._service.accept(message)
        except Conflict as error:
            raise RpcError(
                INVALID_PARAMS, f"the {KEY} was used with another call; choose a new one"
            ) from error
        since = before.offset
        if receipt.duplicate or receipt.joined:
            since = 0 if before.offset <= REPLAY_LIMIT else -1
        return Call(
            tenant=conversation.tenant,
            person=client.person,
            action=action.name,
            thread=conversation.thread,
            message=message.id,
            turn=receipt.turn,
            epoch=before.epoch,
            since=since,
            name=name,
            is_shared=bool(order.conversation),
            has_key=bool(key),
        )

    async def _is_asking(self, conversation: Conversation, skill: str) -> bool:
        """Return whether a question of the skill waits in a conversation."""
        snapshot = await self._service.snapshot(conversation)
        if snapshot.pending or not snapshot.history:
            return False
        newest = snapshot.history[-1]
        return newest.outcome == "asked" and newest.skill == skill

    @contextlib.asynccontextmanager
    async def follow(self, call: Call) -> AsyncIterator[CallFollower]:
        """Subscribe to a call. Leaving the block ends the subscription, not the call."""
        follower = CallFollower(call)
        conversation = call.conversation
        subscription = await self._service.subscribe(
            conversation, follower, call.start, person=call.person
        )
        try:
            if not follower.is_known:  # the events of a repeated call may be trimmed
                follower.on_snapshot(await self._service.snapshot(conversation))
            yield follower
        finally:
            self._service.unsubscribe(subscription)

    async def look(self, call: Call) -> CallFollower:
        """Return the state of a call."""
        async with self.follow(call) as follower:
            return follower

    async def answer(self, call: Call, number: int, text: str) -> None:
        """Store the answer to a question of a call; one that has its answer keeps it."""
        follower = await self.look(call)
        if not (follower.is_asking and follower.number == number):
            return
        approval = follower.approval
        message = Message(
            conversation=call.conversation,
            id=call.message_id(number),
            person=call.person,
            text=text,
            answers=approval.id if approval else "",
            program=_program(is_shared=call.is_shared, is_answer=True),
        )
        with contextlib.suppress(Conflict):  # another answer came first
            await self._service.accept(message)

    async def stop(self, call: Call) -> None:
        """Stop a call's newest turn."""
        follower = await self.look(call)
        await self._service.stop(call.conversation, follower.reply.turn)


def _program(*, is_shared: bool, is_answer: bool) -> ProgramRequest:
    return ProgramRequest(retention=None if is_shared else KEEP_SECONDS, is_answer=is_answer)


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]
