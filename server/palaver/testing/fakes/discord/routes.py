"""The routes of a fake Discord: messages, channels, threads, and what a bot reads at its start."""

import math
import urllib.parse
from typing import Any

from palaver.testing.fakes.discord.errors import Refusal
from palaver.testing.fakes.discord.forms import (
    CreateMessage,
    EditChannel,
    EditMessage,
    OpenDirect,
    StartThread,
)
from palaver.testing.fakes.discord.gateway import Gateway
from palaver.testing.fakes.discord.messages import Messages
from palaver.testing.fakes.discord.objects import JSON, DiscordChannel, DiscordMessage
from palaver.testing.fakes.discord.payloads import OWNER, channel_payload, user_payload
from palaver.testing.fakes.discord.requests import Call
from palaver.testing.fakes.discord.rest import Answer, Route
from palaver.testing.fakes.discord.sessions import application_flags
from palaver.testing.fakes.discord.state import DiscordState, may_post

MESSAGES = "/channels/{channel_id}/messages"
MESSAGE = MESSAGES + "/{message_id}"
REACTION = MESSAGE + "/reactions/{emoji}/@me"
HISTORY_QUERY = frozenset({"limit", "after", "before", "around"})
WRITES = "writes"
"""The bucket that creating and editing messages share."""


