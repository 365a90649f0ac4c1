"""Listeners: which part of the channel takes which request of Slack."""

import logging
import re

from slack_bolt.context.ack.async_ack import AsyncAck
from slack_bolt.context.async_context import AsyncBoltContext
from slack_bolt.request.async_request import AsyncBoltRequest

from palaver.platforms import PlatformChannel
from palaver_plugins.channels.slack.dispatch import SlackApp, is_last_delivery
from palaver_plugins.channels.slack.events import Json
from palaver_plugins.channels.slack.home import Home
from palaver_plugins.channels.slack.installations import BotInstallations, installation_of
from palaver_plugins.channels.slack.interactions import Buttons, Commands
from palaver_plugins.channels.slack.messages import Delivery, Messages
from palaver_plugins.channels.slack.places import Places

_ANY = re.compile("")

log = logging.getLogger(__name__)


class Listeners:
    """Takes the requests of one app. ``context["bot"]`` is the bot that a request is for."""

    def __init__(
        self,
        channel: PlatformChannel,
        *,
        installations: BotInstallations,
        places: Places,
        messages: Messages,
        commands: Commands,
        buttons: Buttons,
        home: Home,
    ) -> None:
        self._channel = channel
        self._installations = installations
        self._places = places
        self._messages = messages
        self._commands = commands
        self._buttons = buttons
        self._home = home

    def register(self, app: SlackApp) -> None:
        app.event("message")(self._message)
        app.event("app_mention")(self._message)
        app.event("agent_session_stopped")(self._stopped)
        app.event("app_home_opened")(self._home_opened)
        app.event("assistant_thread_started")(self._thread_started)
        app.event("app_uninstalled")(self._uninstalled)
        app.event("tokens_revoked")(self._revoked)
        app.command(_ANY)(self._command)
        app.action(_ANY)(self._action)

    async def _message(
        self, event: Json, body: Json, context: AsyncBoltContext, request: AsyncBoltRequest
    ) -> None:
        delivery = Delivery(
            bot=context["bot"],
            app=str(body.get("api_app_id", "")),
            is_last=is_last_delivery(request),
        )
        await self._messages.on_event(event, delivery)

    async def _stopped(self, event: Json, context: AsyncBoltContext) -> None:
        source = self._places.source(
            context["bot"].team,
            event["channel"],
            user=event["user"],
            thread_ts=event.get("thread_ts") or "",
        )
        await self._channel.stop(source)

    async def _home_opened(self, event: Json, context: AsyncBoltContext) -> None:
        await self._home.opened(event, context["bot"])

    async def _thread_started(self, event: Json, context: AsyncBoltContext) -> None:
        await self._home.thread_started(event, context["bot"])

    async def _uninstalled(self, context: AsyncBoltContext) -> None:
        await self._installations.remove(installation_of(context))

    async def _revoked(self, event: Json, context: AsyncBoltContext) -> None:
        if (event.get("tokens") or {}).get("bot"):
            await self._installations.remove(installation_of(context))

    async def _command(self, body: Json, context: AsyncBoltContext, ack: AsyncAck) -> None:
        await ack(await self._commands.run(body, context["bot"]))

    async def _action(
        self, body: Json, action: Json, context: AsyncBoltContext, ack: AsyncAck
    ) -> None:
        await self._buttons.press(body, action, context["bot"])
        await ack()
