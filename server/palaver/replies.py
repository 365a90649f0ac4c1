"""Replies: put together from the events of a conversation; send a message and collect its reply."""

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from palaver.channels import ConversationService
from palaver.errors import NotFound, Overloaded
from palaver.ledger import HistoryEntry, PendingTurn, Receipt, Snapshot
from palaver.messages import (
    Approval,
    Asked,
    Attached,
    Attachment,
    Citation,
    Cited,
    ClientCall,
    Conversation,
    Cursor,
    Event,
    Finished,
    FinishReason,
    Message,
    Outcome,
    Problem,
    Question,
    Received,
    Routed,
    Started,
    Text,
    TextReset,
    ToolCalled,
    Usage,
)
from palaver.streams.resume import replay_start

_THOUGHT = re.compile(
    r"^[ \t]*+<think(?:ing)?>.*?(?:</think(?:ing)?>\s*+|\Z)", re.DOTALL | re.MULTILINE
)
_OPEN_TAG = re.compile(r"^[ \t]*+<[a-z]{0,8}\Z", re.MULTILINE)


@dataclasses.dataclass(slots=True)
class TurnReply:
    """One turn and its reply so far. ``messages`` are the ids of the messages that it answers;
    ``person`` is who wrote the first of them, and ``request`` its text."""

    turn: str
    person: str = ""
    request: str = ""
    messages: list[str] = dataclasses.field(default_factory=list)
    text: str = ""
    skill: str = ""
    status: str = ""
    """Name of the tool that runs."""
    citations: list[Citation] = dataclasses.field(default_factory=list)
    attachments: list[Attachment] = dataclasses.field(default_factory=list)
    question: Question | None = None
    outcome: Outcome | None = None
    problem: Problem | None = None
    usage: Usage = dataclasses.field(default_factory=Usage)
    finish_reason: FinishReason = "stop"
    client_calls: tuple[ClientCall, ...] = ()
    used_tools: bool = False
    """Whether a tool of the server was called."""
    has_begun: bool = False
    """False while the turn waits: others may still go before it."""

    @property
    def visible_text(self) -> str:
        """Return the text without what a model thinks before it answers."""
        text = _THOUGHT.sub("", self.text)
        return text if self.outcome else _OPEN_TAG.sub("", text)

    def apply(self, event: Event) -> bool:
        """Apply an event of the turn. Return True when it has withdrawn text."""
        length = len(self.text)
        self.has_begun = self.has_begun or isinstance(event, Started)
        match event:
            case Text(position=position, text=text):
                self.text = self.text[:position] + text
                return position < length
            case TextReset(position=position):
                self.text = self.text[:position]
                return position < length
            case Started(attempt=attempt, position=position) if attempt > 1:
                self.text = self.text[:position]
                return position < length
            case Routed(skill=skill):
                self.skill = skill
            case ToolCalled(name=name, state=state):
                self.status = name if state == "started" else ""
                self.used_tools = True
            case Cited(citation=citation):
                self.citations.append(citation)
            case Attached(attachment=attachment):
                self.attachments.append(attachment)
            case Asked(question=question, options=options, approval=approval):
                self.question = Question(text=question, options=options, approval=approval)
            case Finished():
                self.outcome, self.problem = event.outcome, event.problem
                self.usage, self.finish_reason = event.usage, event.finish_reason
                self.client_calls = event.client_calls or ()
                self.messages = [id for id in self.messages if id in event.messages]
            case _:
                pass
        return False


class ReplyResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished reply. ``question`` is set when the skill asked and waits for the answer,
    ``approval`` when that is about the call of a tool."""

    turn: str
    outcome: Outcome
    text: str
    skill: str
    duplicate: bool = False
    citations: tuple[Citation, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    question: str | None = None
    options: tuple[str, ...] = ()
    approval: Approval | msgspec.UnsetType = msgspec.UNSET
    problem: Problem | None = None
    usage: Usage = Usage()
    finish_reason: FinishReason = "stop"
    client_calls: tuple[ClientCall, ...] = ()


class PendingReply:
    """The reply to one message so far, as a `Subscriber` of its conversation."""

    def __init__(self, message_id: str, receipt: Receipt) -> None:
        self.receipt = receipt
        self.was_reset = False
        """True when text was withdrawn that a caller may have passed on already."""
        self.changed = asyncio.Event()
        """Set after every change; the reader clears it."""
        self.has_events = False
        """True when events of the turn were received, or a snapshot that stands for them."""
        self._message_id = message_id
        self._reply = TurnReply(receipt.turn)
        self._result: asyncio.Future[ReplyResult] = asyncio.get_running_loop().create_future()

    @property
    def reply(self) -> TurnReply:
        """Return the turn and its reply so far."""
        return self._reply

    @property
    def text(self) -> str:
        return self._reply.text

    @property
    def skill(self) -> str:
        """Return the skill that answers; empty while none is chosen."""
        return self._reply.skill

    @property
    def used_tools(self) -> bool:
        return self._reply.used_tools

    @property
    def is_finished(self) -> bool:
        return self._result.done()

    async def wait(self) -> ReplyResult:
        """Wait for the end of the turn. Raises `NotFound` when the reply is no longer stored, and
        `Overloaded` when the server stops first."""
        return await asyncio.shield(self._result)

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if isinstance(event, Received) and event.moved and event.id == self._message_id:
            self._move_to(event.turn)
        if event.turn != self.receipt.turn:
            return
        self.has_events = True
        if isinstance(event, Finished) and self._message_id not in event.messages:
            return  # the turn did not take the message; a `Received` moves it to another
        if self._reply.apply(event):
            self.was_reset = True
        if self._reply.outcome:
            self._complete()
        self.changed.set()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        for pending in snapshot.pending:
            if pending.turn == self.receipt.turn:
                self._reply.text, self._reply.skill = pending.reply, pending.skill
                self.has_events = True
                self.changed.set()
                return
        for entry in snapshot.history:
            if entry.turn == self.receipt.turn and entry.role == "assistant":
                self._reply = settled_reply(entry)
                self._complete()
                self.changed.set()
                return
        self._fail(
            NotFound(f"the reply of turn {self.receipt.turn!r} is no longer stored, or superseded")
        )

    def on_shutdown(self) -> None:
        self._fail(
            Overloaded("the server restarts; repeat the request with its id", retry_after=1.0)
        )

    def _move_to(self, turn: str) -> None:
        self.receipt = msgspec.structs.replace(self.receipt, turn=turn)
        self.was_reset |= bool(self.text)
        self._reply = TurnReply(turn)

    def _complete(self) -> None:
        if self._result.done():
            return
        reply, question = self._reply, self._reply.question
        self._result.set_result(
            ReplyResult(
                turn=reply.turn,
                outcome=reply.outcome or "done",
                text=reply.text,
                skill=reply.skill,
                duplicate=self.receipt.duplicate,
                citations=tuple(reply.citations),
                attachments=tuple(reply.attachments),
                question=question.text if question else None,
                options=question.options if question else (),
                approval=question.approval if question else msgspec.UNSET,
                problem=reply.problem,
                usage=reply.usage,
                finish_reason=reply.finish_reason,
                client_calls=reply.client_calls,
            )
        )

    def _fail(self, error: Exception) -> None:
        if not self._result.done():
            self._result.set_exception(error)
            self._result.exception()  # without a waiter asyncio would log it as never retrieved
        self.changed.set()


PendingReplyT = TypeVar("PendingReplyT", bound=PendingReply)
MakeReply = Callable[[str, Receipt], PendingReplyT]
"""Makes what collects the reply to the message with an id, from the receipt of its acceptance."""


@asynccontextmanager
async def follow_reply(
    service: ConversationService, message: Message, *, members_only: bool = True
) -> AsyncIterator[PendingReply]:
    """Send ``message`` and subscribe to its turn from the first event on.

    Leaving the block ends the subscription, not the turn. ``members_only`` and errors are those of
    `ConversationService.accept`.
    """
    async with follow_reply_as(PendingReply, service, message, members_only=members_only) as reply:
        yield reply


@asynccontextmanager
async def follow_reply_as(
    make: MakeReply[PendingReplyT],
    service: ConversationService,
    message: Message,
    *,
    members_only: bool = True,
) -> AsyncIterator[PendingReplyT]:
    """Do as `follow_reply`, with a `PendingReply` of the caller's own."""
    service.check_subscriptions(message.conversation.tenant, message.person)
    before = await service.latest(message.conversation)
    receipt = await service.accept(message, members_only=members_only)
    since = replay_start(before) if receipt.duplicate or receipt.joined else before
    reply = make(message.id, receipt)
    async with _subscribed(service, message.conversation, message.person, reply, since):
        yield reply


@asynccontextmanager
async def follow_pending_as(
    make: MakeReply[PendingReplyT],
    service: ConversationService,
    conversation: Conversation,
    pending: PendingTurn,
    *,
    person: str,
) -> AsyncIterator[PendingReplyT]:
    """Subscribe to a turn that a snapshot has shown as ``pending``, from its first event on."""
    latest = await service.latest(conversation)
    receipt = Receipt(turn=pending.turn, ahead=0, duplicate=True)
    reply = make(pending.messages[0].id, receipt)
    async with _subscribed(service, conversation, person, reply, replay_start(latest)):
        yield reply


@asynccontextmanager
async def _subscribed(
    service: ConversationService,
    conversation: Conversation,
    person: str,
    reply: PendingReply,
    since: Cursor | None,
) -> AsyncIterator[None]:
    subscription = await service.subscribe(conversation, reply, since, person=person)
    try:
        if reply.receipt.duplicate and not reply.has_events and not reply.is_finished:
            # The stream began again after the turn: see `Ledger.select`.
            reply.on_snapshot(await service.snapshot(conversation))
        yield
    finally:
        service.unsubscribe(subscription)


def settled_reply(entry: HistoryEntry, request: HistoryEntry | None = None) -> TurnReply:
    """Return the reply of a turn that is over, as the history keeps it with its ``request``."""
    return TurnReply(
        entry.turn,
        request.person if request else "",
        request.text if request else "",
        text=entry.text,
        skill=entry.skill,
        citations=list(entry.citations or ()),
        attachments=list(entry.attachments or ()),
        question=entry.question or None,
        outcome=entry.outcome or "done",
        problem=entry.problem or None,
        finish_reason=entry.finish_reason or "stop",
        client_calls=entry.client_calls or (),
    )
