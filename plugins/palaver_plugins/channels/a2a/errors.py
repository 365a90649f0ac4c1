"""Errors of A2A, by their codes in JSON-RPC and in google.rpc."""

import dataclasses
from typing import Any, ClassVar

from palaver import (
    CallerError,
    Forbidden,
    NotFound,
    PalaverError,
    TooMany,
    Unauthenticated,
)

ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
DOMAIN = "a2a-protocol.org"
Json = dict[str, Any]  # JSON values


class A2AError(CallerError):
    """An error that A2A has a code for. ``reason`` names it in google.rpc.ErrorInfo."""

    code = "a2a"
    rpc_code: ClassVar[int]
    rpc_status: ClassVar[str] = "FAILED_PRECONDITION"
    reason: ClassVar[str]


class TaskNotFound(A2AError):
    status, rpc_code, rpc_status = 404, -32001, "NOT_FOUND"
    reason = "TASK_NOT_FOUND"
    public_message = "There is no such task."


class TaskNotCancelable(A2AError):
    rpc_code, reason = -32002, "TASK_NOT_CANCELABLE"


class UnsupportedOperation(A2AError):
    rpc_code, reason = -32004, "UNSUPPORTED_OPERATION"


class ContentTypeNotSupported(A2AError):
    rpc_code, rpc_status = -32005, "INVALID_ARGUMENT"
    reason = "CONTENT_TYPE_NOT_SUPPORTED"


class VersionNotSupported(A2AError):
    rpc_code, reason = -32009, "VERSION_NOT_SUPPORTED"


class ParseFailed(A2AError):
    rpc_code, rpc_status, reason = -32700, "INVALID_ARGUMENT", "INVALID_REQUEST"
    public_message = "The body is no JSON."


class InvalidRequest(A2AError):
    rpc_code, rpc_status, reason = -32600, "INVALID_ARGUMENT", "INVALID_REQUEST"


class MethodUnknown(A2AError):
    status, rpc_code, rpc_status = 404, -32601, "NOT_FOUND"
    reason = "METHOD_NOT_FOUND"


class InvalidParams(A2AError):
    """Parameters that are not usable; ``field`` names the one."""

    rpc_code, rpc_status, reason = -32602, "INVALID_ARGUMENT", "INVALID_PARAMS"

    def __init__(self, detail: str, field: str = "") -> None:
        super().__init__(detail)
        self.field = field


@dataclasses.dataclass(frozen=True, slots=True)
class ErrorView:
    """An error as a client of A2A gets it."""

    rpc_code: int
    http_status: int
    rpc_status: str
    message: str
    details: list[Json]


def view_error(error: PalaverError) -> ErrorView:
    """Return any error of the server as one of A2A."""
    if isinstance(error, A2AError):
        known = (error.rpc_code, error.status, error.rpc_status, error.reason)
    elif isinstance(error, Unauthenticated):
        known = (-32600, 401, "UNAUTHENTICATED", "UNAUTHENTICATED")
    elif isinstance(error, Forbidden):
        known = (-32600, 403, "PERMISSION_DENIED", "PERMISSION_DENIED")
    elif isinstance(error, TooMany):
        known = (-32603, 429, "RESOURCE_EXHAUSTED", "TOO_MANY")
    elif isinstance(error, (CallerError, NotFound)):
        known = (-32602, 400, "INVALID_ARGUMENT", "INVALID_PARAMS")
    else:
        status = error.status if error.status in (502, 503, 504) else 500
        known = (-32603, status, "INTERNAL" if status == 500 else "UNAVAILABLE", "INTERNAL_ERROR")
    rpc_code, http_status, rpc_status, reason = known
    details: list[Json] = [
        {
            "@type": ERROR_INFO,
            "reason": reason,
            "domain": DOMAIN,
            "metadata": {"code": error.code},
        }
    ]
    if isinstance(error, InvalidParams) and error.field:
        violations = [{"field": error.field, "description": error.public}]
        details.append({"@type": BAD_REQUEST, "fieldViolations": violations})
    return ErrorView(rpc_code, http_status, rpc_status, error.public, details)


def rest_error(error: PalaverError) -> Json:
    """Return an error as the HTTP+JSON binding has it, a google.rpc.Status."""
    view = view_error(error)
    return {
        "error": {
            "code": view.http_status,
            "status": view.rpc_status,
            "message": view.message,
            "details": view.details,
        }
    }


def rpc_error(id: object, error: PalaverError) -> Json:
    """Return an error as a response of JSON-RPC."""
    view = view_error(error)
    about = {"code": view.rpc_code, "message": view.message, "data": view.details}
    return {"jsonrpc": "2.0", "id": id, "error": about}
