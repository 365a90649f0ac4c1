"""Interactions: the use of a command, a button or a menu, and its answer.

An interaction is deferred within 3 seconds, before anything is done. What comes of it is told by
its token, for 15 minutes. They arrive over the gateway or as requests, see `webhook`.
"""

import asyncio
import dataclasses
import logging
from typing import Any, Literal

import discord
import msgspec
from discord.http import Route

from palaver.platforms import Source
from palaver_plugins.channels.discord.api import Api
from palaver_plugins.channels.discord.errors import (
    ALREADY_ANSWERED,
    LATE_CODES,
    UNKNOWN_WEBHOOK,
)

COMMAND, CONTROL = 2, 3
"""Types of interactions."""
DEFERRED_MESSAGE, DEFERRED_UPDATE = 5, 6
"""Types of answers."""
SUPPRESS_EMBEDS, EPHEMERAL = 1 << 2, 1 << 6
"""Flags of messages."""
EARLY_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds before another attempt, while Discord does not have the first answer."""
NO_MENTIONS: dict[str, list[str]] = {"parse": []}

Json = dict[str, Any]  # JSON values
log = logging.getLogger(__name__)


class _User(msgspec.Struct, frozen=True):
    id: str
    username: str = ""
    global_name: str | None = None
    bot: bool = False


class _Member(msgspec.Struct, frozen=True):
    user: _User
    nick: str | None = None


class _Channel(msgspec.Struct, frozen=True):
    id: str
    type: int = 0
    parent_id: str | None = None


class _Option(msgspec.Struct, frozen=True):
    value: str | int | float | bool | None = None


class _Data(msgspec.Struct, frozen=True):
    name: str = ""
    options: list[_Option] = []
    custom_id: str = ""
    values: list[str] = []


class _Message(msgspec.Struct, frozen=True):
    components: list[Json] = []


class Payload(msgspec.Struct, frozen=True):
    """An interaction as Discord sends it, as far as it is used here."""

    type: int
    id: str = ""
    application_id: str = ""
    token: str = ""
    guild_id: str | None = None
    channel: _Channel | None = None
    member: _Member | None = None
    user: _User | None = None
    data: _Data = _Data()
    message: _Message = _Message()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """The use of a command, or of a button or menu below a message with ``components``.

    ``parent`` is the channel of a thread. ``text`` is the command's text.
    """

    id: int
    kind: Literal["command", "control"]
    application: int
    token: str
    guild: int | None
    channel: int
    parent: int | None
    user: int
    user_name: str
    is_bot: bool
    command: str = ""
    text: str = ""
    custom_id: str = ""
    values: tuple[str, ...] = ()
    components: tuple[Json, ...] = ()


def read_interaction(interaction: discord.Interaction) -> Interaction | None:
    """Return an interaction of the gateway; None for one that is not used here."""
    message = interaction.message
    user, channel = interaction.user, interaction.channel
    if channel is None:
        return None
    parent = channel.parent_id if isinstance(channel, discord.Thread) else None
    payload = Payload(
        type=interaction.type.value,
        id=str(interaction.id),
        application_id=str(interaction.application_id),
        token=interaction.token,
        guild_id=str(interaction.guild_id) if interaction.guild_id else None,
        channel=_Channel(
            id=str(channel.id),
            parent_id=str(parent) if parent else None,
            type=channel.type.value,
        ),
        user=_User(id=str(user.id), global_name=user.display_name, bot=user.bot),
        data=msgspec.convert(interaction.data or {}, _Data),
        message=_Message([dict(row.to_dict()) for row in message.components] if message else []),
    )
    return read_payload(payload)


def read_payload(payload: Payload) -> Interaction | None:
    """Return an interaction; None for one that is not used here. Raises `ValueError`."""
    user = payload.member.user if payload.member else payload.user
    if payload.type not in (COMMAND, CONTROL) or payload.channel is None or user is None:
        return None
    nick = payload.member.nick if payload.member else None
    text = payload.data.options[0].value if payload.data.options else None
    return Interaction(
        id=int(payload.id),
        kind="command" if payload.type == COMMAND else "control",
        application=int(payload.application_id),
        token=payload.token,
        guild=int(payload.guild_id) if payload.guild_id else None,
        channel=int(payload.channel.id),
        parent=_parent(payload.channel),
        user=int(user.id),
        user_name=nick or user.global_name or user.username,
        is_bot=user.bot,
        command=payload.data.name,
        text="" if text is None else str(text),
        custom_id=payload.data.custom_id,
        values=tuple(payload.data.values),
        components=tuple(payload.message.components),
    )


def _parent(channel: _Channel) -> int | None:
    """Return the channel of a thread; other channels have a category as their parent."""
    is_thread = channel.type in (10, 11, 12)
    return int(channel.parent_id) if is_thread and channel.parent_id else None


class InteractionAnswer:
    """What people see of an interaction. A command first shows that the bot is thinking:
    ``is_private`` to the person alone, else to everybody."""

    def __init__(self, api: Api, interaction: Interaction, *, is_private: bool) -> None:
        self._api = api
        self._interaction = interaction
        self.is_private = is_private
        self.is_thinking = interaction.kind == "command"

    @property
    def deferral(self) -> Json:
        """Return the first answer."""
        if not self.is_thinking:
            return {"type": DEFERRED_UPDATE}
        flags: Json = {"data": {"flags": EPHEMERAL}} if self.is_private else {}
        return {"type": DEFERRED_MESSAGE, **flags}

    async def defer(self) -> None:
        """Send the first answer to an interaction of the gateway. Another server may have done it,
        and Discord may have given up waiting."""
        each = self._interaction
        route = Route(
            "POST",
            "/interactions/{webhook_id}/{webhook_token}/callback",
            webhook_id=each.id,
            webhook_token=each.token,
        )
        async with self._api.call() as client:
            try:
                await client.http.request(route, json=self.deferral)
            except discord.HTTPException as error:
                if error.code != ALREADY_ANSWERED and error.code not in LATE_CODES:
                    raise
                log.info("an interaction was answered too late, or by another server")

    async def show(self, text: str) -> None:
        """Show a text in place of "is thinking"; in the channel where the token has ended. It is in
        Discord's Markdown."""
        self.is_thinking = False
        body = {"content": text, "flags": SUPPRESS_EMBEDS, "allowed_mentions": NO_MENTIONS}
        if not await self._call("PATCH", "/messages/@original", body):
            async with self._api.call() as client:
                channel = client.get_partial_messageable(self._interaction.channel)
                await channel.send(text, suppress_embeds=True, silent=True)

    async def tell(self, text: str) -> None:
        """Tell the person what comes of it: in place of "is thinking", or to them alone."""
        if self.is_thinking:
            await self.show(text)
            return
        flags = SUPPRESS_EMBEDS | EPHEMERAL
        body = {"content": text, "flags": flags, "allowed_mentions": NO_MENTIONS}
        await self._call("POST", "", body)

    async def show_choice(self) -> None:
        """Disable the controls of the message, and mark the one that was used."""
        each = self._interaction
        components = mark_choice(each.components, each.custom_id, each.values)
        await self._call("PATCH", "/messages/@original", {"components": components})

    async def _call(self, method: str, path: str, body: Json) -> bool:
        """Make a call with the token. Return False when it has ended, or its message is deleted.
        The first answer may still be on its way to Discord, as the response to a request."""
        each = self._interaction
        route = Route(
            method,
            "/webhooks/{webhook_id}/{webhook_token}" + path,
            webhook_id=each.application,
            webhook_token=each.token,
        )
        for pause in (*EARLY_PAUSES, None):
            async with self._api.call() as client:
                try:
                    await client.http.request(route, json=body)
                    return True
                except discord.HTTPException as error:
                    if error.code == UNKNOWN_WEBHOOK and pause is not None:
                        await asyncio.sleep(pause)
                    elif error.code in LATE_CODES or error.status == 404:
                        return False
                    else:
                        raise
        return False


def mark_choice(rows: tuple[Json, ...], custom_id: str, values: tuple[str, ...]) -> list[Json]:
    """Return the rows of a message's controls, disabled, with what was chosen marked."""
    return [
        {**row, "components": [_disabled(each, custom_id, values) for each in row["components"]]}
        for row in rows
        if "components" in row
    ]


def _disabled(component: Json, custom_id: str, values: tuple[str, ...]) -> Json:
    disabled = {**component, "disabled": True}
    if "options" in component:
        disabled["options"] = [
            {**option, "default": option.get("value") in values} for option in component["options"]
        ]
    elif component.get("custom_id") == custom_id:
        disabled["style"] = discord.ButtonStyle.primary.value
    return disabled


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InteractionSource(Source):
    """Source of an interaction: what is told to the person goes to ``answer``."""

    answer: InteractionAnswer = dataclasses.field(compare=False)
