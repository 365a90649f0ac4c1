"""Installations: the workspaces where the app is installed, and the bot's token in each.

An installation is named by the id of its workspace, or by that of the organization which has
installed the app for all of its workspaces.
"""

import asyncio
import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping

from slack_bolt.context.async_context import AsyncBoltContext
from slack_sdk.web.async_client import AsyncWebClient

from palaver.platforms import Refused
from palaver_plugins.channels.slack.api import call
from palaver_plugins.channels.slack.connection import Connection

_SCOPES = "x-oauth-scopes"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bot:
    """The bot of an installation. ``user`` is the id of its user, ``id`` another one of it."""

    team: str
    token: str = dataclasses.field(repr=False)
    user: str
    id: str


def installation_of(context: AsyncBoltContext) -> str:
    """Return the id of the installation that a request of Slack is for, empty when it has none."""
    if context.is_enterprise_install and context.enterprise_id:
        return context.enterprise_id
    return context.team_id or context.enterprise_id or ""


class BotInstallations(ABC):
    """The installations; see `palaver_plugins.channels.slack.api.Installations`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._clients: dict[str, AsyncWebClient] = {}

    @abstractmethod
    async def bot(self, team: str) -> Bot | None:
        """Return the bot of an installation, None when there is none. Raises `Unreachable` and
        `LedgerUnavailable`."""

    @abstractmethod
    def tenant(self, team: str) -> str:
        """Return the tenant of an installation."""

    @abstractmethod
    async def remove(self, team: str) -> None:
        """Forget an installation: the app was removed there. Raises `LedgerUnavailable`."""

    async def client(self, team: str) -> AsyncWebClient:
        """See `Installations.client`."""
        bot = await self.bot(team)
        if bot is None:
            raise Refused(f"the app is not installed in {team}")
        client = self._clients.get(team)
        if client is None or client.token != bot.token:
            client = self._clients[team] = self._connection.client(bot.token)
        return client


class TokenInstallation(BotInstallations):
    """The one installation whose token the settings have."""

    def __init__(self, tenant: str, connection: Connection) -> None:
        super().__init__(connection)
        self._tenant = tenant
        self._token = ""
        self._bot: Bot | None = None
        self._lock = asyncio.Lock()
        self.scopes: frozenset[str] = frozenset()
        """What the token allows, as Slack has told; empty when it has not."""

    def open(self, token: str) -> None:
        self._token = token

    def tenant(self, team: str) -> str:
        return self._tenant

    async def bot(self, team: str) -> Bot | None:
        bot = await self.identify()
        return bot if bot.team == team else None

    async def identify(self) -> Bot:
        """Ask Slack once whose token it is. Raises `PostingError`."""
        async with self._lock:
            if self._bot is None:
                answer = await call(self._connection.client(self._token).auth_test())
                self.scopes = granted_scopes(answer.headers)
                is_org_wide = answer.get("is_enterprise_install")
                self._bot = Bot(
                    team=answer["enterprise_id"] if is_org_wide else answer["team_id"],
                    token=self._token,
                    user=answer["user_id"],
                    id=answer.get("bot_id") or "",
                )
            return self._bot

    async def remove(self, team: str) -> None:
        log.error("the app was removed from %s; channels.slack.token is of no use now", team)


def granted_scopes(headers: Mapping[str, str]) -> frozenset[str]:
    """Return what a token allows, from the headers of an answer; empty when they do not tell."""
    value = next((value for name, value in headers.items() if name.lower() == _SCOPES), "")
    return frozenset(filter(None, (scope.strip() for scope in value.split(","))))
