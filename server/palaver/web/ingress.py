"""Ingress: what every request passes before its route: the check of its head, limits, errors."""

import asyncio
import re
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, RawRequestMessage
from aiohttp.streams import StreamReader

from palaver.errors import (
    CallerError,
    HeadTooLarge,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PalaverError,
    TooLarge,
    UnsupportedEncoding,
)
from palaver.web.connection import Connection, connection_of, limit_of
from palaver.web.connections import Connections
from palaver.web.cross_origin import CrossOriginAccess
from palaver.web.responses import error_response

MAX_HEADERS = 64
"""Most header lines of a request."""
OPERATIONS = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})
"""Paths that are served while the server has no room for further connections."""

_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""Controls, and what is left of bytes that are not UTF-8."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]*)(?::[0-9]{0,5})?", re.ASCII)

KINDS: dict[int, type[PalaverError]] = {
    400: InvalidInput,
    404: NotFound,
    405: MethodNotAllowed,
    413: TooLarge,
}
"""Our errors by the status of aiohttp's."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Ingress:
    """The way of all requests into an application."""

    def __init__(
        self, server: web.Server, connections: Connections, cross_origin: CrossOriginAccess
    ) -> None:
        self._connections = connections
        self._cross_origin = cross_origin
        self._make_request = server.request_factory
        self._handle: Handler = server.request_handler
        server.request_factory = self._begin
        server.request_handler = self.handle

    def _begin(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        if message.url.absolute:  # the host that counts is that of the header
            message = message._replace(url=message.url.relative())
        request = self._make_request(message, payload, protocol, writer, task)
        connection_of(request).begin_request(request)
        return request

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to a request; errors have the form of the HTTP API."""
        try:
            self._check_head(request)
            connection = connection_of(request)
            self._check_reserve(connection, request)
            with self._connections.counting_proxied(connection, request):
                return await self._handle(request)
        except PalaverError as error:
            return self._cross_origin.allow_reading(request, error_response(error))
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return self._cross_origin.allow_reading(request, http_error_response(request, error))

    def _check_head(self, request: web.BaseRequest) -> None:
        try:
            check_head(request)
        except CallerError as error:
            self._connections.metrics.limit_reached(limit_of(error))
            raise

    def _check_reserve(self, connection: Connection, request: web.BaseRequest) -> None:
        if connection.is_reserve and request.path not in OPERATIONS:
            self._connections.metrics.limit_reached("total")
            raise Overloaded("too many connections are open; try again")


def check_head(request: web.BaseRequest) -> None:
    """Refuse a request line or headers that hold what they must not. Raises `CallerError`."""
    headers = request.headers
    if request.version < HttpVersion10:
        raise InvalidInput("this is not an HTTP request")
    if len(headers) > MAX_HEADERS:
        raise HeadTooLarge(f"a request may have {MAX_HEADERS} headers, not {len(headers)}")
    if not (request.raw_path.isascii() and request.raw_path.isprintable()):
        raise InvalidInput("the address of a request is ASCII; encode other characters with %")
    if _CONTROL.search(request.path):
        raise InvalidInput("the address holds control characters")
    if _FORBIDDEN.search("".join(headers.values())):
        name = next(name for name, value in headers.items() if _FORBIDDEN.search(value))
        raise InvalidInput(f"the header {name!r} is not UTF-8, or holds control characters")
    if not _HOST.fullmatch(headers.get(hdrs.HOST, "")):
        raise InvalidInput("the header 'Host' is not a host name with an optional port")
    if headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedEncoding()


def http_error_response(
    request: web.BaseRequest,
    error: web.HTTPException,
    respond: Callable[[PalaverError], web.StreamResponse] = error_response,
) -> web.StreamResponse:
    """Return aiohttp's error in the form that ``respond`` makes, with the same status."""
    kind = KINDS.get(error.status, CallerError if error.status < 500 else PalaverError)
    if kind is NotFound:
        detail = f"there is nothing at {request.path[:200]!r}"
    else:
        detail = (error.text or "") if kind is InvalidInput else ""
    response = respond(kind(detail))
    response.set_status(error.status)
    if hdrs.ALLOW in error.headers:
        response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return response
