"""The server of the fake Slack: its parts, wired together, and their addresses."""

import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Self

import aiohttp
from aiohttp import web

from palaver.testing.fakes.slack.api import WebApi
from palaver.testing.fakes.slack.deliveries import (
    Attempt,
    Deliveries,
    DeliveryKind,
    HttpTransport,
    Transport,
)
from palaver.testing.fakes.slack.events import Events
from palaver.testing.fakes.slack.faults import Faults
from palaver.testing.fakes.slack.files import FileServer
from palaver.testing.fakes.slack.interactions import Interactions
from palaver.testing.fakes.slack.limits import RateLimits, SlackRules
from palaver.testing.fakes.slack.methods import Services
from palaver.testing.fakes.slack.oauth import Consent, ConsentPage
from palaver.testing.fakes.slack.objects import App
from palaver.testing.fakes.slack.payloads import Payloads
from palaver.testing.fakes.slack.registry import METHODS
from palaver.testing.fakes.slack.sockets import Sockets
from palaver.testing.fakes.slack.tasks import Tasks
from palaver.testing.fakes.slack.throttle import EventThrottle
from palaver.testing.fakes.slack.world import World

MAX_UPLOAD = 100 * 1024 * 1024


class SlackServer:
    """Listens on a free port of the loopback interface. ``urls``: the app's, by kind."""

    def __init__(
        self,
        world: World,
        app: App,
        *,
        rules: SlackRules,
        faults: Faults,
        throttle: EventThrottle,
        consent: Consent,
        urls: Callable[[DeliveryKind], Sequence[str]],
        signing_clock: Callable[[], float],
    ) -> None:
        self._world = world
        self._app = app
        self._throttle = throttle
        self._urls = urls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._tasks = Tasks()
        self._stack = contextlib.AsyncExitStack()
        self.sockets = Sockets(world, app)
        self.http = HttpTransport(
            world.clock,
            world.random,
            signing_clock=signing_clock,
            secret=lambda: app.signing_secret,
            urls=urls,
        )
        self.deliveries = Deliveries(
            world.clock, self._tasks, world.changes, on_attempt=self._count_attempt
        )
        payloads = Payloads(world, self.url)
        self.events = Events(
            world,
            app,
            payloads=payloads,
            deliveries=self.deliveries,
            transport=self._event_transport,
            rules=rules,
            throttle=throttle,
        )
        limits = RateLimits(world.clock, rules)
        self.services = Services(world, payloads, self.events, limits, rules, self.url)
        self.interactions = Interactions(self.services, app, self.deliveries, self._transport)
        self.api = WebApi(self.services, METHODS, faults)
        self._consent_page = ConsentPage(world, consent)

    def _count_attempt(self, attempt: Attempt) -> None:
        self._throttle.record_attempt(not attempt.failure)

    def _transport(self) -> Transport:
        return self.sockets if self._app.uses_socket_mode else self.http

    def _event_transport(self) -> Transport | None:
        has_url = self._app.uses_socket_mode or self._urls("event")
        return self._transport() if has_url else None

    async def __aenter__(self) -> Self:
        self.http.session = await self._stack.enter_async_context(_new_session())
        self._stack.push_async_callback(self._tasks.close)
        runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        self._stack.push_async_callback(self.sockets.close)
        await web.SockSite(runner, self._listener).start()
        return self

    def _application(self) -> web.Application:
        files = FileServer(self.services)
        application = web.Application(client_max_size=MAX_UPLOAD)
        application.add_routes(
            [
                web.route("*", "/api/{method}", self.api.handle),
                web.get("/link/", self.sockets.connect),
                web.post("/actions/{id}", self.interactions.respond),
                web.post("/upload/v1/{file}", files.upload),
                web.get("/files-pri/{file}/{name}", files.download),
                web.get("/oauth/v2/authorize", self._consent_page.authorize),
            ]
        )
        return application

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()


def _new_session() -> aiohttp.ClientSession:
    """Return a client without a timeout, since the fake's clock sets the time limits."""
    timeout = aiohttp.ClientTimeout(total=None)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
