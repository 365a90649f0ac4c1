"""Descriptions of the operations on a person's conversations, with an example of each."""

from typing import Any

from palaver.conversations import LIST_POSITION, MAX_LIST_ENTRIES, SharedConversation
from palaver.feedback import Feedback
from palaver.ledger import Erasure
from palaver.openapi import Content, Operation, Parameter
from palaver.web.api_operations import ENTRIES, ERASED, PERSON, SNAPSHOT, THREAD, TURN, query
from palaver.web.bodies import (
    ID_SCHEMA,
    NOT_BLANK,
    ConversationChangeRequest,
    ConversationEntry,
    ConversationListResponse,
    FeedbackListResponse,
    NewFeedback,
    RevisionRequest,
    RevokedResponse,
    SelectRequest,
    ShareResponse,
    SharesResponse,
    WithdrawnResponse,
)

MAX_QUERY_LENGTH = 200
"""Code points of a search."""
_ENTRY: dict[str, Any] = {
    "thread": "my-thread",
    "title": "A greeting",
    "active_at": 1767225600.0,
    "pinned": False,
    "archived": False,
}
_SHARE = {"id": "5f3c9a", "at": 1767225660.0, "path": "/s/5f3c9a"}
_PATH_ID_SCHEMA = ID_SCHEMA | {"pattern": r"^[^{}/\u0000-\u001f\u007f]+$"}
_RATED = {"rating": "down", "reason": "incomplete", "comment": "It lacks the price."}
_FEEDBACK: dict[str, Any] = {"turn": TURN, **_RATED, "skill": "qa", "at": 1767225660.0}
_TURN_ID = Parameter(
    name="turn",
    place="path",
    description="The turn of the reply.",
    schema=_PATH_ID_SCHEMA,
    example=TURN,
)
_FLAG = {"type": "string", "enum": ["true", "false"]}
_SHARE_ID = Parameter(
    name="share",
    place="path",
    description="The id of the share.",
    schema=_PATH_ID_SCHEMA,
    example="5f3c9a",
)

LIST = Operation(
    summary="List or search the person's conversations, newest first",
    parameters=(
        PERSON,
        query("archived", "The archived ones instead of the others.", "false", **_FLAG),
        query("pinned", "Only the pinned ones.", "false", **_FLAG),
        query(
            "before",
            "`next` of the part before; empty: the newest.",
            "",
            type="string",
            pattern=f"^({LIST_POSITION})?$",
        ),
        query(
            "limit",
            "The most conversations.",
            20,
            type="integer",
            minimum=1,
            maximum=MAX_LIST_ENTRIES,
        ),
        query(
            "q",
            f"Words to search for, up to {MAX_QUERY_LENGTH} characters.",
            "greeting",
            type="string",
            maxLength=MAX_QUERY_LENGTH,
            pattern=NOT_BLANK,
        ),
    ),
    responses={
        200: Content(
            type=ConversationListResponse, example={"conversations": [_ENTRY], "next": ""}
        )
    },
)  # fmt: skip
CHANGE = Operation(
    summary="Change the title, pin or archive of a conversation",
    parameters=(THREAD, PERSON),
    body=Content(type=ConversationChangeRequest, example={"pinned": True}),
    responses={200: Content(type=ConversationEntry, example=_ENTRY | {"pinned": True})},
)
DELETE = Operation(
    summary="Erase the person's part of a conversation",
    parameters=(THREAD, PERSON),
    responses={
        200: Content(description="A receipt: how much was erased", type=Erasure, example=ERASED)
    },
)
MAKE_TITLE = Operation(
    summary="Let the engine make a title, unless there is one",
    parameters=(THREAD, PERSON),
    responses={200: Content(type=ConversationEntry, example=_ENTRY)},
    errors=(501, 502, 504),
)
SELECT = Operation(
    summary="Make an alternative of a message or a reply part of the history",
    parameters=(THREAD, PERSON),
    body=Content(type=SelectRequest, example={"turn": TURN}),
    responses=SNAPSHOT.responses,
    errors=(409,),
)
REVISE = Operation(
    summary="Replace the text of one's own message in the history, without another reply",
    parameters=(THREAD, _TURN_ID, PERSON),
    body=Content(type=RevisionRequest, example={"text": "Hello there"}),
    responses=SNAPSHOT.responses,
    errors=(409, 413),
)
EXPORT = Operation(
    summary="Export one conversation",
    parameters=(
        THREAD,
        PERSON,
        query("format", "The form.", "json", type="string", enum=["json", "markdown"]),
    ),
    responses={
        200: Content(
            description="The title and all messages, as JSON or as Markdown",
            type={},
            example={"title": "A greeting", "messages": ENTRIES},
            media_type="*/*",
        )
    },
)
SHARES = Operation(
    summary="List the shares of a conversation",
    parameters=(THREAD, PERSON),
    responses={200: Content(type=SharesResponse, example={"shares": [_SHARE]})},
)
SHARE = Operation(
    summary="Share a snapshot of a conversation: whoever knows its address may read it",
    parameters=(THREAD, PERSON),
    responses={201: Content(description="Shared", type=ShareResponse, example=_SHARE)},
    errors=(409,),
)
REVOKE = Operation(
    summary="Revoke a share",
    parameters=(THREAD, PERSON, _SHARE_ID),
    responses={200: Content(type=RevokedResponse, example={"id": "5f3c9a"})},
)
SHARED = Operation(
    summary="Read a shared conversation",
    parameters=(_SHARE_ID,),
    responses={
        200: Content(
            type=SharedConversation,
            example={"title": "A greeting", "history": ENTRIES, "at": 1767225660.0},
        )
    },
)
FEEDBACK = Operation(
    summary="Read the person's feedback on the replies of a conversation",
    parameters=(THREAD, PERSON),
    responses={200: Content(type=FeedbackListResponse, example={"feedback": [_FEEDBACK]})},
)
GIVE_FEEDBACK = Operation(
    summary="Rate a reply, or change the rating",
    parameters=(THREAD, _TURN_ID, PERSON),
    body=Content(type=NewFeedback, example=_RATED),
    responses={200: Content(description="What is stored", type=Feedback, example=_FEEDBACK)},
)
WITHDRAW_FEEDBACK = Operation(
    summary="Withdraw the feedback on a reply",
    parameters=(THREAD, _TURN_ID, PERSON),
    responses={200: Content(type=WithdrawnResponse, example={"turn": TURN, "withdrawn": True})},
)
