"""Errors of OpenAI's API, and the form of its responses."""

from typing import Any

from aiohttp import web

from palaver import (
    Conflict,
    InvalidInput,
    NotFound,
    PalaverError,
    Problem,
    PromptTooLong,
    TooLarge,
    TooMany,
    encode,
    new_id,
)

TOO_LONG = "This model's maximum context length is exceeded; shorten the messages."
"""Clients look for these words of OpenAI's, beside the code."""
SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would buffer the events
}
REQUEST_ID = "x-request-id"
SHOULD_RETRY = "x-should-retry"
"""Header that OpenAI's clients heed before their own rules, which repeat 409 and 5xx."""

Json = dict[str, Any]  # JSON values


class InvalidParameter(InvalidInput):
    """A request whose parameter ``param`` is wrong. The codes are those of OpenAI's API."""

    code = "invalid_value"

    def __init__(self, param: str, detail: str) -> None:
        super().__init__(f"{param}: {detail}")
        self.param = param


class InvalidType(InvalidParameter):
    code = "invalid_type"


class UnsupportedParameter(InvalidParameter):
    code = "unsupported_parameter"


class InvalidSchema(InvalidInput):
    """A JSON schema, the parameter ``param``, that says nothing, or contradicts its form."""

    code = "invalid_json_schema"

    def __init__(self, param: str, detail: str) -> None:
        super().__init__(f"{param}: {detail}")
        self.param = param


class SchemaTooLarge(TooLarge):
    """A JSON schema that an engine might compile for long."""

    status = 400
    code = "schema_too_large"
    limit = "response_schema"

    def __init__(self, param: str, detail: str) -> None:
        super().__init__(detail)
        self.param = param


class NoSuchModel(NotFound):
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"the model {model[:60]!r} does not exist; GET /v1/models lists them")


class NoSuchObject(NotFound):
    """Nothing has the id of a response, a conversation or an item, or it is another person's."""

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"there is no {kind} with the id {id[:100]!r}")


class KeyReused(Conflict):
    """The only conflict of a message of its own conversation: its id is the request's own key."""

    def __init__(self) -> None:
        super().__init__("the Idempotency-Key was used with another request; choose a new one")


def error_body(error: PalaverError) -> Json:
    """Return the error in OpenAI's format."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    param: str | None = None
    message, code = error.public, error.code
    if isinstance(error, InvalidParameter | InvalidSchema | SchemaTooLarge):
        param = error.param
    elif isinstance(error, PromptTooLong):
        message, param, code = TOO_LONG, "messages", "context_length_exceeded"
    elif isinstance(error, TooMany):
        kind, code = "requests", "rate_limit_exceeded"
    elif isinstance(error, NoSuchModel):
        param = "model"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: PalaverError, *, should_retry: bool = True) -> web.StreamResponse:
    """Return the response for an error. ``should_retry``: clients may repeat the request, as far as
    they do that for its status."""
    response = json_response(error_body(error), error.status)
    response.headers.update(error.retry_headers)
    if not should_retry or isinstance(error, KeyReused):
        response.headers[SHOULD_RETRY] = "false"
    return response


def json_response(body: Json, status: int = 200, *, request_id: str = "") -> web.Response:
    """Return a response. Its id is that of the turn, or of nothing else."""
    return web.Response(
        body=encode(body),
        status=status,
        content_type="application/json",
        headers={REQUEST_ID: request_id or new_id()},
    )


def problem_error(problem: Problem) -> PalaverError:
    """Return the error of a failed turn."""
    kinds = [PalaverError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    kind = next((kind for kind in kinds if kind.code == problem.code), PalaverError)
    try:
        return kind(problem.message)
    except TypeError:  # an error of this package, which names a parameter
        return PalaverError(problem.message)
