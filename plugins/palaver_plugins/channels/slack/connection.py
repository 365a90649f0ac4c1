"""Connection: clients of Slack's Web API that share one HTTP session."""

import aiohttp
from slack_sdk.web.async_client import AsyncWebClient

REQUEST_TIMEOUT = 30.0
"""Seconds that a call of the Web API may take."""


class Connection:
    """The HTTP session of a channel, which `open` begins and `close` ends. A client that is made
    without it opens a session for each call."""

    def __init__(self, api_url: str) -> None:
        self.api_url = api_url
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(REQUEST_TIMEOUT))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "the channel is not started"
        return self._session

    def client(self, token: str | None = None) -> AsyncWebClient:
        """Return a client. It never repeats a call: the library would post twice."""
        return AsyncWebClient(
            token=token,
            base_url=self.api_url,
            timeout=int(REQUEST_TIMEOUT),
            session=self._session,
            retry_handlers=[],
        )
