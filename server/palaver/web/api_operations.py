"""Descriptions of the operations below ``/v1``, with an example of each."""

from typing import Any

from palaver.exports import DataSummary
from palaver.ledger import Erasure, Export, HistoryPage, Receipt
from palaver.openapi import EVENT_STREAM, Content, Operation, Parameter
from palaver.replies import ReplyResult
from palaver.web.bodies import (
    ID_SCHEMA,
    NAME_SCHEMA,
    PERSON_SCHEMA,
    AboutResponse,
    ConversationResponse,
    IdentityResponse,
    NewMessage,
    SkillsResponse,
    StopRequest,
    StopResponse,
)
from palaver.web.frames import StreamFrame

MAX_PAGE_ENTRIES = 1_000
"""History entries that a client may ask for at once; `ledger.history` may be less."""
_CURSOR = r"^(start|[\s\S]+:[0-9]{1,15})?$"
TURN = "e81b5f7a3c1d4e2f9a0b1c2d3e4f5a6b"

THREAD = Parameter(
    name="thread",
    place="path",
    description="The conversation; the client chooses any name.",
    schema=NAME_SCHEMA,
    example="my-thread",
)
PERSON = Parameter(
    name="person",
    place="query",
    description=(
        "The person; empty: the caller. Only a key with the right `impersonate` may name one."
    ),
    schema=PERSON_SCHEMA,
    example="ada",
)


def query(name: str, description: str, example: Any, **schema: Any) -> Parameter:  # JSON values
    return Parameter(
        name=name, place="query", description=description, schema=schema, example=example
    )


def _header(name: str, description: str, example: str, **schema: Any) -> Parameter:
    return Parameter(
        name=name, place="header", description=description, schema=schema, example=example
    )


ENTRIES = [
    {"role": "user", "text": "Hello", "turn": TURN, "at": 1767225600.0, "person": "ada"},
    {"role": "assistant", "text": "Hi!", "turn": TURN, "at": 1767225601.5, "skill": "chat",
     "outcome": "done"},
]  # fmt: skip

ERASED = {
    "tenant": "default",
    "person": "ada",
    "conversations": 1,
    "messages": 2,
    "events": 9,
    "dead_letters": 0,
    "memories": 0,
    "files": 0,
    "training_rows": 0,
    "at": 1767225660.0,
}

SEND = Operation(
    summary="Send a message",
    parameters=(
        THREAD,
        PERSON,
        query(
            "wait",
            "`true` waits for the finished reply and returns it with 200.",
            "true",
            type="string",
            enum=["true", "false"],
        ),
        _header(
            "Idempotency-Key",
            "The client's own id of the message; repeating it is safe.",
            "m-1",
            **ID_SCHEMA,
        ),
    ),
    body=Content(type=NewMessage, example={"text": "Hello"}),
    responses={
        200: Content(
            description="The finished reply",
            type=ReplyResult,
            example={"turn": TURN, "outcome": "done", "text": "Hi!", "skill": "chat"},
        ),
        202: Content(
            description="The message is stored",
            type=Receipt,
            example={"turn": TURN, "ahead": 0, "duplicate": False, "joined": False},
        ),
    },
    errors=(404, 409),
)
STOP = Operation(
    summary="Stop a turn; without `turn` the running one",
    parameters=(THREAD, PERSON),
    body=Content(type=StopRequest, example={"turn": TURN}),
    is_body_required=False,
    responses={
        200: Content(type=StopResponse, example={"turn": TURN, "state": "stopping"}),
    },
)
EVENTS = Operation(
    summary="Stream the events of a conversation (server-sent events)",
    parameters=(
        THREAD,
        PERSON,
        query(
            "since",
            "A cursor, or `start` for every stored event; absent or empty: a snapshot.",
            "start",
            type="string",
            pattern=_CURSOR,
        ),
        query(
            "until",
            "`finished` ends the stream when every message has its reply.",
            "finished",
            type="string",
            enum=["finished"],
        ),
        _header(
            "Last-Event-ID",
            "The cursor to resume from; overrides `since`.",
            "7f3a:12",
            type="string",
            pattern=_CURSOR,
        ),
    ),
    responses={
        200: Content(
            description="Events, see docs/protocol.md",
            type=StreamFrame,
            example={
                "id": "7f3a:1",
                "data": '{"type":"text","turn":"e81b","position":0,"text":"Bon"}',
            },
            media_type=EVENT_STREAM,
        )
    },
)
SNAPSHOT = Operation(
    summary="Read the conversation's current state",
    parameters=(THREAD, PERSON),
    responses={
        200: Content(
            type=ConversationResponse,
            example={"cursor": "7f3a:5", "snapshot": {"history": ENTRIES, "pending": []}},
        )
    },
)
HISTORY = Operation(
    summary="Read earlier history",
    parameters=(
        THREAD,
        PERSON,
        query(
            "before",
            "The position `earlier` of a snapshot or of a page; absent or empty: the end.",
            "12",
            type="string",
        ),
        query(
            "limit",
            "The most entries; the server may return fewer.",
            20,
            type="integer",
            minimum=1,
            maximum=MAX_PAGE_ENTRIES,
        ),
    ),
    responses={
        200: Content(type=HistoryPage, example={"history": ENTRIES, "earlier": "10"}),
    },
)
EXPORT = Operation(
    summary="Export everything that is stored about the person",
    parameters=(PERSON,),
    responses={
        200: Content(
            type=Export,
            example={
                "tenant": "default",
                "person": "ada",
                "conversations": {"default/web/my-thread": ENTRIES},
                "pending": [],
                "titles": {},
                "feedback": {},
                "memories": {},
                "files": [],
                "approvals": {"slack": 1767225600.0},
                "at": 1767225660.0,
            },
        )
    },
)
SUMMARY = Operation(
    summary="Count what is stored about the person",
    parameters=(PERSON,),
    responses={
        200: Content(
            type=DataSummary,
            example={
                "conversations": 1,
                "messages": 1,
                "waiting": 0,
                "replies": 1,
                "titles": 1,
                "feedback": 1,
                "memories": 0,
                "files": 0,
            },
        )
    },
)
ERASE = Operation(
    summary="Erase everything that is stored about the person",
    parameters=(PERSON,),
    responses={
        200: Content(
            description="A receipt: how much was erased",
            type=Erasure,
            example=ERASED,
        )
    },
)
SKILLS = Operation(
    summary="List the skills",
    responses={
        200: Content(
            type=SkillsResponse,
            example={"skills": [{"name": "chat", "description": "Talk about anything."}]},
        )
    },
)
ME = Operation(
    summary="Read who the server takes the caller for",
    responses={
        200: Content(
            type=IdentityResponse,
            example={"person": "ada", "key": "ada", "rights": ["read", "talk"], "is_shared": False},
        )
    },
)
ABOUT = Operation(
    summary="Read the server's version, its model and its skills",
    responses={
        200: Content(
            type=AboutResponse,
            example={
                "version": "1.0",
                "model": "starter",
                "demonstration": True,
                "sharing": True,
                "files": {"max_file_bytes": 25_000_000, "per_message": 10},
                "vision": False,
                "setup": False,
                "skills": {"chat": "Talk about anything."},
            },
        )
    },
)
