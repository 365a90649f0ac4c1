"""The OpenAPI 3.1 document of the web surface.

The schemas come from the structs that the handlers read and write, so the two cannot disagree.
"""

from typing import Any

import msgspec

from palaver.config.settings import Right
from palaver.ledger import Erasure, Export, HistoryPage, Receipt
from palaver.replies import ReplyResult
from palaver.web.bodies import (
    ConversationResponse,
    ErrorResponse,
    NewMessage,
    SkillsResponse,
    StopRequest,
    StopResponse,
)

Json = dict[str, Any]  # JSON values

_THREAD: Json = {
    "name": "thread",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "maxLength": 200},
    "description": "The conversation; the client chooses any name.",
}


def document(version: str) -> Json:
    """Return the whole document."""
    _, components = msgspec.json.schema_components(
        [
            NewMessage,
            StopRequest,
            StopResponse,
            ConversationResponse,
            HistoryPage,
            SkillsResponse,
            ErrorResponse,
            Receipt,
            ReplyResult,
            Export,
            Erasure,
        ],
        ref_template="#/components/schemas/{name}",
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Palaver", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": _paths(),
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Each operation requires a right of the key: its `x-right`.",
                }
            },
        },
        "security": [{"key": []}, {}],
    }


def _paths() -> Json:
    send = _operation("Send a message", "talk", body=NewMessage, response=Receipt, status="202")
    send["parameters"] = [
        _header("Idempotency-Key", "The client's own id of the message; repeating it is safe."),
        _query("wait", "`true` waits for the finished reply and returns it with 200."),
    ]
    send["responses"]["200"] = _json("The finished reply", ReplyResult)
    events = _operation("Stream the events (server-sent events)", "read")
    events["parameters"] = [
        _query("since", "A cursor `epoch:offset`, or `start`."),
        _query("until", "`finished` ends the stream when every message has its reply."),
        _header("Last-Event-ID", "The cursor to resume from; overrides `since`."),
    ]
    events["responses"]["200"] = {
        "description": "Events, see docs/protocol.md",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    history = _operation("Earlier history", "read", response=HistoryPage)
    history["parameters"] = [
        _query("before", "The position `earlier` of a snapshot or of a page; absent: the end."),
        _query("limit", "The most entries; the server may return fewer."),
    ]
    conversation = "/v1/conversations/{thread}"
    return {
        f"{conversation}/messages": {"parameters": _OF_CONVERSATION, "post": send},
        f"{conversation}/events": {"parameters": _OF_CONVERSATION, "get": events},
        f"{conversation}/stop": {
            "parameters": _OF_CONVERSATION,
            "post": _operation("Stop a turn", "talk", body=StopRequest, response=StopResponse),
        },
        conversation: {
            "parameters": _OF_CONVERSATION,
            "get": _operation(
                "The conversation's current state", "read", response=ConversationResponse
            ),
        },
        f"{conversation}/history": {"parameters": _OF_CONVERSATION, "get": history},
        "/v1/export": {
            "parameters": [_PERSON],
            "get": _operation(
                "Everything that is stored about the person", "export", response=Export
            ),
        },
        "/v1/erase": {
            "parameters": [_PERSON],
            "post": _operation("Erase it; returns a receipt", "erase", response=Erasure),
        },
        "/v1/skills": {"get": _operation("The skills", "talk", response=SkillsResponse)},
        "/v1/about": {"get": _plain("Version and model", "application/json", "talk")},
        "/ws": {"get": _operation("The websocket protocol, see docs/protocol.md", None)},
        "/healthz": {"get": _plain("The process is alive", "application/json")},
        "/readyz": {"get": _plain("Readiness; 503 has codes of the problems", "application/json")},
        "/metrics": {"get": _plain("Metrics for Prometheus", "text/plain", "metrics")},
        "/openapi.json": {"get": _plain("This document", "application/json")},
        "/": {"get": _plain("The chat page", "text/html")},
        "/static/{name}": {
            "parameters": [_THREAD | {"name": "name", "description": "A file of the page."}],
            "get": _plain("A file of the page", "*/*"),
        },
    }


def _operation(
    summary: str,
    right: Right | None,
    *,
    body: type | None = None,
    response: type | None = None,
    status: str = "200",
) -> Json:
    responses: Json = {"default": _json("The error", ErrorResponse) | {"headers": _RETRY}}
    if response is not None:
        responses[status] = _json("Success", response)
    operation: Json = {"summary": summary, **_access(right), "responses": responses}
    if body is not None:
        operation["requestBody"] = {"content": _content(body)}
    return operation


def _access(right: Right | None) -> Json:
    return {"security": []} if right is None else {"x-right": right}


def _plain(summary: str, media_type: str, right: Right | None = None) -> Json:
    return {
        "summary": summary,
        **_access(right),
        "responses": {"200": {"description": "Success", "content": {media_type: {}}}},
    }


def _json(description: str, struct: type) -> Json:
    return {"description": description, "content": _content(struct)}


def _content(struct: type) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{struct.__name__}"}}}


def _query(name: str, description: str) -> Json:
    schema = {"type": "string"}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _header(name: str, description: str) -> Json:
    return _query(name, description) | {"in": "header"}


_RETRY: Json = {
    name: {"description": f"With 429 and 503: {what}.", "schema": {"type": "integer"}}
    for name, what in {
        "Retry-After": "seconds before the next attempt",
        "retry-after-ms": "the same in milliseconds",
    }.items()
}
_PERSON = _query("person", "The person; only a key with the right `impersonate` may name one.")
_OF_CONVERSATION = [_THREAD, _PERSON]
