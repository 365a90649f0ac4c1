"""What people do by commands, buttons and menus."""

import dataclasses
from functools import partial

from palaver import PalaverError, TooMany
from palaver.platforms import IncomingMessage, PlatformChannel, Source, parse_button
from palaver_plugins.channels.discord.api import Api
from palaver_plugins.channels.discord.commands import STOP, Commands
from palaver_plugins.channels.discord.controls import data_of, shortened
from palaver_plugins.channels.discord.interactions import (
    Interaction,
    InteractionAnswer,
    InteractionSource,
)
from palaver_plugins.channels.discord.markdown import DiscordDialect
from palaver_plugins.channels.discord.places import COMMAND, Place, order_of, person_of
from palaver_plugins.channels.discord.queues import Handle, Queues
from palaver_plugins.channels.discord.settings import DiscordSettings

MAX_SHOWN = 900
"""Characters of a command's text that are shown; escaped, they fit into a message."""
UNKNOWN_COMMAND = "This command no longer exists."
UNKNOWN_CONTROL = "This button no longer works."
REFUSED = "I do not answer here."
BUSY = "The server is busy. Please try again in a moment."
STOPPED, NOT_RUNNING = "Stopped.", "There is no reply to stop."
THANKS = "Thank you for your feedback."


class InteractionHandler:
    """Does what a person has asked for, and tells them what came of it."""

    def __init__(
        self,
        channel: PlatformChannel,
        api: Api,
        settings: DiscordSettings,
        queues: Queues,
        commands: Commands,
    ) -> None:
        self._channel = channel
        self._api = api
        self._settings = settings
        self._queues = queues
        self._commands = commands

    async def begin(self, interaction: Interaction) -> InteractionAnswer:
        """Return the answer to an interaction, to be deferred before anything is done."""
        source = self._source(interaction)
        is_known = interaction.command == STOP or self._commands.skill(interaction.command)
        is_private = (
            interaction.command == STOP
            or not is_known
            or not (source.is_direct or await self._channel.is_allowed(source))
        )
        return InteractionAnswer(self._api, interaction, is_private=is_private)

    async def handle(self, interaction: Interaction, answer: InteractionAnswer) -> None:
        """Do what was asked for."""
        source = InteractionSource(**dataclasses.asdict(self._source(interaction)), answer=answer)
        try:
            if interaction.kind == "control":
                await self._press(interaction, source)
            elif interaction.command == STOP:
                await self._stop(source)
            else:
                await self._ask(interaction, source)
        except PalaverError as error:
            await answer.tell(error.public)

    def _source(self, interaction: Interaction) -> Source:
        guild = interaction.guild
        return Source(
            tenant=self._settings.tenant_of(guild),
            thread=str(Place(guild, interaction.channel)),
            person=person_of(interaction.user),
            user=str(interaction.user),
            room=str(interaction.parent or interaction.channel),
            is_direct=guild is None,
            is_bot=interaction.is_bot,
        )

    # Commands

    async def _stop(self, source: InteractionSource) -> None:
        state = await self._channel.stop(source)
        await source.answer.tell(NOT_RUNNING if state == "unknown" else STOPPED)

    async def _ask(self, interaction: Interaction, source: InteractionSource) -> None:
        skill = self._commands.skill(interaction.command)
        if skill is None:
            await source.answer.tell(UNKNOWN_COMMAND)
            return
        message = IncomingMessage(
            source=source,
            id=f"{COMMAND}{interaction.id}",
            text=interaction.text,
            skill=skill,
            order=order_of(interaction.id),
        )
        shown = f"**{_escape(interaction.user_name)}:** {_escape(interaction.text)}"
        await self._queue(interaction, source, partial(self._receive, message, source, shown))

    async def _receive(
        self, message: IncomingMessage, source: InteractionSource, shown: str
    ) -> None:
        receipt = await self._channel.receive(message)
        if receipt is not None:
            await source.answer.show(shown)
        elif source.answer.is_thinking:
            await source.answer.tell(REFUSED)

    # Controls

    async def _press(self, interaction: Interaction, source: InteractionSource) -> None:
        pressed = parse_button(data_of(interaction.custom_id, interaction.values))
        if pressed is None:
            await source.answer.tell(UNKNOWN_CONTROL)
            return
        action, turn, number = pressed
        if action == "option":
            handle = partial(self._choose, source, turn, number)
            await self._queue(interaction, source, handle)
        elif action == "stop":
            if await self._channel.stop(source, turn) == "unknown":
                await source.answer.tell(NOT_RUNNING)
        elif await self._channel.rate(source, turn, action):
            await source.answer.tell(THANKS)

    async def _choose(self, source: InteractionSource, turn: str, number: int) -> None:
        if await self._channel.choose(source, turn, number) is not None:
            await source.answer.show_choice()

    async def _queue(
        self, interaction: Interaction, source: InteractionSource, handle: Handle
    ) -> None:
        async def refuse(error: TooMany) -> None:
            await source.answer.tell(error.public)

        place = str(Place(interaction.guild, interaction.channel))
        if not self._queues.put(place, interaction.id, handle, refuse):
            await source.answer.tell(BUSY)


def _escape(text: str) -> str:
    """Return text as it is shown, in one line and not too long."""
    return DiscordDialect().text(shortened(text, MAX_SHOWN))
