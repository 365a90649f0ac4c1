"""Downloads: the files of messages, from Slack into the file store."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp

from palaver import FilesUnavailable
from palaver.platforms import IncomingFile, Refused, Unreachable
from palaver_plugins.channels.slack.api import call
from palaver_plugins.channels.slack.connection import Connection
from palaver_plugins.channels.slack.events import SlackFile
from palaver_plugins.channels.slack.installations import BotInstallations

PIECE_BYTES = 65_536
TIMEOUT = aiohttp.ClientTimeout(total=120.0, sock_connect=5.0, sock_read=15.0)
NOT_READY = frozenset({404, 408, 409, 425, 429})
"""Statuses of a file that Slack has not processed yet, or does not give right now."""


class Downloads:
    """Reads files with the token of the bot, and never from another host than Slack's."""

    def __init__(self, connection: Connection, installations: BotInstallations) -> None:
        self._connection = connection
        self._installations = installations

    def incoming(self, team: str, file: SlackFile, *, is_last_delivery: bool) -> IncomingFile:
        """Return a file of a message, to read it. When Slack does not give it yet, reading raises
        `FilesUnavailable`, so that Slack delivers the message again; the last time, `Unreachable`.
        """

        async def read() -> AsyncIterator[bytes]:
            try:
                async for piece in self._read(team, file):
                    yield piece
            except Unreachable as error:
                if is_last_delivery:
                    raise
                raise FilesUnavailable(str(error)) from error

        return IncomingFile(name=file.name or "file", read=read, size=file.size)

    async def _read(self, team: str, file: SlackFile) -> AsyncIterator[bytes]:
        client = await self._installations.client(team)
        if file.file_access == "check_file_info":
            answer = await call(client.files_info(file=file.id))
            url = answer["file"].get("url_private_download") or answer["file"].get("url_private")
        else:
            url = file.url_private_download or file.url_private
        if file.mode == "external" or not self._is_of_slack(url or ""):
            raise Refused("a file is not stored in Slack")
        headers = {"Authorization": f"Bearer {client.token}"}
        request = self._connection.session.get(
            url, headers=headers, allow_redirects=False, timeout=TIMEOUT
        )
        try:
            async with request as response:
                _check(response, file)
                async for piece in response.content.iter_chunked(PIECE_BYTES):
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"Slack does not give a file: {type(error).__name__}") from error

    def _is_of_slack(self, url: str) -> bool:
        """Return whether a URL may get the token: its host is that of the Web API, or below it."""
        api, target = urlsplit(self._connection.api_url), urlsplit(url)
        host = target.hostname or ""
        is_below = host == api.hostname or host.endswith(f".{api.hostname}")
        return target.scheme == api.scheme and is_below


def _check(response: aiohttp.ClientResponse, file: SlackFile) -> None:
    """Raise `Refused` and `Unreachable` when the response is not the file."""
    if response.status in NOT_READY or response.status >= 500:
        raise Unreachable(f"Slack does not give a file yet, status {response.status}")
    is_other_page = response.content_type == "text/html" and (
        file.mimetype != "text/html" or response.content_length != file.size
    )
    if response.status != 200 or is_other_page:
        raise Refused(
            "Slack gives its login page in place of a file: the bot lacks the scope files:read"
        )
