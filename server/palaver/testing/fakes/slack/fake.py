"""FakeSlack: the parts of the fake Slack put together."""

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.slack.api import ApiRequest, Hook
from palaver.testing.fakes.slack.deliveries import Delivery, DeliveryKind, encode_json
from palaver.testing.fakes.slack.directory import Directory
from palaver.testing.fakes.slack.faults import Faults
from palaver.testing.fakes.slack.limits import SlackRules
from palaver.testing.fakes.slack.manifest import apply_manifest
from palaver.testing.fakes.slack.oauth import Consent
from palaver.testing.fakes.slack.objects import (
    App,
    ChannelKind,
    Json,
    Token,
    User,
)
from palaver.testing.fakes.slack.page import render_page
from palaver.testing.fakes.slack.people import People
from palaver.testing.fakes.slack.server import SlackServer
from palaver.testing.fakes.slack.sockets import Socket
from palaver.testing.fakes.slack.tasks import TIMEOUT_SECONDS
from palaver.testing.fakes.slack.throttle import EventThrottle
from palaver.testing.fakes.slack.view import VisibleMessage, shown_status, visible
from palaver.testing.fakes.slack.world import World

T = TypeVar("T")


class FakeSlack(People):
    """Slack with one workspace, the channel `general`, the people `ada` and `bob`, and the app
    under test, which is installed and a member of the channel.

    ``clock`` follows real time unless a test passes its own. ``seed``: of all random choices.
    ``signing_clock``: the app's clock, by which it checks the age of a request.
    """

    def __init__(
        self,
        *,
        clock: FakeClock | None = None,
        seed: int = 0,
        app_name: str = "Palaver",
        signing_clock: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock or FakeClock(speed=1.0)
        self.rules = SlackRules()
        self.request_urls: list[str] = []
        """Where the app receives events; one is chosen at random for each request."""
        self.interaction_urls: list[str] = []
        """Where it receives pressed buttons; `request_urls` when empty."""
        self.command_urls: list[str] = []
        """Where it receives slash commands; `request_urls` when empty."""
        self.world = World(self.clock, seed)
        self.faults = Faults(random.Random(seed))
        self.throttle = EventThrottle(self.clock, self.rules)
        self._directory = Directory(self.world)
        self._stack = contextlib.AsyncExitStack()
        self._signing_clock = signing_clock
        self._add_defaults(app_name)

    def _add_defaults(self, app_name: str) -> None:
        self.team = self._directory.add_workspace("Acme")
        self.world.users["USLACKBOT"] = User(id="USLACKBOT", name="Slackbot", team=self.team)
        self.ada = self.add_user("Ada")
        self.bob = self.add_user("Bob")
        self.app: App = self._directory.add_app(app_name)
        token = self.install(self.team)
        self.bot_token, self.bot_user = token.value, token.user
        self.app_token = self.app.app_token
        self.signing_secret = self.app.signing_secret
        self.general = self.add_channel("general", [self.ada, self.bob, self.bot_user])
        self.consent = Consent(team=self.team, user=self.ada)
        """Who answers OAuth's consent page, and how."""

    async def __aenter__(self) -> Self:
        server = SlackServer(
            self.world,
            self.app,
            rules=self.rules,
            faults=self.faults,
            throttle=self.throttle,
            consent=self.consent,
            urls=self._urls,
            signing_clock=self._signing_clock,
        )
        self._server = await self._stack.enter_async_context(server)
        return self

    def _urls(self, kind: DeliveryKind) -> Sequence[str]:
        urls = {"interaction": self.interaction_urls, "command": self.command_urls}.get(kind)
        return urls or self.request_urls

    async def __aexit__(
        self,
        type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()
        if error is None and self.violations:
            raise AssertionError("; ".join(self.violations))

    @property
    def url(self) -> str:
        """Return where the fake listens; the consent page is ``/oauth/v2/authorize``."""
        return self._server.url

    @property
    def api_url(self) -> str:
        """Return the ``base_url`` of a client of the Web API."""
        return f"{self.url}/api/"

    @property
    def violations(self) -> list[str]:
        """Return what the app did against Slack's documentation."""
        return self.world.violations

    @property
    def requests(self) -> list[ApiRequest]:
        """Return all calls of the Web API, in order."""
        return self._server.api.requests

    @property
    def deliveries(self) -> list[Delivery]:
        """Return what was or is being delivered to the app, in the order of its beginning."""
        return self._server.deliveries.all

    @property
    def sockets(self) -> list[Socket]:
        """Return the app's open websockets (Socket Mode)."""
        return self._server.sockets.all

    def calls(self, method: str) -> list[ApiRequest]:
        """Return the calls of a method, in order."""
        return [request for request in self.requests if request.method == method]

    def before_call(self, hook: Hook | None) -> None:
        """Await ``hook`` before each call takes effect."""
        self._server.api.before_call = hook

    def after_call(self, hook: Hook | None) -> None:
        """Await ``hook`` after the effect of each call, and before its answer."""
        self._server.api.after_call = hook

    async def wait_until(self, condition: Callable[[], T], within: float = TIMEOUT_SECONDS) -> T:
        """Return what ``condition`` returns as soon as that is true. Raises `TimeoutError` after
        ``within`` real seconds."""
        return await self.world.changes.wait_until(condition, within)

    async def wait_for(
        self, method: str, count: int = 1, within: float = TIMEOUT_SECONDS
    ) -> ApiRequest:
        """Wait until a method was called ``count`` times, and return the last of these calls.
        Refused and lost calls count as well."""
        calls = self._server.api.finished[method]
        await self.wait_until(lambda: len(calls) >= count, within)
        return calls[count - 1]

    async def wait_until_delivered(self, within: float = TIMEOUT_SECONDS) -> None:
        """Wait until every delivery is acknowledged or given up."""
        await self.wait_until(lambda: not self._server.deliveries.open_count, within)

    def add_workspace(self, name: str, *, enterprise: str = "") -> str:
        """Add a workspace, in an organization (Enterprise Grid) when ``enterprise`` is its id."""
        return self._directory.add_workspace(name, enterprise=enterprise)

    def install(
        self, team: str, *, org_wide: bool = False, scopes: Sequence[str] | None = None
    ) -> Token:
        """Install the app without OAuth; a test of missing scopes passes fewer of them."""
        return self._directory.install(self.app, team, org_wide=org_wide, scopes=scopes)

    def configure(self, manifest: Json) -> None:
        """Give the app the settings of its manifest, and install it anew with these scopes. Raises
        `ValueError` for a manifest that Slack refuses."""
        apply_manifest(self.app, manifest)
        self.world.users[self.bot_user].name = self.app.name
        self.world.tokens[self.bot_token].scopes = frozenset(self.app.scopes)

    async def uninstall(self, team: str) -> None:
        """Uninstall the app; its tokens end."""
        installation = self.world.installation(self.app.id, team)
        if installation is None:
            raise LookupError(f"the app is not installed in {team}")
        self._server.events.uninstall(installation)

    async def revoke(self, token: str) -> None:
        """Revoke a token."""
        self._server.events.revoke(self.world.tokens[token])

    def add_bot(self, name: str) -> Token:
        """Add another app with a bot, and return the bot's token; ``token.user`` is its user."""
        return self._directory.install(self._directory.add_app(name), self.team)

    def add_user(self, name: str, *, team: str = "") -> str:
        """Add a person, and return the id; in an organization it begins with W."""
        return self._directory.add_user(name, team or self.team)

    def add_channel(
        self, name: str, members: Sequence[str], *, kind: ChannelKind = "channel", team: str = ""
    ) -> str:
        """Add a channel, and return its id. Without the app's user among the members, the app
        neither gets its messages nor may post there."""
        return self._directory.add_channel(name, members, team=team or self.team, kind=kind)

    def direct(self, user: str) -> str:
        """Return the id of the channel for direct messages between a person and the app."""
        team = self.world.users[user].team
        installation = self.world.installation(self.app.id, team)
        if installation is None:
            raise LookupError(f"the app is not installed in {team}")
        members = {user, installation.user}
        for channel in self.world.channels.values():
            if channel.kind == "im" and channel.members == members:
                return channel.id
        return self.add_channel(user, sorted(members), kind="im", team=team)

    async def verify_url(self, url: str) -> bool:
        """Send the challenge with which Slack verifies a request URL; return whether it passes."""
        challenge = self.world.new_id("challenge")
        payload = {
            "type": "url_verification",
            "token": self.app.verification_token,
            "challenge": challenge,
        }
        status, body = await self._server.http.send_signed(url, encode_json(payload))
        return status == 200 and challenge.encode() in body

    async def send_forged(
        self, url: str, payload: Json, *, timestamp: str = "", secret: str = ""
    ) -> int:
        """Send an event that is signed with another time or secret; return the status."""
        status, _ = await self._server.http.send_signed(
            url, encode_json(payload), timestamp=timestamp, secret=secret
        )
        return status

    def conversation(
        self, channel: str, thread: str | None = None, *, seen_by: str = ""
    ) -> list[VisibleMessage]:
        """Return the messages of a thread, or without it of a channel and all its threads, in
        order. With ``seen_by``, what this user sees: nobody else sees ephemeral messages, and the
        text of a live stream only its recipient."""
        return visible(self.world, self.world.channels[channel], thread, seen_by)

    def render_html(self, channel: str, thread: str | None = None, *, seen_by: str = "") -> str:
        """Return a page that shows a thread, or without it a channel, as on Slack, for pictures.
        Emoji and letters of other scripts need fonts that have them."""
        where = self.world.channels[channel]
        found = where.main() if thread is None else where.thread(thread)
        return render_page(
            self.world,
            where,
            [message for message in found if not seen_by or message.ephemeral_to in ("", seen_by)],
            is_thread=thread is not None and where.kind != "im",
            status=self.status(channel, thread or ""),
            can_stop=self.can_stop(channel, thread or ""),
        )

    def status(self, channel: str, thread: str) -> str:
        """Return the status that a thread shows, such as "is thinking…"."""
        return shown_status(self.world, (channel, thread))
