"""The aiohttp application: all routes of the server."""

import logging
from collections.abc import Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from palaver.authentication import route_access
from palaver.errors import InvalidInput, PalaverError, describe_error
from palaver.server import Server
from palaver.web.access import AccessControl, check_declared
from palaver.web.api import ApiHandler
from palaver.web.connection import connection_of
from palaver.web.ingress import http_error_response
from palaver.web.json_values import check_json_values
from palaver.web.operations import OperationsHandler
from palaver.web.pages import PageHandler
from palaver.web.responses import error_response
from palaver.web.sse import EventStreamHandler
from palaver.web.websocket import WebSocketHandler

log = logging.getLogger(__name__)

LONG_REQUESTS: web.AppKey[Callable[[], int]] = web.AppKey("long_requests")
"""Returns the number of websockets and event streams: requests that do not end by themselves."""


def make_application(server: Server) -> web.Application:
    """Return the application that serves ``server`` over HTTP, its channels' routes included.

    Raises `ConfigurationError` when a channel's route does not declare who may call it.
    """
    access_control = AccessControl(server)
    websockets = WebSocketHandler(server, access_control)
    event_streams = EventStreamHandler(server)
    pages = PageHandler(server, access_control)
    api, operations = ApiHandler(server), OperationsHandler(server, access_control)
    server.metrics.gauge("palaver_websockets", "Open websockets", websockets.count)
    server.metrics.gauge("palaver_event_streams", "Open event streams", event_streams.count)

    async def announce_close(request: web.Request, response: web.StreamResponse) -> None:
        """During a graceful shutdown, ask clients to send their next request elsewhere."""
        if server.draining and hdrs.CONNECTION not in response.headers:  # an upgrade has its own
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"

    @web.middleware
    async def limit_values(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a body of too many JSON values, for every route that requires a key."""
        access = route_access(request.match_info.handler)
        if request.body_exists and access is not None and access.right is not None:
            check_json_values(await request.read())
        return await handler(request)

    application = web.Application(
        middlewares=[error_middleware, access_control.authorize, limit_values],
        client_max_size=server.settings.server.max_message_bytes,
    )
    application[LONG_REQUESTS] = lambda: websockets.count() + event_streams.count()
    for handler in (websockets, event_streams, api, operations, pages):
        application.add_routes(handler.routes())
    for channel in server.channels:
        application.add_routes(channel.routes())
    check_declared(application)
    application.on_startup.append(pages.load)
    application.on_shutdown.append(websockets.close)
    application.on_response_prepare.append(announce_close)
    return application


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as JSON, in the form that the route declares."""
    access = route_access(request.match_info.handler)
    make_response = (access and access.error_response) or error_response

    def respond(error: PalaverError) -> web.StreamResponse:
        connection_of(request).count_refusal(error)
        return make_response(error)

    try:
        return await handler(request)
    except PalaverError as error:
        return respond(error)
    except web.RequestPayloadError:
        return respond(InvalidInput("the body is malformed"))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return http_error_response(request, error, respond)
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
