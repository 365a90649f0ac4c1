"""Description of the channel's operation, for ``/openapi.json``."""

from typing import Any

from palaver import Content, Operation, Parameter
from palaver_plugins.channels.webhooks.bodies import Accepted, Posted, Unfinished
from palaver_plugins.channels.webhooks.events import CallbackEvent
from palaver_plugins.channels.webhooks.signing import ID, SIGNATURE, TIMESTAMP

TURN = "5d1e3a7c9b2f4e60a1b2c3d4e5f60718"
_ANSWER: Any = {
    "type": "reply.finished",
    "timestamp": "2026-01-01T00:00:00.000000Z",
    "data": {
        "endpoint": "orders",
        "thread": "order-17",
        "turn": TURN,
        "messages": [],
        "cursor": "",
        "outcome": "done",
        "skill": "chat",
        "text": "Hello Ada.",
        "is_cut": False,
        "finish_reason": "stop",
        "citations": [],
        "attachments": [],
        "question": None,
        "answer_to": None,
        "problem": None,
    },
}


def _header(name: str, description: str, example: str) -> Parameter:
    return Parameter(
        name=name,
        place="header",
        description=description,
        schema={"type": "string"},
        example=example,
    )


POST = Operation(
    summary="Take a signed webhook: a message, or a request for a reply",
    parameters=(
        Parameter(
            name="name",
            place="path",
            description="The endpoint.",
            schema={"type": "string", "pattern": "^[A-Za-z0-9_-]{1,40}$"},
            example="orders",
        ),
        _header(ID, "The sender's id of the message; the same at every attempt.", "msg_1"),
        _header(TIMESTAMP, "Seconds since the epoch, of this attempt.", "1767225600"),
        _header(
            SIGNATURE, "Signatures of Standard Webhooks, apart by spaces.", "v1,K5oZfzN95Z9UVu"
        ),
    ),
    body=Content(
        type=Posted,
        example={
            "type": "message",
            "data": {"thread": "order-17", "person": "ada", "text": "Hello"},
        },
    ),
    responses={
        200: Content(description="The whole reply", type=CallbackEvent, example=_ANSWER),
        202: Content(
            description="The message is stored; or the turn has not ended",
            type=Accepted | Unfinished,
            example={"turn": TURN, "duplicate": False, "state": "accepted"},
        ),
    },
    errors=(401, 404, 409, 413, 429),
)
