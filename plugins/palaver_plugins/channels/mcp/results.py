"""Results: the reply of a call as the content of a tool's result."""

import base64
from urllib.parse import quote

import msgspec

from palaver import (
    Attachment,
    Citation,
    Conversation,
    ConversationService,
    NotFound,
    PalaverError,
    TurnReply,
)
from palaver_plugins.channels.mcp.calls import Call, CallFollower
from palaver_plugins.channels.mcp.catalog import Action
from palaver_plugins.channels.mcp.documents import document_uri
from palaver_plugins.channels.mcp.protocol import Json

META = "palaver/"
"""Prefix of what the results tell beside the protocol."""
MAX_EMBEDDED_BYTES = 4_000_000
"""Bytes of the attachments that one result holds; further ones are named only."""


async def make_result(service: ConversationService, action: Action, follower: CallFollower) -> Json:
    """Return the result of a call that has ended. Raises `NotFound`."""
    call, reply = follower.call, follower.reply
    content = [_text(reply.visible_text)] if reply.visible_text or not reply.problem else []
    if reply.problem is not None:
        content.append(_text(reply.problem.message))
    elif reply.outcome == "stopped":
        content.append(_text("The call was stopped."))
    for each in follower.turns:
        content += [_citation(citation) for citation in each.citations]
    room = MAX_EMBEDDED_BYTES
    for each in follower.turns:
        for attachment in each.attachments:
            data = await _read(service, call.conversation, attachment, room)
            room -= len(data or b"")
            content.append(_attachment(attachment, data))
    is_error = reply.outcome != "done"
    result: Json = {"content": content, "isError": is_error, "_meta": _meta(call, reply)}
    if action.output_schema is not None and not is_error:
        result["structuredContent"] = msgspec.json.decode(reply.text)
    return result


def make_question_result(action: Action, follower: CallFollower) -> Json:
    """Return the result of a call that asks, for a client that cannot show a question."""
    call, reply = follower.call, follower.reply
    can_answer = action.kind == "skill"
    how = (
        f"To answer, call {action.name!r} again with the argument 'conversation' set to "
        f"{call.name!r} and the answer as 'text'."
        if can_answer
        else "This client cannot ask its person, so that the call does not go on."
    )
    options = reply.question.options if reply.question else ()
    content = [_text(reply.visible_text)]
    if options:
        content.append(_text("Possible answers: " + ", ".join(options)))
    return {
        "content": [*content, _text(how)],
        "isError": not can_answer,
        "_meta": _meta(call, reply),
    }


def make_declined_result(follower: CallFollower, how: str) -> Json:
    """Return the result of a call whose question the person has declined, or left."""
    reply = follower.reply
    return {
        "content": [_text(reply.visible_text), _text(f"The person did not answer ({how}).")],
        "isError": True,
        "_meta": _meta(follower.call, reply),
    }


def make_error_result(error: PalaverError) -> Json:
    """Return the result of a call that the caller can correct."""
    return {"content": [_text(error.public)], "isError": True}


def _meta(call: Call, reply: TurnReply) -> Json:
    return {f"{META}conversation": call.name, f"{META}turn": reply.turn}


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _citation(citation: Citation) -> Json:
    """Return a source as a resource: the passage, at the address of its document."""
    place = " > ".join(filter(None, (citation.title, citation.section)))
    document = citation.document
    is_address = document.startswith(("http://", "https://"))
    return {
        "type": "resource",
        "resource": {
            "uri": document if is_address else document_uri(document),
            "mimeType": "text/plain",
            "text": f"[{citation.number}] {place}\n{citation.passage}",
        },
    }


async def _read(
    service: ConversationService, conversation: Conversation, attachment: Attachment, room: int
) -> bytes | None:
    """Return the content of an attachment; None: it is gone, or too large for the result."""
    if attachment.size > room:
        return None
    try:
        data = await service.read_file(conversation, attachment)
    except PalaverError as error:
        if isinstance(error, NotFound) or error.status < 500:
            return None
        raise
    return data if len(data) <= room else None


def _attachment(attachment: Attachment, data: bytes | None) -> Json:
    name, media_type = attachment.name, attachment.media_type
    if data is None:
        return _text(f"The attachment {name!r} ({media_type}) is not part of this result.")
    kind = media_type.partition("/")[0]
    if kind in ("image", "audio"):
        return {
            "type": kind,
            "data": base64.b64encode(data).decode(),
            "mimeType": media_type,
        }
    resource: Json = {
        "uri": f"palaver://attachments/{quote(name, safe='')}",
        "mimeType": media_type,
    }
    try:
        resource["text"] = data.decode()
    except UnicodeDecodeError:
        resource["blob"] = base64.b64encode(data).decode()
    return {"type": "resource", "resource": resource}
