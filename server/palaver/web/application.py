"""The aiohttp application: every route of the server, put together."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestHandler

from palaver.channels import Channel, ConversationService
from palaver.config.settings import Settings
from palaver.errors import InvalidInput, NotFound, PalaverError, TooLarge
from palaver.metrics import Metrics
from palaver.web.api import About, Api, refusal
from palaver.web.authentication import AUTHENTICATOR, Authenticator
from palaver.web.operations import Operations, Readiness
from palaver.web.pages import Pages
from palaver.web.socket import WebSockets
from palaver.web.sse import EventStreams

log = logging.getLogger(__name__)


def make_application(
    *,
    service: ConversationService,
    settings: Settings,
    metrics: Metrics,
    readiness: Readiness,
    leaving: Callable[[], bool],
    about: About,
    channels: Sequence[Channel],
) -> web.Application:
    """Everything that is served over HTTP.

    ``leaving`` is whether the server stops; ``about`` tells ``model`` and whether it is a
    ``demonstration``. The channels' routes are added as they are. Starting the application raises
    `ConfigurationError` when a key's secret cannot be read.
    """
    authenticator = Authenticator(settings)
    sockets = WebSockets(service, authenticator, settings.server, metrics.slow_reader)
    feeds = EventStreams(service, authenticator, settings.server, metrics.slow_reader)
    api = Api(service, authenticator, about)
    pages = Pages(authenticator)
    operations = Operations(metrics, readiness, authenticator)
    metrics.gauge("palaver_websockets", "Open websockets", lambda: sockets.count)
    metrics.gauge("palaver_event_streams", "Open event feeds over HTTP", lambda: feeds.count)

    under_way = ActiveRequests(lambda: sockets.count + feeds.count)

    async def start(application: web.Application) -> None:
        await asyncio.to_thread(authenticator.start)
        await asyncio.to_thread(pages.start)

    async def stop(application: web.Application) -> None:
        await sockets.close()

    async def leave(request: web.Request, response: web.StreamResponse) -> None:
        """While the server stops, let a kept connection not meet its end unawares."""
        if leaving() and hdrs.CONNECTION not in response.headers:  # an upgrade has its own
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"

    application = web.Application(
        middlewares=[under_way.note, error_middleware],
        client_max_size=settings.server.max_message_bytes,
    )
    application[AUTHENTICATOR] = authenticator
    application[ACTIVE_REQUESTS] = under_way
    for part in (sockets, feeds, api, operations, pages):
        application.add_routes(part.routes())
    for channel in channels:
        application.add_routes(channel.routes())
    application.on_startup.append(start)
    application.on_shutdown.append(stop)
    application.on_response_prepare.append(leave)
    return application


class ActiveRequests:
    """The requests that are being answered. ``lasting``: how many of them are websockets and feeds,
    which have no end of their own."""

    def __init__(self, lasting: Callable[[], int]) -> None:
        self._lasting = lasting
        self._connections: set[RequestHandler] = set()  # each answers one request at a time

    @property
    def count(self) -> int:
        """How many of the others there are."""
        return len(self._connections) - self._lasting()

    def close_idle(self, server: web.Server) -> None:
        """Close the connections that are kept for a further request."""
        for connection in server.connections:
            if connection not in self._connections:
                connection.force_close()

    @web.middleware
    async def note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        self._connections.add(connection)
        try:
            return await handler(request)
        finally:
            self._connections.discard(connection)


ACTIVE_REQUESTS: web.AppKey[ActiveRequests] = web.AppKey("under_way", ActiveRequests)


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as JSON."""
    try:
        return await handler(request)
    except PalaverError as error:
        return refusal(error)
    except web.HTTPRequestEntityTooLarge:
        return refusal(TooLarge())
    except web.HTTPNotFound:
        return refusal(NotFound(f"there is nothing at {request.path[:200]!r}"))
    except web.HTTPBadRequest as error:
        return refusal(InvalidInput(error.text or ""))
    except web.HTTPException:
        raise
    except Exception as error:
        if isinstance(error, ConnectionError) and _has_left(request):
            log.info("the client left in the middle of %s %s", request.method, request.path)
        else:
            log.exception("request %s %s failed", request.method, request.path)
        return refusal(PalaverError())


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
