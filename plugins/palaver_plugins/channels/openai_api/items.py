"""Items of a conversation: the messages of requests, and the output of responses."""

from collections.abc import Sequence

from aiohttp import web

from palaver import Attachment, SentMessage
from palaver_plugins.channels.openai_api.errors import (
    InvalidParameter,
    Json,
    NoSuchObject,
)
from palaver_plugins.channels.openai_api.response_ids import ResponseId
from palaver_plugins.channels.openai_api.response_reading import StoredResponse

MAX_ITEMS, DEFAULT_ITEMS = 100, 20


def input_items(stored: StoredResponse) -> list[Json]:
    """Return the items of the input of a response, oldest first."""
    items: list[Json] = []
    for index, sent in enumerate(stored.input):
        items += _items(sent, stored.id, index)
    return items


def _items(sent: SentMessage, id: ResponseId, index: int) -> list[Json]:
    name = id.input_item(index)
    if sent.role == "tool":
        return [
            {
                "id": name,
                "type": "function_call_output",
                "call_id": sent.call,
                "output": sent.text,
                "status": "completed",
            }
        ]
    calls = [
        {
            "id": f"{name}_{number}",
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }
        for number, call in enumerate(sent.calls)
    ]
    if calls and not sent.text:
        return calls
    return [_message(sent, name), *calls]


def _message(sent: SentMessage, id: str) -> Json:
    is_reply = sent.role == "assistant"
    text: Json = {"type": "output_text" if is_reply else "input_text", "text": sent.text}
    if is_reply:
        text |= {"annotations": [], "logprobs": []}
    content = [text, *map(_attached, sent.attachments)]
    return {
        "id": id,
        "type": "message",
        "role": sent.role,
        "status": "completed",
        "content": content,
    }


def _attached(attachment: Attachment) -> Json:
    if not attachment.media_type.startswith("image/"):
        return {
            "type": "input_file",
            "filename": attachment.name,
            "file_data": attachment.url,
        }
    return {"type": "input_image", "detail": "auto", "image_url": attachment.url}


def page_of(items: Sequence[Json], request: web.Request) -> Json:
    """Return the page of a list that a request asks for, the newest items first unless it says
    otherwise. Raises `InvalidParameter`."""
    query = request.query
    order, after = query.get("order", "desc"), query.get("after")
    limit = query.get("limit", str(DEFAULT_ITEMS))
    if order not in ("asc", "desc"):
        raise InvalidParameter("order", "expected 'asc' or 'desc'")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= MAX_ITEMS:
        raise InvalidParameter("limit", f"expected 1 to {MAX_ITEMS}")
    ordered = list(items) if order == "asc" else list(reversed(items))
    if after is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise NoSuchObject("item", after)
        ordered = ordered[ids.index(after) + 1 :]
    page = ordered[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(ordered) > len(page),
    }
