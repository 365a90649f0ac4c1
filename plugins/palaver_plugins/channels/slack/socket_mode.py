"""Socket Mode: Slack's events over a connection that this server opens."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import WSMessage
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest

from palaver import ConfigurationError
from palaver.platforms import Unreachable
from palaver_plugins.channels.slack.api import RefusedCall, call
from palaver_plugins.channels.slack.connection import Connection
from palaver_plugins.channels.slack.dispatch import SlackApp

CONNECT_SECONDS = 20.0
"""Seconds in which a connection must be there."""
CLOSE_SECONDS = 3.0
"""Seconds for the events that are being stored when the connection is closed."""
MAX_MISSES = 4
"""Pings without a connection after which this one is given up."""
ENDINGS = {
    "too_many_websockets": "Slack allows an app 10 connections, and has closed this one",
    "link_disabled": "Socket Mode is switched off in the settings of the Slack app",
}
"""Reasons for which Slack closes a connection and does not want another one at once."""

_sdk_log = logging.getLogger(f"{__name__}.sdk")
_sdk_log.setLevel(logging.CRITICAL)  # its lines have the URL with the ticket in them


class _Disconnect(msgspec.Struct, tag_field="type", tag="disconnect"):
    reason: str = ""


class SocketHandler(AsyncSocketModeHandler):
    """Bolt's handler: it acknowledges an envelope when the app is done with it."""

    def __init__(
        self, app: SlackApp, app_token: str, connection: Connection, ping_seconds: float
    ) -> None:
        super().__init__(
            app,
            app_token,
            logger=_sdk_log,
            web_client=connection.client(),
            ping_interval=ping_seconds,
        )
        self.running: set[asyncio.Task[None]] = set()

    async def handle(  # type: ignore[override]  # as Bolt's own
        self, client: SocketModeClient, req: SocketModeRequest
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        await super().handle(client, req)


class SocketMode:
    """Receives events from Slack over one connection, which the library replaces as Slack asks."""

    def __init__(
        self,
        app: SlackApp,
        app_token: str,
        connection: Connection,
        *,
        ping_seconds: float,
    ) -> None:
        """``ping_seconds``: between two pings. The library connects again when four of them are not
        answered."""
        self._ping_seconds = ping_seconds
        self._app = app
        self._app_token = app_token
        self._connection = connection

    async def run(self) -> None:
        """Receive until the connection is lost for longer than the library needs to replace it.
        Raises `ConfigurationError` when Slack refuses the app-level token, and `PostingError`."""
        url = await open_socket(self._connection, self._app_token)
        handler = SocketHandler(self._app, self._app_token, self._connection, self._ping_seconds)
        ending: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        handler.client.on_message_listeners.append(_notice(ending))
        handler.client.wss_uri = url
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await handler.client.connect()  # type: ignore[no-untyped-call]
            await self._watch(handler.client, ending)
        except TimeoutError as error:
            raise Unreachable("Slack's socket cannot be reached") from error
        finally:
            await handler.client.close()  # type: ignore[no-untyped-call]
            if handler.running:
                await asyncio.wait(handler.running, timeout=CLOSE_SECONDS)

    async def _watch(self, client: SocketModeClient, ending: "asyncio.Future[str]") -> None:
        """Return when there was no connection for several pings; quiet is no sign of that."""
        misses = 0
        while misses <= MAX_MISSES:
            await asyncio.wait([ending], timeout=self._ping_seconds)
            if ending.done():
                raise Unreachable(ENDINGS[ending.result()])
            misses = 0 if await client.is_connected() else misses + 1


async def open_socket(connection: Connection, app_token: str) -> str:
    """Return the URL of a new socket. Raises `ConfigurationError` when Slack refuses the token, and
    `PostingError`."""
    client = connection.client()
    try:
        answer = await call(client.apps_connections_open(app_token=app_token))
    except RefusedCall as error:
        raise ConfigurationError(
            f"Slack refuses channels.slack.app_token: {error.code}; it needs an app-level token "
            "(xapp-…) with the scope connections:write, and Socket Mode switched on for the app"
        ) from error
    return str(answer["url"])


def _notice(ending: "asyncio.Future[str]") -> Callable[[WSMessage], Awaitable[None]]:
    """Return a listener that notes a reason for which the library must not connect again at once:
    it would do so for ever."""

    async def notice(message: WSMessage) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            reason = msgspec.json.decode(message.data, type=_Disconnect).reason
            if reason in ENDINGS and not ending.done():
                ending.set_result(reason)

    return notice
