"""Three servers with the Discord channel, on one ledger in this process, which a proof kills."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator
from typing import ClassVar

from tests.chaos.processes import KillableLedger, SimulatedProcess
from tests.plugins.channels.discord.support import restored_addresses, settings_for
from tests.proofs.visible_replies import ReferenceSkill

from palaver import LedgerUnavailable
from palaver.config.settings import DispatchSettings, RoutingSettings, ServerSettings, Settings
from palaver.ledger import Ledger
from palaver.platforms import ConnectionTimes, Times
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine
from palaver.testing.fakes.discord import FakeDiscord
from palaver_plugins.channels.discord.channel import DiscordChannel
from palaver_plugins.channels.discord.platform import DiscordPlatform
from palaver_plugins.channels.discord.settings import DiscordSettings
from palaver_plugins.channels.discord.shard import GatewayTimes

REPLICA_COUNT = 3
LEASE_SECONDS = 1.0
"""Of turns, outboxes and the gateway's connection."""
HEARTBEAT_SECONDS = 5.0
SHARDS_OF = (1, 1, 2)
"""The shards that the replicas divide Discord into. The last one differs, as while the setting is
changed: some messages arrive in two replicas."""


class ProofChannel(DiscordChannel):
    """The channel with short intervals. Mutants are derived from it."""

    times = Times(
        lease=LEASE_SECONDS,
        poll=0.05,
        progress=0.5,
        retries=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
        retry_later=0.5,
    )
    gateway_times: ClassVar = GatewayTimes(
        lease=LEASE_SECONDS, start_interval=0.0, guilds=0.02, mark=0.02, silence=1.0
    )
    connection_times = ConnectionTimes(pauses=(0.05,))
    queue_pauses = (0.02,) * 5
    platform_class = DiscordPlatform

    def __init__(self, settings: DiscordSettings) -> None:
        super().__init__(settings)
        self.platform = self.platform_class(self._api)
        self.platform.edit_interval = 0.05


class ReplicaLedger(KillableLedger):
    """The ledger as a replica of the proof has it: calls are slow now and then, and none gets
    through while it ``is_away``. Mutants are derived from it."""

    slow_share = 0.1
    slow_seconds = 0.2

    def __init__(self, ledger: Ledger, process: SimulatedProcess, rng: random.Random) -> None:
        super().__init__(ledger, process, self._delay)
        self._rng = rng
        self.is_away = False

    async def _delay(self, name: str) -> None:
        if self._rng.random() < self.slow_share:
            await asyncio.sleep(self._rng.uniform(0, self.slow_seconds))
        if self.is_away and name != "wait_for_work":
            await asyncio.sleep(self.slow_seconds)
            raise LedgerUnavailable("by the proof")


class Replica:
    """A server in a process of its own."""

    def __init__(self, server: Server, ledger: ReplicaLedger, process: SimulatedProcess) -> None:
        self.ledger = ledger
        self.process = process
        self.task = process.run(_serve(server))


async def _serve(server: Server) -> None:
    async with server:
        await asyncio.Event().wait()


class Replicas:
    """Servers on one ledger, each of which is replaced when it has died."""

    def __init__(
        self,
        fake: FakeDiscord,
        rng: random.Random,
        channel: type[ProofChannel],
        ledger: type[ReplicaLedger],
    ) -> None:
        self.fake = fake
        self.rng = rng
        self._clock_offset = 0.0
        self.ledger = MemoryLedger(clock=self._now, monotonic=self._now)
        self.answered: set[str] = set()
        """The messages that the skill has answered."""
        self.kill_count = 0
        self.running: dict[int, Replica] = {}
        self._channel = channel
        self._ledger_class = ledger

    def _now(self) -> float:
        return time.time() + self._clock_offset

    async def keep_running(self, number: int) -> None:
        """Run replica ``number``, and start it again whenever it has died."""
        while True:
            self.running[number] = replica = self._start(SHARDS_OF[number])
            try:
                await replica.process.wait_dead()
            finally:
                replica.process.kill()
            self.kill_count += 1
            await asyncio.sleep(self.rng.uniform(0, 0.3))

    def _start(self, shards: int) -> Replica:
        process = SimulatedProcess()
        ledger = self._ledger_class(self.ledger, process, self.rng)
        settings = settings_for(self.fake, direct_messages="open", shards=shards)
        server = Server(
            SETTINGS,
            ledger=ledger,
            engine=ScriptedEngine(),
            knowledge=ListKnowledge(),
            skills={"reference": ReferenceSkill(self.answered)},
            channels={"discord": self._channel(settings)},
        )
        return Replica(server, ledger, process)

    @property
    def random(self) -> Replica:
        return self.running[self.rng.choice(sorted(self.running))]

    # Faults

    async def kill_soon(self) -> None:
        """Let a replica die of one of its next calls, or of one of Discord's next answers."""
        process = self.random.process
        if self.rng.random() < 0.5:
            process.die_of_call(self.rng.randint(1, 40))
        else:
            process.die_of_answer(self.rng.randint(1, 4))

    async def expire_leases(self) -> None:
        """Let every lease end, while its owner believes to have it."""
        self._clock_offset += 61.0

    async def cut_from_ledger(self) -> None:
        """Let a replica not reach the ledger for a while."""
        ledger = self.random.ledger
        ledger.is_away = True
        await asyncio.sleep(self.rng.uniform(0.5, 3.0) * LEASE_SECONDS)
        ledger.is_away = False

    async def is_settled(self, message_count: int) -> bool:
        """Return whether so many messages are answered, and nothing is left to post."""
        if len(self.answered) < message_count:
            return False
        depth = await self.ledger.queue_depth()
        if depth.queued or depth.running:
            return False
        records = await self.ledger.list_records("discord", "outbox:")
        return all(record.due_at is None for record in records)


SETTINGS = Settings(
    server=ServerSettings(port=0, drain=0.0, grace=1.0),
    dispatch=DispatchSettings(lease=LEASE_SECONDS, max_attempts=1_000),
    routing=RoutingSettings(default="reference", threshold=1.0, consult_engine=False),
)


@contextlib.asynccontextmanager
async def running_replicas(replicas: Replicas) -> AsyncIterator[None]:
    """Run the servers during the context."""
    with restored_addresses():
        tasks = [asyncio.create_task(replicas.keep_running(each)) for each in range(REPLICA_COUNT)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for replica in replicas.running.values():
                await replica.process.wait_dead()
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                while _has_heartbeats():  # noqa: ASYNC110  a thread sets no event
                    await asyncio.sleep(0.05)


def _has_heartbeats() -> bool:
    """Return whether threads of discord.py run which send heartbeats: they end by themselves."""
    return any(thread.name.startswith("keep-alive-handler") for thread in threading.enumerate())
