"""The OpenAPI 3.1 document of the routes that this package serves.

Schemas come from the structs that the handlers read and write, so the two cannot disagree.
"""

from typing import Any

import msgspec

from palaver.ledger import Erasure, Export
from palaver.web import bodies
from palaver.web.replies import ReplyResult

Json = dict[str, Any]  # JSON values

_THREAD: Json = {
    "name": "thread",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "maxLength": 200},
    "description": "The conversation; any name that the client makes up.",
}


def document(version: str) -> Json:
    """The whole document."""
    _, components = msgspec.json.schema_components(
        [
            bodies.NewMessage,
            bodies.StopRequest,
            bodies.Accepted,
            bodies.StopAnswer,
            bodies.ConversationAnswer,
            bodies.SkillsAnswer,
            ReplyResult,
            Export,
            Erasure,
        ],
        ref_template="#/components/schemas/{name}",
    )
    components["Error"] = _error_schema()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Palaver", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": _paths(),
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _error_schema() -> Json:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": text, "message": text},
            }
        },
    }


def _paths() -> Json:
    send = _operation("Send a message", body="NewMessage", answers={"202": "Accepted"})
    send["parameters"] = [
        _header("Idempotency-Key", "The client's own id of the message; repeating it is safe."),
        _query("wait", "`true` waits for the finished reply and answers it with 200."),
    ]
    send["responses"]["200"] = _json("The finished reply", "ReplyResult")
    events = _operation("Read the events as they come (server-sent events)")
    events["parameters"] = [
        _query("since", "A cursor `epoch:offset`, or `start`."),
        _query("until", "`finished` ends the stream when no turn is pending."),
        _header("Last-Event-ID", "The cursor after which to go on; stronger than `since`."),
    ]
    events["responses"]["200"] = {
        "description": "Events, see docs/protocol.md",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    conversation = "/v1/conversations/{thread}"
    return {
        f"{conversation}/messages": {"parameters": _OF_CONVERSATION, "post": send},
        f"{conversation}/events": {"parameters": _OF_CONVERSATION, "get": events},
        f"{conversation}/stop": {
            "parameters": _OF_CONVERSATION,
            "post": _operation(
                "Stop a turn, or the one that runs",
                body="StopRequest",
                answers={"200": "StopAnswer"},
            ),
        },
        conversation: {
            "parameters": _OF_CONVERSATION,
            "get": _operation("The conversation as it is", answers={"200": "ConversationAnswer"}),
        },
        "/v1/export": {
            "parameters": [_PERSON],
            "get": _operation("All that is held about the person", answers={"200": "Export"}),
        },
        "/v1/erase": {
            "parameters": [_PERSON],
            "post": _operation("Remove it; answers the receipt", answers={"200": "Erasure"}),
        },
        "/v1/skills": {"get": _operation("What can answer", answers={"200": "SkillsAnswer"})},
        "/v1/about": {"get": _plain("Version and model of the server", "application/json")},
        "/ws": {"get": _operation("The websocket protocol, see docs/protocol.md")},
        "/healthz": {"get": _plain("The process lives", "application/json")},
        "/readyz": {
            "get": _plain("The server takes messages; 503 tells why not", "application/json")
        },
        "/metrics": {"get": _plain("Metrics for Prometheus", "text/plain")},
        "/openapi.json": {"get": _plain("This document", "application/json")},
        "/": {"get": _plain("A page to talk at once", "text/html")},
        "/static/{name}": {
            "parameters": [_THREAD | {"name": "name", "description": "A file of the page."}],
            "get": _plain("A file of the page", "*/*"),
        },
    }


def _operation(summary: str, body: str = "", answers: dict[str, str] | None = None) -> Json:
    responses: Json = {
        status: _json("As asked", schema) for status, schema in (answers or {}).items()
    }
    responses["default"] = _json("Why not", "Error") | {"headers": _RETRY}
    operation: Json = {"summary": summary, "responses": responses}
    if body:
        operation["requestBody"] = {"content": _content(body)}
    return operation


def _plain(summary: str, media_type: str) -> Json:
    return {
        "summary": summary,
        "responses": {"200": {"description": "As asked", "content": {media_type: {}}}},
    }


def _json(description: str, schema: str) -> Json:
    return {"description": description, "content": _content(schema)}


def _content(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _query(name: str, description: str) -> Json:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": "string"},
    }


def _header(name: str, description: str) -> Json:
    return _query(name, description) | {"in": "header"}


_RETRY: Json = {
    name: {"description": f"With 429 and 503: {what}.", "schema": {"type": "integer"}}
    for name, what in {
        "Retry-After": "seconds after which to come back",
        "retry-after-ms": "the same in milliseconds",
    }.items()
}
_PERSON = _query("person", "Who speaks, where the key leaves it open.")
_OF_CONVERSATION = [_THREAD, _PERSON]
