"""DiscordChannel: what people do on Discord, and the bot's connections."""

import asyncio
import contextlib
import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import discord
from aiohttp import web

from palaver import (
    Conversation,
    ConversationService,
    TooMany,
    describe_error,
    public,
)
from palaver.platforms import PlatformChannel, PostingError
from palaver_plugins.channels.discord.api import CONNECTION_ERRORS, Api
from palaver_plugins.channels.discord.catch_up import DirectChannels
from palaver_plugins.channels.discord.checks import find_problems
from palaver_plugins.channels.discord.commands import Commands
from palaver_plugins.channels.discord.gateway import Gateway
from palaver_plugins.channels.discord.interaction_handler import InteractionHandler
from palaver_plugins.channels.discord.interactions import Interaction, read_interaction
from palaver_plugins.channels.discord.messages import MessageReader, is_first, place_of
from palaver_plugins.channels.discord.places import NAME, Place
from palaver_plugins.channels.discord.platform import DiscordPlatform
from palaver_plugins.channels.discord.queues import MAX_QUEUED, PAUSES, Queues
from palaver_plugins.channels.discord.settings import DiscordSettings
from palaver_plugins.channels.discord.shard import GatewayTimes
from palaver_plugins.channels.discord.webhook import PATH, InteractionsEndpoint

MAX_RECENT = 10_000
"""Messages that are recognized when they are delivered twice."""
BROKEN = "the connection to Discord is broken, and is opened again"
NO_TEXT = "You have mentioned me. Write what you want to know beside it."

log = logging.getLogger(__name__)


class DiscordChannel(PlatformChannel):
    """Implements `Receiver`: gets what happens from the connections, and queues it."""

    name = NAME
    start_delay = 0.0  # the connection delivers in order, and `Queues` keeps it
    gateway_times: ClassVar = GatewayTimes()
    queue_pauses: ClassVar[tuple[float, ...]] = PAUSES
    max_queued: ClassVar[int] = MAX_QUEUED

    def __init__(self, settings: DiscordSettings) -> None:
        self._discord_settings = settings
        self._api = Api(settings)
        super().__init__(settings, DiscordPlatform(self._api))
        self._reader = MessageReader(self._api, settings)
        self._queues = Queues(self.queue_pauses, self.max_queued)
        self._commands = Commands({})
        self._directs: DirectChannels
        self._interactions: InteractionHandler
        self._gateway: Gateway
        self._broken: set[int] = set()
        """The shards whose connection is broken."""
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._endpoint = None
        if settings.interactions == "webhook":
            self._endpoint = InteractionsEndpoint(
                settings.public_key,
                lambda interaction: self._interactions.begin(interaction),
                lambda *deferred: self._spawn(self._interactions.handle(*deferred)),
            )

    async def start(self, service: ConversationService) -> None:
        self._directs = DirectChannels(service.records)
        self._commands = Commands(service.skills())
        self._interactions = InteractionHandler(
            self, self._api, self._discord_settings, self._queues, self._commands
        )
        self._gateway = Gateway(
            self._discord_settings,
            self._api,
            service.records,
            receiver=self,
            queues=self._queues,
            directs=self._directs,
            times=self.gateway_times,
        )
        await super().start(service)

    async def connect(self) -> None:
        client = await self._api.client()
        self._spawn(self._register_commands(client))
        await self._gateway.run()

    async def close(self) -> None:
        await super().close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._queues.close()
        await self._api.close()

    async def check(self) -> Sequence[str]:
        return await find_problems(self._discord_settings)

    def routes(self) -> Iterable[web.RouteDef]:
        return () if self._endpoint is None else (web.post(PATH, self._respond),)

    @public
    async def _respond(self, request: web.Request) -> web.StreamResponse:
        assert self._endpoint is not None
        return await self._endpoint.respond(request)

    async def _register_commands(self, client: discord.Client) -> None:
        try:
            await self._commands.register(client)
        except CONNECTION_ERRORS as error:
            log.warning("the slash commands are not registered: %s", describe_error(error))

    def on_connection(self, shard: int, *, is_open: bool) -> None:
        (self._broken.discard if is_open else self._broken.add)(shard)
        self.problem = BROKEN if self._broken else ""

    # Messages

    def on_message(self, message: discord.Message, me: discord.ClientUser) -> bool:
        if message.id in self._recent or not self._reader.is_for_bot(message, me):
            return True
        handle = partial(self._receive_message, message, me)
        if not self._queues.put(str(place_of(message)), message.id, handle, self._refuse(message)):
            return False
        self._recent[message.id] = None
        while len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        return True

    async def _receive_message(self, message: discord.Message, me: discord.ClientUser) -> None:
        source = await self._reader.source(message)
        if not await self.is_allowed(source, asks=True):
            return
        if source.is_direct:
            await self._directs.note(message.channel.id, message.id)
        latest = await self.service.latest(source.conversation(NAME))
        incoming = await self._reader.read(message, me, source, is_new=latest.offset == 0)
        if incoming is None:
            await self.notify(source, NO_TEXT)
            return
        if self._reader.wants_thread(message) and await self._reader.open_thread(message, me):
            place = Place(guild=place_of(message).guild, channel=message.id)
            source = dataclasses.replace(source, thread=str(place))
            incoming = dataclasses.replace(incoming, source=source)
        await self.receive(incoming)

    def on_edit(self, message: discord.Message, me: discord.ClientUser) -> None:
        """Change a message that waits, here or in the ledger. The preview of a link is no edit."""
        if message.edited_at is None or not self._reader.is_for_bot(message, me):
            return
        key = str(place_of(message))
        self._queues.replace(key, message.id, partial(self._receive_message, message, me))
        self._queues.put_change(key, message.id, partial(self._edit_message, message, me))

    async def _edit_message(self, message: discord.Message, me: discord.ClientUser) -> None:
        source = await self._reader.source(message)
        for thread in self._reader.threads_of(place_of(message), message.id):
            source = dataclasses.replace(source, thread=thread)
            conversation = source.conversation(NAME)
            is_new = is_first(await self.service.snapshot(conversation), str(message.id))
            incoming = await self._reader.read(message, me, source, is_new=is_new)
            if incoming is None:
                await self.withdraw(conversation, str(message.id))
            else:
                await self.edit(source, incoming.id, incoming.text)

    def on_delete(self, guild: int | None, channel: int, messages: Sequence[int]) -> None:
        place = Place(guild, channel)
        for message in messages:
            self._queues.remove(str(place), message)
            self._queues.put_change(
                str(place), message, partial(self._withdraw_message, place, message)
            )

    async def _withdraw_message(self, place: Place, message: int) -> None:
        tenant = self._discord_settings.tenant_of(place.guild)
        for thread in self._reader.threads_of(place, message):
            await self.withdraw(Conversation(tenant, NAME, thread), str(message))

    def _refuse(self, message: discord.Message) -> Callable[[TooMany], Awaitable[None]]:
        async def refuse(error: TooMany) -> None:
            await self.refuse(await self._reader.source(message), error)

        return refuse

    # Interactions

    def on_interaction(self, interaction: discord.Interaction) -> None:
        found = read_interaction(interaction)
        if found is not None:
            self._spawn(self._defer(found))

    async def _defer(self, interaction: Interaction) -> None:
        answer = await self._interactions.begin(interaction)
        with contextlib.suppress(PostingError):  # the person sees a failure, and what comes of it
            await answer.defer()
        await self._interactions.handle(interaction, answer)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001  the barrier of an interaction
            log.error("an interaction failed: %s", describe_error(error))
