"""What a method of the Web API is: arguments, scopes, rate limit, and the function behind it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import msgspec

from palaver.testing.fakes.slack.errors import SlackError, invalid
from palaver.testing.fakes.slack.events import Events
from palaver.testing.fakes.slack.limits import TIER_3, RateLimit, RateLimits, SlackRules
from palaver.testing.fakes.slack.objects import App, Channel, Installation, Json, Message, Token
from palaver.testing.fakes.slack.payloads import Payloads
from palaver.testing.fakes.slack.world import World


class Arguments(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Arguments of a method; others are a violation. Every method takes ``team_id``, which a
    client may add to all of its calls."""

    team_id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Services:
    """What the methods work with."""

    world: World
    payloads: Payloads
    events: Events
    limits: RateLimits
    rules: SlackRules
    url: str


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call of a method, by the owner of ``token``."""

    services: Services
    token: Token
    method: str

    @property
    def world(self) -> World:
        return self.services.world

    @property
    def app(self) -> App:
        return self.world.apps[self.token.app]

    @property
    def installation(self) -> Installation:
        token = self.token
        return next(
            each
            for each in self.world.installations
            if (each.app, each.team, each.user) == (token.app, token.team, token.user)
        )

    def violate(self, text: str) -> SlackError:
        """Record a violation, and return the error to raise."""
        self.world.violate(f"{self.method}: {text}")
        return invalid(text)

    def channel(self, id: str) -> Channel:
        """Return a channel that the app can see. Raises `SlackError`."""
        channel = self.world.channels.get(id)
        if channel is None or not self._is_here(channel):
            raise SlackError("channel_not_found")
        if channel.kind != "channel" and self.token.user not in channel.members:
            raise SlackError("channel_not_found")
        return channel

    def _is_here(self, channel: Channel) -> bool:
        if self.token.team:
            return channel.team == self.token.team
        return self.world.workspaces[channel.team].enterprise == self.token.enterprise

    def open_channel(self, id: str) -> Channel:
        """Return a channel in which the app may post. Raises `SlackError`."""
        channel = self.channel(id)
        if channel.is_archived:
            raise SlackError("is_archived")
        if self.token.user not in channel.members:
            raise SlackError("not_in_channel")
        if channel.kind == "im" and not self.app.has_messages_tab:
            raise SlackError("messages_tab_disabled")
        if channel.refusal:
            raise SlackError(channel.refusal)
        return channel

    def own_message(self, channel: Channel, ts: str, error: str) -> Message:
        """Return a message that this app has posted. Raises ``error`` for those of others."""
        message = channel.messages.get(ts)
        if message is None or message.ephemeral_to:
            raise SlackError("message_not_found")
        if message.app != self.token.app:
            raise SlackError(error)
        return message


Handler = Callable[[Call, Any], Json]
"""Any: each method has its own class of arguments."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    name: str
    arguments: type[Arguments]
    handler: Handler
    scopes: tuple[str, ...] = ()
    per_minute: int = TIER_3
    token: Literal["bot", "app", "none"] = "bot"

    def limit(self, token: Token) -> RateLimit:
        key = (self.name, token.app, token.team or token.enterprise)
        return RateLimit(key, self.per_minute)

    def parse(self, raw: Json) -> Arguments:
        """Convert the arguments of a request, in which JSON may be text. Raises
        `msgspec.ValidationError`."""
        known = _json_fields(self.arguments)
        values = {name: _decode(value, name in known) for name, value in raw.items()}
        return msgspec.convert(values, self.arguments, strict=False)


@functools.cache
def _json_fields(arguments: type[Arguments]) -> frozenset[str]:
    fields = msgspec.structs.fields(arguments)
    return frozenset(field.name for field in fields if _is_json(field.type))


def _is_json(type: Any) -> bool:
    """Any: an annotation, such as ``list[Json]`` or ``Json | None``."""
    return any(get_origin(each) in (list, dict, tuple) for each in (type, *get_args(type)))


def _decode(value: object, is_json: bool) -> object:
    return msgspec.json.decode(value) if is_json and isinstance(value, str) else value
