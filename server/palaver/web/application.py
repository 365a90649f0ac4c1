"""The aiohttp application: all routes of the server."""

import logging
from collections.abc import Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from palaver.authentication import route_access
from palaver.errors import (
    InvalidInput,
    PalaverError,
    contained,
    describe_error,
    ends_process,
    part_name,
)
from palaver.server import Server
from palaver.web.access import AccessControl, check_routes
from palaver.web.api import ApiHandler
from palaver.web.channels_api import ChannelHandler
from palaver.web.connection import connection_of
from palaver.web.conversation_api import ConversationHandler
from palaver.web.cross_origin import CrossOriginAccess
from palaver.web.feedback_api import FeedbackHandler
from palaver.web.files_api import FileHandler
from palaver.web.ingress import http_error_response
from palaver.web.json_values import check_json_values
from palaver.web.operations import OperationsHandler
from palaver.web.pages import PageHandler
from palaver.web.responses import error_response
from palaver.web.setup_api import SetupHandler
from palaver.web.sse import EventStreamHandler
from palaver.web.tool_sources_api import ToolSourceHandler
from palaver.web.websocket import WebSocketHandler
from palaver.web.widget_api import WidgetHandler

log = logging.getLogger(__name__)

LONG_REQUESTS: web.AppKey[Callable[[], int]] = web.AppKey("long_requests")
"""Returns the number of websockets and event streams: requests that do not end by themselves."""


def make_application(server: Server) -> web.Application:
    """Return the application that serves ``server`` over HTTP, its channels' routes included.

    Raises `ConfigurationError` when a channel's route does not declare who may call it.
    """
    access_control = AccessControl(server)
    cross_origin = CrossOriginAccess(server.authenticator)
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
        is_checked = access is not None and access.right is not None and not access.streams_body
        if request.body_exists and is_checked:
            check_json_values(await request.read())
        return await handler(request)

    application = web.Application(
        middlewares=[
            error_middleware,
            cross_origin.answer_preflight,
            access_control.authorize,
            limit_values,
        ],
        client_max_size=server.settings.server.max_message_bytes,
    )
    application[LONG_REQUESTS] = lambda: websockets.count() + event_streams.count()
    handlers = (
        websockets,
        event_streams,
        api,
        ConversationHandler(server),
        FeedbackHandler(server),
        FileHandler(server),
        ChannelHandler(server),
        ToolSourceHandler(server),
        SetupHandler(server),
        operations,
        pages,
        WidgetHandler(server),
    )
    # Channels first: a path of theirs may be a special case of one of the server's own.
    for name, channel in server.channels.items():
        if name not in server.closed_channels:
            with contained(part_name("channel", channel)):
                application.add_routes(channel.routes())
    for handler in handlers:
        application.add_routes(handler.routes())
    check_routes(application)
    application.on_startup.append(pages.load)
    application.on_shutdown.append(websockets.close)
    application.on_response_prepare.append(announce_close)
    application.on_response_prepare.append(cross_origin.on_response_prepare)
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
    except BaseException as error:  # the barrier of a request
        if ends_process(error):
            raise
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
