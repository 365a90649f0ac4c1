"""Replies: one turn's reply gathered from its conversation's events, for HTTP callers who wait."""

import asyncio
from collections.abc import AsyncIterator, Callable
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

REPLAY_LIMIT = 5_000
"""Events that are read again to find an earlier reply; a longer conversation gives its text only.
"""
SAME_STEP = 0.1
"""Seconds within which the events of one step of the ledger arrive here."""


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
    """A `Viewer` that keeps to the turn that has one message. ``news`` is called after every
    change."""

    def __init__(
        self, message: str, receipt: Receipt, news: Callable[[], None] = lambda: None
    ) -> None:
        self.receipt = receipt
        self._message = message
        self.text = ""
        self.withdrawn = False
        """Whether text was taken back that a caller may have passed on already."""
        self._news = news
        self._skill = ""
        self._citations: list[Citation] = []
        self._attachments: list[Attachment] = []
        self._question: Asked | None = None
        self._finish: asyncio.Future[ReplyResult] = asyncio.get_running_loop().create_future()
        self._ending = False

    @property
    def ended(self) -> bool:
        return self._finish.done()

    async def finish(self) -> ReplyResult:
        """Wait for the end of the turn. Raises `NotFound` when the reply is held no more, and
        `Overloaded` when the server stops and nobody here can wait any longer."""
        return await asyncio.shield(self._finish)

    def give_up(self, error: Exception) -> None:
        """End the waiting with ``error``."""
        if not self._finish.done():
            self._finish.set_exception(error)
            self._finish.exception()  # somebody may have stopped waiting: then it is nobody's news
        self._news()

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if isinstance(event, Received) and event.moved and event.id == self._message:
            self._move(event.turn)
        if event.turn != self.receipt.turn:
            return
        if isinstance(event, Text):
            self._cut(event.position)
            self.text += event.text
        elif isinstance(event, TextReset):
            self._cut(event.position)
        elif isinstance(event, Routed):
            self._skill = event.skill
        elif isinstance(event, Cited):
            self._citations.append(event.citation)
        elif isinstance(event, Attached):
            self._attachments.append(event.attachment)
        elif isinstance(event, Asked):
            self._question = event
        elif isinstance(event, Finished):
            self._end_after(event)
        self._news()

    def _end_after(self, event: Finished) -> None:
        """The turn is over. If the message joined it without being taken, the ledger tells so in
        the same step, and another turn has it now."""
        turn = self.receipt.turn
        self._ending = True

        def end() -> None:
            if self.receipt.turn == turn:
                self._end(event.outcome, event.problem, event.usage)
                self._news()

        if self.receipt.joined or self.receipt.duplicate:
            asyncio.get_running_loop().call_later(SAME_STEP, end)
        else:
            end()

    def _move(self, turn: str) -> None:
        self.receipt = msgspec.structs.replace(self.receipt, turn=turn)
        self._cut(0)
        self._citations.clear()
        self._attachments.clear()
        self._question = None

    def _cut(self, position: int) -> None:
        if position < len(self.text):
            self.text = self.text[:position]
            self.withdrawn = True

    def _end(
        self, outcome: Outcome, problem: Problem | None = None, usage: Usage | None = None
    ) -> None:
        if self._finish.done():
            return
        asked = self._question
        self._finish.set_result(
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

    def on_snapshot(self, snapshot: Snapshot) -> None:
        for pending in snapshot.pending:
            if pending.turn == self.receipt.turn:
                self.text, self._skill = pending.reply, pending.skill
                self._news()
                return
        for line in snapshot.history:
            if line.turn == self.receipt.turn and line.role == "assistant":
                self.text, self._skill = line.text, line.skill
                self._end(line.outcome or "done")
                self._news()
                return
        self.give_up(NotFound(f"the reply of turn {self.receipt.turn!r} is not held any more"))

    def on_shutdown(self) -> None:
        restarts = Overloaded(
            "the server restarts; repeat the request with its id", retry_after=1.0
        )
        # What has ended is told of within a moment; giving up afterwards changes nothing.
        wait = 2 * SAME_STEP if self._ending else 0.0
        asyncio.get_running_loop().call_later(wait, self.give_up, restarts)


@asynccontextmanager
async def follow_reply(
    service: ConversationService, message: Message, news: Callable[[], None] = lambda: None
) -> AsyncIterator[PendingReply]:
    """Send ``message`` and follow its turn, from its first event on. Leaving ends the following,
    not the turn. Raises what `Reception.accept` raises."""
    before = (await service.snapshot(message.conversation)).cursor
    receipt = await service.accept(message)
    since: Cursor | None = before
    if receipt.duplicate or receipt.joined:
        since = Cursor(before.epoch, 0) if before.offset <= REPLAY_LIMIT else None
    reply = PendingReply(message.id, receipt, news)
    subscription = await service.subscribe(message.conversation, reply, since)
    try:
        yield reply
    finally:
        service.unsubscribe(subscription)
