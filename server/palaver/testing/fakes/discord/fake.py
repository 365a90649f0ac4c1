"""FakeDiscord: the parts of the fake Discord put together."""

import asyncio
import secrets
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.discord.actions import Actions
from palaver.testing.fakes.discord.commands import Commands
from palaver.testing.fakes.discord.endpoint import Endpoint
from palaver.testing.fakes.discord.faults import Faults
from palaver.testing.fakes.discord.gateway import Gateway
from palaver.testing.fakes.discord.interactions import Interactions
from palaver.testing.fakes.discord.limits import DiscordLimits, RateLimits
from palaver.testing.fakes.discord.messages import Messages
from palaver.testing.fakes.discord.objects import (
    DiscordChannel,
    DiscordUser,
)
from palaver.testing.fakes.discord.page import render_page
from palaver.testing.fakes.discord.requests import DiscordRequest
from palaver.testing.fakes.discord.rest import PREFIX, Hook, RestApi
from palaver.testing.fakes.discord.routes import Routes
from palaver.testing.fakes.discord.state import (
    GUILD_MEMBERS,
    MESSAGE_CONTENT,
    Application,
    DiscordState,
)

T = TypeVar("T")

WAIT_SECONDS = 5.0
MAX_BODY = 64 * 1024 * 1024


class FakeDiscord(Actions):
    """A Discord with one application, its bot and a server, on a free port of the loopback address.

    ``message_content`` and ``guild_members`` are the switches of these intents in the developer
    portal. Without ``clock`` the fake's time follows real time. At the end of a block without an
    error, an `AssertionError` lists what the bot did that Discord does not know (`violations`).
    """

    def __init__(
        self,
        *,
        clock: FakeClock | None = None,
        limits: DiscordLimits | None = None,
        message_content: bool = True,
        guild_members: bool = False,
    ) -> None:
        self.clock = clock or FakeClock(speed=1.0)
        self.limits = limits or DiscordLimits()
        self.violations: list[str] = []
        self.faults = Faults()
        self.rate_limits = RateLimits(self.limits, self.clock)
        self.state = DiscordState(self.clock, self.limits)
        self.gateway = Gateway(self.state, self.violations)
        self.state.publish = self.gateway.publish
        privileged = MESSAGE_CONTENT * message_content | GUILD_MEMBERS * guild_members
        self._add_application(privileged)
        self._rest = RestApi(self.state, self.faults, self.rate_limits, self.violations)
        messages = Messages(self.state)
        self.interactions = Interactions(self.state, messages)
        self.commands = Commands(self.state)
        self.endpoint = Endpoint(self.state, self.interactions, self.violations)
        self._rest.add_routes(Routes(self.state, messages, self.gateway).all())
        self._rest.add_routes(self.interactions.routes())
        self._rest.add_routes(self.commands.routes())
        self._runner: web.AppRunner | None = None
        self.add_guild("Palaver")

    def _add_application(self, privileged_intents: int) -> None:
        bot = DiscordUser(id=self.state.new_id(), name="Palaver", is_bot=True)
        self.state.users[bot.id] = bot
        self.state.application = Application(
            id=bot.id,
            name=bot.name,
            bot=bot,
            token=f"{bot.id}.{secrets.token_hex(16)}",
            privileged_intents=privileged_intents,
        )

    @property
    def token(self) -> str:
        """Return the bot's token."""
        return self.state.application.token

    @property
    def public_key(self) -> str:
        """Return the key by which an endpoint verifies interactions. Needs PyNaCl."""
        return self.endpoint.public_key

    async def set_interactions_url(self, url: str) -> None:
        """Get interactions delivered to a URL and no longer by the gateway, as in the developer
        portal; raises `EndpointRefused` when the URL does not answer as Discord demands."""
        await self.endpoint.set_url(url)

    @property
    def url(self) -> str:
        """Return where the fake listens, such as ``http://127.0.0.1:40000``."""
        return self.state.url

    @property
    def api_url(self) -> str:
        """Return the address of the HTTP API, for ``discord.http.Route.BASE``."""
        return f"{self.url}{PREFIX}"

    @property
    def gateway_url(self) -> str:
        """Return the address of the gateway, for ``DiscordWebSocket.DEFAULT_GATEWAY``."""
        return self.state.gateway_url

    @property
    def requests(self) -> list[DiscordRequest]:
        """Return every request to the HTTP API, oldest first."""
        return self._rest.requests

    def before_call(self, hook: Hook) -> None:
        """Await ``hook`` with each request before it takes effect."""
        self._rest.before_call = hook

    def after_call(self, hook: Hook) -> None:
        """Await ``hook`` with each request that has taken effect, before its answer."""
        self._rest.after_call = hook

    async def wait_until(self, condition: Callable[[], T], within: float = WAIT_SECONDS) -> T:
        """Return what ``condition`` returns as soon as that is true. Raises `TimeoutError` after
        ``within`` real seconds."""
        async with asyncio.timeout(within):
            while True:
                if result := condition():
                    return result
                await asyncio.sleep(0.005)

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_get("/gateway", self.gateway.handle)
        app.router.add_get("/gateway/", self.gateway.handle)
        app.router.add_get("/resumed-gateway", self.gateway.handle)
        app.router.add_get("/attachments/{channel}/{id}/{name}", self._download)
        app.router.add_route("*", PREFIX + "/{path:.*}", self._rest.handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.state.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.faults.clear()
        self.gateway.drop()
        if self._runner:
            await self._runner.cleanup()
        if error is None:
            self.check()

    def check(self) -> None:
        """Fail when the bot has sent what Discord does not know."""
        if self.violations:
            raise AssertionError("unknown to Discord: " + "; ".join(self.violations))

    def render_html(self, channel: DiscordChannel, *, seen_by: DiscordUser | None = None) -> str:
        """Return the conversation as a page that looks as on Discord, for pictures."""
        messages = self.conversation(channel, seen_by=seen_by)
        return render_page(self.state, channel, messages, is_typing=self.is_typing(channel))

    async def _download(self, request: web.Request) -> web.Response:
        attachment = self.state.attachments.get(int(request.match_info["id"]))
        if attachment is None or attachment.file.name != request.match_info["name"]:
            return web.Response(status=404, text="This content is no longer available.")
        file = attachment.file
        return web.Response(body=file.content, headers={"Content-Type": file.media_type})
