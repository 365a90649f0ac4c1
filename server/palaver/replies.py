"""Replies: send a message and collect its reply from the conversation's events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from palaver.channels import ConversationService
from palaver.errors import NotFound, Overloaded
from palaver.ledger import Receipt, Snapshot
from palaver.messages import (
    Asked,
    Attached,
    Attachment,
    Citation,
    Cited,
    Cursor,
    Event,
    Finished,
    Message,
    Outcome,
    Problem,
    Received,
    Routed,
    Text,
    TextReset,
    Usage,
)
from palaver.streams.resume import replay_start


class ReplyResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished reply. ``question`` is set when the skill asked and waits for the answer."""

    turn: str
    outcome: Outcome
    text: str
    skill: str
    duplicate: bool = False
    citations: tuple[Citation, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    question: str | None = None
    options: tuple[str, ...] = ()
    problem: Problem | None = None
    usage: Usage = Usage()


class PendingReply:
    """The reply to one message so far, as a `Subscriber` of its conversation."""

    def __init__(self, message_id: str, receipt: Receipt) -> None:
        self.receipt = receipt
        self.text = ""
        self.was_reset = False
        """True when text was withdrawn that a caller may have passed on already."""
        self.changed = asyncio.Event()
        """Set after every change; the reader clears it."""
        self._message_id = message_id
        self._skill = ""
        self._citations: list[Citation] = []
        self._attachments: list[Attachment] = []
        self._question: Asked | None = None
        self._result: asyncio.Future[ReplyResult] = asyncio.get_running_loop().create_future()

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
        if isinstance(event, Text):
            self._truncate(event.position)
            self.text += event.text
        elif isinstance(event, TextReset):
            self._truncate(event.position)
        elif isinstance(event, Routed):
            self._skill = event.skill
        elif isinstance(event, Cited):
            self._citations.append(event.citation)
        elif isinstance(event, Attached):
            self._attachments.append(event.attachment)
        elif isinstance(event, Asked):
            self._question = event
        elif isinstance(event, Finished) and self._message_id in event.messages:
            # Otherwise the turn did not take the message, and a `Received` moves it to another.
            self._complete(event.outcome, event.problem, event.usage)
        self.changed.set()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        for pending in snapshot.pending:
            if pending.turn == self.receipt.turn:
                self.text, self._skill = pending.reply, pending.skill
                self.changed.set()
                return
        for entry in snapshot.history:
            if entry.turn == self.receipt.turn and entry.role == "assistant":
                self.text, self._skill = entry.text, entry.skill
                self._complete(entry.outcome or "done")
                self.changed.set()
                return
        self._fail(NotFound(f"the reply of turn {self.receipt.turn!r} is no longer stored"))

    def on_shutdown(self) -> None:
        self._fail(
            Overloaded("the server restarts; repeat the request with its id", retry_after=1.0)
        )

    def _move_to(self, turn: str) -> None:
        self.receipt = msgspec.structs.replace(self.receipt, turn=turn)
        self._truncate(0)
        self._citations.clear()
        self._attachments.clear()
        self._question = None

    def _truncate(self, position: int) -> None:
        if position < len(self.text):
            self.text = self.text[:position]
            self.was_reset = True

    def _complete(
        self, outcome: Outcome, problem: Problem | None = None, usage: Usage | None = None
    ) -> None:
        if self._result.done():
            return
        asked = self._question
        self._result.set_result(
            ReplyResult(
                turn=self.receipt.turn,
                outcome=outcome,
                text=self.text,
                skill=self._skill,
                duplicate=self.receipt.duplicate,
                citations=tuple(self._citations),
                attachments=tuple(self._attachments),
                question=asked.question if asked else None,
                options=asked.options if asked else (),
                problem=problem,
                usage=usage or Usage(),
            )
        )

    def _fail(self, error: Exception) -> None:
        if not self._result.done():
            self._result.set_exception(error)
            self._result.exception()  # without a waiter asyncio would log it as never retrieved
        self.changed.set()


@asynccontextmanager
async def follow_reply(
    service: ConversationService, message: Message, *, members_only: bool = True
) -> AsyncIterator[PendingReply]:
    """Send ``message`` and subscribe to its turn from the first event on.

    Leaving the block ends the subscription, not the turn. ``members_only`` and errors are those of
    `ConversationService.accept`.
    """
    service.check_subscriptions(message.conversation.tenant, message.person)
    before = await service.latest(message.conversation)
    receipt = await service.accept(message, members_only=members_only)
    since = replay_start(before) if receipt.duplicate or receipt.joined else before
    reply = PendingReply(message.id, receipt)
    subscription = await service.subscribe(
        message.conversation, reply, since, person=message.person
    )
    try:
        yield reply
    finally:
        service.unsubscribe(subscription)
