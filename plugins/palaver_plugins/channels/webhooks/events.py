"""Events: what an endpoint tells about a turn that has ended."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from palaver import (
    CUT_MARK,
    Attachment,
    Citation,
    Conversation,
    ConversationService,
    FinishReason,
    HistoryEntry,
    InvalidInput,
    Outcome,
    Problem,
    Question,
    encode,
)
from palaver.platforms import TurnReply

MAX_EVENT_BYTES = 20_000
MIN_TEXT_BYTES = 4_000
"""Bytes of an event for the text, at least; where other parts leave less, they are left out."""
MAX_URL_LENGTH = 1_000
"""Characters of an attachment's URL; a longer one has the content in itself."""
HISTORY_PAGES = 200
"""Pages of the history that are searched for a turn."""
PAGE_ENTRIES = 40

CallbackType = Literal["reply.finished", "reply.asked", "reply.failed"]
_TYPES: dict[Outcome, CallbackType] = {
    "done": "reply.finished",
    "stopped": "reply.finished",
    "asked": "reply.asked",
    "failed": "reply.failed",
}


class CallbackFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file of the reply. Without ``url``, the content is in the conversation only."""

    name: str
    media_type: str
    size: int = 0
    url: str = ""


class CallbackData(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that has ended, and its reply.

    ``messages`` are the webhook ids of the messages that it answers, as far as they are known.
    ``cursor`` is a place in the conversation's stream, ``epoch:offset``: of two turns in the same
    epoch, the one with the higher offset ended later; empty in the answer to ``reply.read``.
    ``answer_to`` is set when the turn has asked a question: send it with the answer. ``is_cut``:
    the event leaves out some of the reply; ``reply.read`` returns all of it.
    """

    endpoint: str
    thread: str
    turn: str
    messages: tuple[str, ...] = ()
    cursor: str = ""
    outcome: Outcome
    skill: str
    text: str
    is_cut: bool = False
    finish_reason: FinishReason = "stop"
    citations: tuple[Citation, ...] = ()
    attachments: tuple[CallbackFile, ...] = ()
    question: Question | None = None
    answer_to: str | None = None
    problem: Problem | None = None


class CallbackEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What is posted to a callback. ``timestamp`` is when the turn ended."""

    type: CallbackType
    timestamp: str
    data: CallbackData


def type_of(outcome: Outcome) -> CallbackType:
    return _TYPES[outcome]


def event_id(turn: str, outcome: Outcome) -> str:
    """Return the id of an event, the same at every attempt to deliver it."""
    digest = hashlib.sha256(f"{turn}\0{type_of(outcome)}".encode()).hexdigest()
    return f"evt_{digest[:32]}"


async def find_reply(
    service: ConversationService, conversation: Conversation, turn: str
) -> HistoryEntry | None:
    """Return the reply of a turn that has ended; None when it is erased or has not ended."""
    before = ""
    for _ in range(HISTORY_PAGES):
        page = await service.history(conversation, before, PAGE_ENTRIES)
        for entry in reversed(page.history):
            if entry.turn == turn and entry.role == "assistant":
                return entry
        before = page.earlier
        if not before:
            return None
    raise InvalidInput(f"the turn {turn!r} is too far back in its conversation")


def make_event(
    endpoint: str,
    conversation: Conversation,
    reply: HistoryEntry,
    *,
    messages: Sequence[str] = (),
    cursor: str = "",
) -> CallbackEvent:
    outcome = reply.outcome or "done"
    data = CallbackData(
        endpoint=endpoint,
        thread=conversation.thread.removeprefix(f"{endpoint}."),
        turn=reply.turn,
        messages=tuple(messages),
        cursor=cursor,
        outcome=outcome,
        skill=reply.skill,
        text=TurnReply(reply.turn, text=reply.text, outcome=outcome).visible_text,
        finish_reason=reply.finish_reason or "stop",
        citations=reply.citations or (),
        attachments=tuple(map(_file, reply.attachments or ())),
        question=reply.question or None,
        answer_to=reply.turn if outcome == "asked" else None,
        problem=reply.problem or None,
    )
    at = datetime.fromtimestamp(reply.at, UTC).isoformat(timespec="microseconds")
    return CallbackEvent(type=type_of(outcome), timestamp=at.replace("+00:00", "Z"), data=data)


def _file(attachment: Attachment) -> CallbackFile:
    url = attachment.url if len(attachment.url) <= MAX_URL_LENGTH else ""
    return CallbackFile(
        name=attachment.name, media_type=attachment.media_type, size=attachment.size, url=url
    )


def fit(event: CallbackEvent, limit: int = MAX_EVENT_BYTES) -> bytes:
    """Return an event as JSON of at most ``limit`` bytes."""
    body = encode(event)
    if len(body) <= limit:
        return body
    data = msgspec.structs.replace(event.data, is_cut=True, citations=_without_passages(event))
    room = limit - _size_without_text(event, data)
    if room < MIN_TEXT_BYTES:
        data = msgspec.structs.replace(data, citations=(), attachments=())
        if data.question is not None:
            question = Question(text=_cut(data.question.text, MIN_TEXT_BYTES))
            data = msgspec.structs.replace(data, question=question)
        room = limit - _size_without_text(event, data)
    data = msgspec.structs.replace(data, text=_cut(data.text, room))
    return encode(msgspec.structs.replace(event, data=data))


def _without_passages(event: CallbackEvent) -> tuple[Citation, ...]:
    return tuple(msgspec.structs.replace(each, passage="") for each in event.data.citations)


def _size_without_text(event: CallbackEvent, data: CallbackData) -> int:
    data = msgspec.structs.replace(data, text="")
    return len(encode(msgspec.structs.replace(event, data=data)))


def _cut(text: str, size: int) -> str:
    """Return the beginning of a text whose JSON takes at most ``size`` bytes."""
    if _json_size(text) <= size:
        return text
    room = max(0, size - _json_size(CUT_MARK))
    text = text[:room]
    while (length := _json_size(text)) > room:
        text = text[: len(text) * room // length]
    return text + CUT_MARK


def _json_size(text: str) -> int:
    return len(encode(text)) - 2  # without the quotation marks
