"""Responses of the HTTP API: JSON, and errors as JSON."""

from aiohttp import web

from palaver.errors import PalaverError
from palaver.messages import encode
from palaver.web.bodies import ErrorDetail, ErrorResponse

JSON_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def json_response(body: object, status: int = 200) -> web.Response:
    """Return ``body`` as JSON that nothing may cache."""
    return web.Response(
        body=encode(body),
        status=status,
        content_type="application/json",
        headers=JSON_HEADERS,
    )


def error_response(error: PalaverError) -> web.Response:
    """Return ``error`` as JSON, with its status."""
    body = ErrorResponse(error=ErrorDetail(code=error.code, message=error.public))
    response = json_response(body, error.status)
    response.headers.update(error.retry_headers)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
