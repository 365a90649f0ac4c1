"""Methods ``reactions.*``."""

import re

from palaver.testing.fakes.slack.errors import SlackError
from palaver.testing.fakes.slack.limits import TIER_2, TIER_3
from palaver.testing.fakes.slack.methods import Arguments, Call, Method
from palaver.testing.fakes.slack.objects import Json, Message

_NAME = re.compile(r"[a-z0-9_+'-]{1,100}(?:::skin-tone-[2-6])?")
MAX_REACTIONS = 23
"""Kinds of reactions on a message."""


class Reaction(Arguments, kw_only=True):
    channel: str
    timestamp: str
    name: str


class GetReactions(Arguments, kw_only=True):
    channel: str
    timestamp: str
    full: bool = False


def _message(call: Call, channel: str, ts: str) -> Message:
    message = call.channel(channel).messages.get(ts)
    if message is None or message.ephemeral_to:
        raise SlackError("message_not_found")
    return message


def check_name(name: str) -> None:
    """Raise `SlackError` for what is no name of an emoji, such as the emoji itself."""
    if not _NAME.fullmatch(name):
        raise SlackError("invalid_name")


def add(call: Call, arguments: Reaction) -> Json:
    check_name(arguments.name)
    message = _message(call, arguments.channel, arguments.timestamp)
    users = message.reactions.get(arguments.name, [])
    if call.token.user in users:
        raise SlackError("already_reacted")
    if not users and len(message.reactions) >= MAX_REACTIONS:
        raise SlackError("too_many_emoji")
    message.reactions[arguments.name] = [*users, call.token.user]
    call.services.events.react("reaction_added", message, call.token.user, arguments.name)
    return {}


def remove(call: Call, arguments: Reaction) -> Json:
    message = _message(call, arguments.channel, arguments.timestamp)
    if call.token.user not in message.reactions.get(arguments.name, ()):
        raise SlackError("no_reaction")
    message.remove_reaction(arguments.name, call.token.user)
    call.services.events.react("reaction_removed", message, call.token.user, arguments.name)
    return {}


def get(call: Call, arguments: GetReactions) -> Json:
    message = _message(call, arguments.channel, arguments.timestamp)
    payload = call.services.payloads.message(message)
    return {"type": "message", "channel": arguments.channel, "message": payload}


METHODS = (
    Method(
        name="reactions.add",
        arguments=Reaction,
        handler=add,
        scopes=("reactions:write",),
        per_minute=TIER_3,
    ),
    Method(
        name="reactions.remove",
        arguments=Reaction,
        handler=remove,
        scopes=("reactions:write",),
        per_minute=TIER_2,
    ),
    Method(
        name="reactions.get",
        arguments=GetReactions,
        handler=get,
        scopes=("reactions:read",),
        per_minute=TIER_3,
    ),
)
