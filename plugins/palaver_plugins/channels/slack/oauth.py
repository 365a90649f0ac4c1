"""OAuth: the app in several workspaces, and the tokens of its bots."""

import asyncio
import logging

import msgspec
from slack_bolt.oauth.async_oauth_flow import AsyncOAuthFlow
from slack_bolt.oauth.async_oauth_settings import AsyncOAuthSettings
from slack_sdk.oauth.token_rotation.async_rotator import AsyncTokenRotator

from palaver import RecordStore, SteadyClock
from palaver.platforms import KeyedLocks, Lease, ParkedConversations, PostingError
from palaver_plugins.channels.slack.api import translated
from palaver_plugins.channels.slack.connection import Connection
from palaver_plugins.channels.slack.installations import Bot, BotInstallations
from palaver_plugins.channels.slack.manifest import BOT_SCOPES, INSTALL_PATH, REDIRECT_PATH
from palaver_plugins.channels.slack.settings import SlackSettings
from palaver_plugins.channels.slack.stores import (
    RecordInstallationStore,
    RecordStateStore,
    StoredInstallation,
)

ROTATE_MINUTES = 120
"""Minutes before the end of a token at which it is replaced. It lives for 12 hours."""
AUTHORIZE_PATH = "oauth/v2/authorize"
LEASE_SECONDS = 60.0
"""Longer than a call of Slack takes."""
POLL_SECONDS = 0.5
"""Between two looks at a token that another server renews."""

log = logging.getLogger(__name__)


class OAuthInstallations(BotInstallations):
    """The installations that people have made at ``/slack/install``."""

    def __init__(self, settings: SlackSettings, connection: Connection) -> None:
        super().__init__(connection)
        self._settings = settings
        self._rotating = KeyedLocks()
        self._clock = SteadyClock()

    def open(self, records: RecordStore, channel: str, client_secret: str) -> AsyncOAuthFlow:
        """Use the records of the ledger. Return the flow that installs the app."""
        self._records = records
        self._channel = channel
        self._store = RecordInstallationStore(records, channel, self._replay_parked)
        client = self._connection.client()
        self._rotator = AsyncTokenRotator(
            client_id=self._settings.client_id, client_secret=client_secret, client=client
        )
        public_url = self._settings.public_url
        return AsyncOAuthFlow(
            client=client,
            settings=AsyncOAuthSettings(
                client_id=self._settings.client_id,
                client_secret=client_secret,
                scopes=list(BOT_SCOPES),
                user_scopes=[],
                authorization_url=f"{self._connection.api_url.removesuffix('api/')}{AUTHORIZE_PATH}",
                redirect_uri=f"{public_url}{REDIRECT_PATH}" if public_url else None,
                install_path=INSTALL_PATH,
                redirect_uri_path=REDIRECT_PATH,
                install_page_rendering_enabled=False,
                installation_store=self._store,
                state_store=RecordStateStore(records, channel, client_secret),
            ),
        )

    async def _replay_parked(self, team: str) -> None:
        """Have replies posted that were refused while the app was not installed."""
        parked = ParkedConversations(self._records, self._channel)
        await parked.replay_all(self.tenant(team), f"{team}.")

    def tenant(self, team: str) -> str:
        return self._settings.tenants.get(team, team)

    async def bot(self, team: str) -> Bot | None:
        stored = await self._store.read(team)
        if stored is not None and self._expires_within(stored, ROTATE_MINUTES):
            stored = await self._rotate(team)
        if stored is None:
            return None
        return Bot(
            team=team,
            token=stored.bot_token,
            user=stored.bot_user_id or "",
            id=stored.bot_id or "",
        )

    async def remove(self, team: str) -> None:
        await self._store.delete(team)
        self._clients.pop(team, None)

    async def _rotate(self, team: str) -> StoredInstallation | None:
        """Return an installation whose token does not end soon, or still holds while another server
        renews it: a refresh token works once."""
        lease = Lease(self._records, self._channel, f"rotation.{team}", seconds=LEASE_SECONDS)
        async with self._rotating.hold(team):
            while True:
                stored = await self._store.read(team)
                if stored is None or not self._expires_within(stored, ROTATE_MINUTES):
                    return stored
                if await lease.try_acquire():
                    try:
                        return await self._refresh(team)
                    finally:
                        await lease.release()
                if not self._expires_within(stored, 0):
                    return stored
                await asyncio.sleep(POLL_SECONDS)

    async def _refresh(self, team: str) -> StoredInstallation | None:
        """Return the installation with a token that lasts. Raises `PostingError` when Slack gives
        none and the present one has ended."""
        stored = await self._store.read(team)
        if stored is None or not self._expires_within(stored, ROTATE_MINUTES):
            return stored  # another server has renewed it
        try:
            with translated():
                bot = await self._rotator.perform_bot_token_rotation(
                    bot=stored.to_installation().to_bot(), minutes_before_expiration=ROTATE_MINUTES
                )
        except PostingError as error:
            log.warning("the token of the bot in %s cannot be renewed: %s", stored.id, error)
            if self._expires_within(stored, 0):
                raise
            return stored
        if bot is None:  # by the library's clock it lasts
            return stored
        renewed = msgspec.structs.replace(
            stored,
            bot_token=bot.bot_token,
            bot_refresh_token=bot.bot_refresh_token,
            bot_token_expires_at=bot.bot_token_expires_at,
        )
        await self._store.write(renewed)
        return renewed

    def _expires_within(self, stored: StoredInstallation, minutes: int) -> bool:
        end = stored.bot_token_expires_at
        return end is not None and end <= self._clock() + minutes * 60
