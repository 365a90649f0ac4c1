"""Discord's REST API with the bot's token."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import discord
import discord.gateway
import discord.http
import yarl

from palaver import ConfigurationError, Secret
from palaver.platforms import Unreachable
from palaver_plugins.channels.discord.errors import translated
from palaver_plugins.channels.discord.settings import DiscordSettings

CALL_TIMEOUT = 120.0
"""Seconds for one call, with its waiting for rate limits and its repetitions."""
MAX_WAIT = 30.0
"""Seconds for which the library waits for a rate limit; it takes no lower value."""
NO_MENTIONS = discord.AllowedMentions.none()


class Api:
    """Logs in at the first call. Every server has it; the gateway has clients of its own."""

    def __init__(self, settings: DiscordSettings) -> None:
        self._token = settings.token
        self._lock = asyncio.Lock()
        self._client: discord.Client | None = None
        use_address(settings.api_url)

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[discord.Client]:
        """Make calls with the client that this yields. Raises `PostingError`."""
        with translated():
            async with asyncio.timeout(CALL_TIMEOUT):
                try:
                    client = await self.client()
                except ConfigurationError as error:
                    raise Unreachable(str(error)) from error
                yield client

    async def client(self) -> discord.Client:
        """Return the client, logged in. Raises `ConfigurationError` for a bad token, and what the
        library raises when Discord cannot be reached."""
        async with self._lock:
            if self._client is None:
                client = discord.Client(
                    intents=discord.Intents(guilds=True),  # it connects to no gateway
                    allowed_mentions=NO_MENTIONS,
                    max_messages=None,
                    max_ratelimit_timeout=MAX_WAIT,
                )
                await log_in(client, self._token)
                self._client = client
            return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None


async def log_in(client: discord.Client, token: Secret) -> None:
    """Log a client in; close it when that fails. Raises `ConfigurationError` for a bad token."""
    try:
        await client.login(await asyncio.to_thread(token.reveal))
    except discord.LoginFailure as error:
        await client.close()
        raise ConfigurationError(
            f"Discord refuses the token in {token.root}; reset it on the page Bot of the "
            "developer portal, and store the new one there"
        ) from error
    except BaseException:
        await client.close()
        raise


def use_address(url: str) -> None:
    """Make the library call the API at another address, for all clients of the process."""
    discord.http.Route.BASE = url.rstrip("/")


def use_gateway(url: str) -> None:
    """Make the library connect to another gateway than Discord's own, whose address it knows."""
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(url)


CONNECTION_ERRORS = (discord.HTTPException, aiohttp.ClientError, OSError)
"""What a client raises when Discord cannot be reached."""
