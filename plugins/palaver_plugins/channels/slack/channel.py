"""SlackChannel: the bot in Slack."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from aiohttp import web
from slack_bolt.adapter.aiohttp import to_aiohttp_response
from slack_bolt.oauth.async_oauth_flow import AsyncOAuthFlow
from slack_bolt.request.async_request import AsyncBoltRequest

from palaver import (
    ConfigurationError,
    ConversationService,
    Overloaded,
    SteadyClock,
    described,
    public,
)
from palaver.platforms import Platform, PlatformChannel, PostingError
from palaver_plugins.channels.slack.api import Installations, RefusedCall, translated
from palaver_plugins.channels.slack.checks import find_problems, missing_scopes, refused_token
from palaver_plugins.channels.slack.connection import Connection
from palaver_plugins.channels.slack.credentials import read_credentials
from palaver_plugins.channels.slack.dispatch import SlackApp
from palaver_plugins.channels.slack.downloads import Downloads
from palaver_plugins.channels.slack.home import Home
from palaver_plugins.channels.slack.http_route import SlackRequests
from palaver_plugins.channels.slack.installations import BotInstallations, TokenInstallation
from palaver_plugins.channels.slack.interactions import Buttons, Commands
from palaver_plugins.channels.slack.listeners import Listeners
from palaver_plugins.channels.slack.manifest import EVENTS_PATH, INSTALL_PATH, REDIRECT_PATH
from palaver_plugins.channels.slack.messages import Messages
from palaver_plugins.channels.slack.oauth import OAuthInstallations
from palaver_plugins.channels.slack.operations import EVENTS, INSTALL, REDIRECT
from palaver_plugins.channels.slack.people import People
from palaver_plugins.channels.slack.places import Places
from palaver_plugins.channels.slack.recent import RecentIds
from palaver_plugins.channels.slack.settings import NAME, SlackSettings
from palaver_plugins.channels.slack.socket_mode import SocketMode
from palaver_plugins.channels.slack.threads import Threads

log = logging.getLogger(__name__)


class SlackChannel(PlatformChannel):
    """Receives over HTTP or Socket Mode; ``make_platform`` makes what posts the replies."""

    name = NAME
    ping_seconds = 5.0
    """Between two pings of Socket Mode."""

    def __init__(
        self,
        settings: SlackSettings,
        make_platform: Callable[[Installations], Platform],
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """``clock``: seconds since the epoch, to tell how old a request is."""
        self._slack_settings = settings
        self._clock = clock or SteadyClock()
        self._slack = Connection(settings.api_url)
        self._token = TokenInstallation(settings.tenant, self._slack)
        self._oauth = OAuthInstallations(settings, self._slack) if settings.client_id else None
        self._flow: AsyncOAuthFlow | None = None
        self._requests: SlackRequests | None = None
        self._socket: SocketMode | None = None
        self._lacking = ""
        super().__init__(settings, make_platform(self.installations))

    @property
    def installations(self) -> BotInstallations:
        return self._oauth or self._token

    async def check(self) -> Sequence[str]:
        settings = self._slack_settings
        try:
            credentials = await asyncio.to_thread(read_credentials, settings)
        except ConfigurationError as error:
            return str(error).splitlines()
        return await find_problems(settings, credentials, Connection(settings.api_url))

    # Lifetime

    async def start(self, service: ConversationService) -> None:
        settings = self._slack_settings
        credentials = await asyncio.to_thread(read_credentials, settings)
        await self._slack.open()
        if self._oauth is not None:
            self._flow = self._oauth.open(service.records, self.name, credentials.client_secret)
        else:
            self._token.open(credentials.token)
            await self._identify()
        app = SlackApp(self._slack.client(), self.installations)
        self._listeners(service).register(app)
        if settings.mode == "socket":
            self._socket = SocketMode(
                app, credentials.app_token, self._slack, ping_seconds=self.ping_seconds
            )
        await super().start(service)
        if settings.mode == "http":
            self._requests = SlackRequests(
                app, credentials.signing_secret, self._clock, self._report
            )

    async def close(self) -> None:
        await super().close()
        await self._slack.close()

    async def _identify(self) -> None:
        """Learn whose token the settings have. When Slack is not reached, the first event asks it
        again. Raises `ConfigurationError`."""
        try:
            await self._token.identify()
        except RefusedCall as error:
            raise ConfigurationError(refused_token(error)) from error
        except PostingError as error:
            log.warning("Slack does not answer at the start: %s", error)
        self._lacking = missing_scopes(self._token.scopes)
        if self._lacking:
            log.error("%s", self._lacking)
        self._report("")

    def _listeners(self, service: ConversationService) -> Listeners:
        installations, settings = self.installations, self._slack_settings
        places = Places(installations, settings.agent)
        people, recent = People(installations), RecentIds(service.records, self.name)
        downloads, threads = Downloads(self._slack, installations), Threads(self, installations)
        return Listeners(
            self,
            installations=installations,
            places=places,
            messages=Messages(self, places, people, downloads, recent, threads),
            commands=Commands(self, places, installations, people, recent),
            buttons=Buttons(self, places),
            home=Home(self, places, installations, command=settings.command),
        )

    async def connect(self) -> None:
        await (self._socket.run() if self._socket else super().connect())

    def _report(self, problem: str) -> None:
        """Note why the channel does not work; empty: it does."""
        self.problem = self._lacking or problem

    # Routes

    def routes(self) -> Iterable[web.RouteDef]:
        settings = self._slack_settings
        if settings.mode == "http" and settings.signing_secret is not None:
            yield web.post(EVENTS_PATH, self._receive_request)
        if settings.client_id and settings.client_secret is not None:
            yield web.get(INSTALL_PATH, self._install, allow_head=False)
            yield web.get(REDIRECT_PATH, self._complete_installation, allow_head=False)

    @public  # Slack signs its requests
    @described(EVENTS)
    async def _receive_request(self, request: web.Request) -> web.StreamResponse:
        if self._requests is None:
            raise Overloaded("the channel is not open")
        return await self._requests.handle(request)

    @public
    @described(INSTALL)
    async def _install(self, request: web.Request) -> web.StreamResponse:
        """Send somebody to Slack, to add the app to their workspace."""
        flow = self._open_flow()
        return await to_aiohttp_response(await flow.handle_installation(_bolt_request(request)))

    @public  # the state proves that the browser has been at `_install`
    @described(REDIRECT)
    async def _complete_installation(self, request: web.Request) -> web.StreamResponse:
        flow = self._open_flow()
        try:
            with translated():
                response = await flow.handle_callback(_bolt_request(request))
        except PostingError as error:
            raise Overloaded(f"Slack does not answer: {error}") from error
        return await to_aiohttp_response(response)

    def _open_flow(self) -> AsyncOAuthFlow:
        if self._flow is None:
            raise Overloaded("the channel is not open")
        return self._flow


def _bolt_request(request: web.Request) -> AsyncBoltRequest:
    headers: dict[str, str | Sequence[str]] = {"cookie": request.headers.get("Cookie", "")}
    return AsyncBoltRequest(body="", query=request.query_string, headers=headers)
