"""The aiohttp application: all routes of the server."""

import logging

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestHandler

from palaver.authentication import route_access
from palaver.errors import InvalidInput, NotFound, PalaverError, TooLarge, describe_error
from palaver.server import Server
from palaver.web.access import AccessControl, check_declared
from palaver.web.api import ApiHandler, error_response
from palaver.web.operations import OperationsHandler
from palaver.web.pages import PageHandler
from palaver.web.sse import EventStreamHandler
from palaver.web.websocket import WebSocketHandler

log = logging.getLogger(__name__)


def make_application(server: Server) -> web.Application:
    """Return the application that serves ``server`` over HTTP, its channels' routes included.

    Raises `ConfigurationError` when a channel's route does not declare who may call it.
    """
    access_control = AccessControl(server)
    websockets = WebSocketHandler(server, access_control)
    event_streams = EventStreamHandler(server)
    pages = PageHandler(server, access_control)
    api, operations = ApiHandler(server), OperationsHandler(server, access_control)
    active_requests = ActiveRequests(websockets, event_streams)
    server.metrics.gauge("palaver_websockets", "Open websockets", websockets.count)
    server.metrics.gauge("palaver_event_streams", "Open event streams", event_streams.count)

    async def announce_close(request: web.Request, response: web.StreamResponse) -> None:
        """During a graceful shutdown, ask clients to send their next request elsewhere."""
        if server.draining and hdrs.CONNECTION not in response.headers:  # an upgrade has its own
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"

    application = web.Application(
        middlewares=[active_requests.track, error_middleware, access_control.authorize],
        client_max_size=server.settings.server.max_message_bytes,
    )
    application[ACTIVE_REQUESTS] = active_requests
    for handler in (websockets, event_streams, api, operations, pages):
        application.add_routes(handler.routes())
    for channel in server.channels:
        application.add_routes(channel.routes())
    check_declared(application)
    application.on_startup.append(pages.load)
    application.on_shutdown.append(websockets.close)
    application.on_response_prepare.append(announce_close)
    return application


class ActiveRequests:
    """The requests that are being answered."""

    def __init__(self, websockets: WebSocketHandler, event_streams: EventStreamHandler) -> None:
        self._websockets = websockets
        self._event_streams = event_streams
        self._connections: set[RequestHandler] = set()  # each answers one request at a time

    @property
    def count(self) -> int:
        """Number of requests, without websockets and event streams, which do not end by
        themselves."""
        return len(self._connections) - self._websockets.count() - self._event_streams.count()

    def close_idle(self, server: web.Server) -> None:
        """Close the connections that wait for a further request."""
        for connection in server.connections:
            if connection not in self._connections:
                connection.force_close()

    @web.middleware
    async def track(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        self._connections.add(connection)
        try:
            return await handler(request)
        finally:
            self._connections.discard(connection)


ACTIVE_REQUESTS: web.AppKey[ActiveRequests] = web.AppKey("active_requests", ActiveRequests)


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as JSON, in the form that the route declares."""
    access = route_access(request.match_info.handler)
    respond = (access and access.error_response) or error_response
    try:
        return await handler(request)
    except PalaverError as error:
        return respond(error)
    except web.HTTPRequestEntityTooLarge:
        return respond(TooLarge())
    except web.HTTPNotFound:
        return respond(NotFound(f"there is nothing at {request.path[:200]!r}"))
    except web.HTTPBadRequest as error:
        return respond(InvalidInput(error.text or ""))
    except web.HTTPException:
        raise
    except Exception as error:  # noqa: BLE001 - the barrier of a request
        if isinstance(error, ConnectionError) and _is_disconnected(request):
            log.info("the client disconnected during %s", _describe_route(request))
        else:
            log.error("%s failed: %s", _describe_route(request), describe_error(error))
        return respond(PalaverError())


def _describe_route(request: web.Request) -> str:
    """Return method and route. The path itself may name persons and conversations."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource else 'of an unknown path'}"


def _is_disconnected(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