class Routes:
    """Answers what a bot asks and does by HTTP, apart from interactions."""

    def __init__(self, state: DiscordState, messages: Messages, gateway: Gateway) -> None:
        self._state = state
        self._messages = messages
        self._gateway = gateway

    def all(self) -> list[Route]:
        return [
            Route(method="POST", path=MESSAGES, handler=self.create, bucket=WRITES),
            Route(method="PATCH", path=MESSAGE, handler=self.edit, bucket=WRITES),
            Route(method="DELETE", path=MESSAGE, handler=self.delete),
            Route(method="GET", path=MESSAGE, handler=self.read),
            Route(method="GET", path=MESSAGES, handler=self.history, query=HISTORY_QUERY),
            Route(method="POST", path="/channels/{channel_id}/typing", handler=self.show_typing),
            Route(method="PUT", path=REACTION, handler=self.react),
            Route(method="DELETE", path=REACTION, handler=self.unreact),
            Route(method="GET", path="/channels/{channel_id}", handler=self.channel),
            Route(method="PATCH", path="/channels/{channel_id}", handler=self.edit_channel),
            Route(method="POST", path=MESSAGE + "/threads", handler=self.start_thread),
            Route(method="POST", path="/channels/{channel_id}/threads", handler=self.start_thread),
            Route(
                method="PUT",
                path="/channels/{channel_id}/thread-members/@me",
                handler=self.join_thread,
            ),
            Route(method="GET", path="/guilds/{guild_id}/threads/active", handler=self.threads),
            Route(method="POST", path="/users/@me/channels", handler=self.open_direct),
            Route(method="GET", path="/users/@me", handler=self.me),
            Route(method="GET", path="/users/{user_id}", handler=self.user),
            Route(method="GET", path="/oauth2/applications/@me", handler=self.application),
            Route(method="GET", path="/applications/@me", handler=self.application),
            Route(method="GET", path="/gateway", handler=self.gateway, needs_token=False),
            Route(method="GET", path="/gateway/bot", handler=self.gateway_bot),
        ]

    # Messages

    def _channel(self, call: Call) -> DiscordChannel:
        return self._state.find_channel(call.id("channel_id"))

    def _message(self, call: Call) -> DiscordMessage:
        return self._state.find_message(self._channel(call), call.id("message_id"))

    def create(self, call: Call) -> JSON:
        form = call.form(CreateMessage)
        message = self._messages.create(self._channel(call), form, call.request.files)
        return self._state.rest_payload(message, has_nonce=True)

    def edit(self, call: Call) -> JSON:
        message = self._message(call)
        form = call.form(EditMessage)
        self._messages.edit(message, form, call.request.files)
        return self._state.rest_payload(message)

    def delete(self, call: Call) -> None:
        message = self._message(call)
        if message.author is not self._state.bot and message.channel.is_direct:
            raise Refusal(50003)
        self._messages.delete(message)

    def read(self, call: Call) -> JSON:
        return self._state.rest_payload(self._message(call))

    def history(self, call: Call) -> list[JSON]:
        channel = self._channel(call)
        limit = call.number("limit", 50)
        if not 1 <= limit <= 100 or len(call.request.query.keys() - {"limit"}) > 1:
            raise Refusal(50035)
        messages = self._messages.history(
            channel,
            limit=limit,
            after=call.number("after", 0),
            before=call.number("before", 0) or math.inf,
            around=call.number("around", 0),
        )
        return [self._state.rest_payload(message) for message in messages]

    def show_typing(self, call: Call) -> None:
        channel = self._channel(call)
        self._messages.check_may_post(channel)
        channel.typing_until = self._state.clock.now() + self._state.limits.typing_seconds

    def react(self, call: Call) -> None:
        message = self._message(call)
        users = message.reactions.setdefault(urllib.parse.unquote(call.ids["emoji"]), [])
        if self._state.bot not in users:
            users.append(self._state.bot)

    def unreact(self, call: Call) -> None:
        message, emoji = self._message(call), urllib.parse.unquote(call.ids["emoji"])
        users = message.reactions.get(emoji, [])
        if self._state.bot not in users:
            raise Refusal(10014)
        users.remove(self._state.bot)
        if not users:
            del message.reactions[emoji]

    # Channels and threads

    def channel(self, call: Call) -> JSON:
        return channel_payload(self._channel(call))

    def edit_channel(self, call: Call) -> JSON:
        channel = self._channel(call)
        form = call.form(EditChannel)
        if not channel.is_thread:
            raise Refusal(50024)
        self._state.edit_thread(channel, form)
        return channel_payload(channel)

    def start_thread(self, call: Call) -> Answer:
        channel = self._channel(call)
        form = call.form(StartThread)
        if channel.is_direct or channel.is_thread:
            raise Refusal(50024)
        if not may_post(channel):
            raise Refusal(50013)
        starter = self._message(call) if "message_id" in call.ids else None
        thread = self._state.start_thread(channel, self._state.bot, form, starter)
        return Answer(201, channel_payload(thread))

    def join_thread(self, call: Call) -> None:
        if not self._channel(call).is_thread:
            raise Refusal(50024)

    def threads(self, call: Call) -> JSON:
        guild_id = call.id("guild_id")
        if guild_id not in self._state.guilds:
            raise Refusal(10004)
        threads = [
            channel_payload(channel)
            for channel in self._state.visible_channels(guild_id)
            if channel.is_thread and not channel.is_archived
        ]
        return {"threads": threads, "members": []}

    def open_direct(self, call: Call) -> JSON:
        user = self._state.users.get(call.form(OpenDirect).recipient_id)
        if user is None:
            raise Refusal(10013)
        if user.is_bot:
            raise Refusal(50007)
        return channel_payload(self._state.open_direct(user))

    # The bot and its gateway

    def me(self, call: Call) -> JSON:
        return user_payload(self._state.bot) | {"verified": True, "mfa_enabled": True}

    def user(self, call: Call) -> JSON:
        user = self._state.users.get(call.id("user_id"))
        if user is None:
            raise Refusal(10013)
        return user_payload(user)

    def application(self, call: Call) -> JSON:
        application = self._state.application
        owner: dict[str, Any] = {"id": str(OWNER), "username": "owner", "discriminator": "0"}
        return {
            "id": str(application.id),
            "name": application.name,
            "icon": None,
            "description": "",
            "bot_public": True,
            "bot_require_code_grant": False,
            "owner": owner | {"avatar": None, "global_name": "Owner"},
            "team": None,
            "verify_key": application.public_key,
            "flags": application_flags(application),
            "interactions_endpoint_url": application.interactions_url or None,
        }

    def gateway(self, call: Call) -> JSON:
        return {"url": self._state.gateway_url}

    def gateway_bot(self, call: Call) -> JSON:
        return self._gateway.bot_information(self._state.gateway_url)
