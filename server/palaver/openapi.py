"""Descriptions of HTTP operations, which handlers carry and ``/openapi.json`` shows."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

EVENT_STREAM = "text/event-stream"
Schema = Mapping[str, Any]  # JSON values
HandlerT = TypeVar("HandlerT", bound=Callable[..., object])
_OPERATION = "palaver_operation"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a request: a part of the path, of the query or a header."""

    name: str
    place: Literal["path", "query", "header"]
    description: str
    schema: Schema
    example: Any  # a JSON value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The content of a request or of a response.

    ``type`` is what msgspec makes a schema of, or a JSON schema; of a stream of events, that of the
    JSON in each, or `str`. None: there is no content.
    """

    description: str = "Success"
    type: Any = None  # a type or a schema
    example: Any = None  # a JSON value
    media_type: str = "application/json"
    alternative: "Content | None" = None
    """The content of another media type that the same response may have."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. ``error`` is the type of its errors, where it is not that of the HTTP
    API; ``errors`` are statuses beyond those that every route may have."""

    summary: str
    parameters: tuple[Parameter, ...] = ()
    body: Content | None = None
    is_body_required: bool = True
    responses: Mapping[int, Content]
    errors: tuple[int, ...] = ()
    error: Any = None  # a type


def described(operation: Operation) -> Callable[[HandlerT], HandlerT]:
    """Declare what a route's handler takes and returns. Without it, ``/openapi.json`` has the
    path, the right and the errors only."""

    def declare(handler: HandlerT) -> HandlerT:
        setattr(handler, _OPERATION, operation)
        return handler

    return declare


def operation_of(handler: object) -> Operation | None:
    """Return what `described` has declared for a handler."""
    operation: Operation | None = getattr(handler, _OPERATION, None)
    return operation
