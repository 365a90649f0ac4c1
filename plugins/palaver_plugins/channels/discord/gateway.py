"""Gateway: the bot's connections to Discord, over which messages and interactions arrive."""

import asyncio

import discord

from palaver import RecordStore
from palaver.platforms import Unreachable
from palaver_plugins.channels.discord.api import Api, use_gateway
from palaver_plugins.channels.discord.catch_up import DirectChannels
from palaver_plugins.channels.discord.connection import check_intents
from palaver_plugins.channels.discord.queues import Queues
from palaver_plugins.channels.discord.settings import API_URL, DiscordSettings
from palaver_plugins.channels.discord.shard import GatewayTimes, Receiver, Shard, ShardParts

FEW_STARTS = 5
"""Sessions that are left for the day, below which none is begun: after the last one Discord would
reset the token."""


class Gateway:
    """The connections of all shards, of which this server has those whose leases it owns."""

    def __init__(
        self,
        settings: DiscordSettings,
        api: Api,
        records: RecordStore,
        *,
        receiver: Receiver,
        queues: Queues,
        directs: DirectChannels,
        times: GatewayTimes,
    ) -> None:
        self._settings = settings
        self._api = api
        self._parts = ShardParts(
            settings=settings,
            records=records,
            receiver=receiver,
            queues=queues,
            directs=directs,
            times=times,
            before_start=self._before_start,
        )
        self._shards: dict[tuple[int, int], Shard] = {}
        self._starts = asyncio.Lock()
        self._next_start = 0.0

    async def run(self) -> None:
        """Receive until a connection ends. Raises `ConfigurationError`, and what the library
        raises."""
        client = await self._api.client()
        check_intents(client, self._settings)
        count = self._settings.shards
        if count == "auto":
            count, _, _ = await client.http.get_bot_gateway()
        shards = [self._shard(number, count) for number in range(count)]
        tasks = [asyncio.create_task(shard.run()) for shard in shards]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _shard(self, number: int, count: int) -> Shard:
        """Return a shard: it remembers what it has missed since its last connection."""
        shard = self._shards.get((number, count)) or Shard(self._parts, number, count)
        self._shards[number, count] = shard
        return shard

    async def _before_start(self, client: discord.Client) -> None:
        """Wait until a session may begin: one at a time. Raises `Unreachable` after too many in a
        day."""
        async with self._starts:
            loop = asyncio.get_running_loop()
            await asyncio.sleep(self._next_start - loop.time())
            _, url, limit = await client.http.get_bot_gateway()
            if self._settings.api_url != API_URL:
                use_gateway(url)
            if limit["remaining"] <= FEW_STARTS:
                minutes = limit["reset_after"] / 60_000
                raise Unreachable(
                    f"the bot has begun {limit['total'] - limit['remaining']} sessions today, and "
                    f"Discord allows no more for {minutes:.0f} minutes"
                )
            self._next_start = loop.time() + self._parts.times.start_interval
