"""Three servers with the Slack channel, on one ledger in this process, which a proof kills."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any

from tests.chaos.processes import KillableLedger, SimulatedProcess
from tests.plugins.channels.slack.posting_bot import fast
from tests.plugins.channels.slack.slack_server import slack_settings
from tests.proofs.visible_replies import ReferenceSkill

from palaver.config.settings import DispatchSettings, RoutingSettings, ServerSettings, Settings
from palaver.ledger import QUEUE_ALL, Claim, ConcurrencyPolicies, Receipt
from palaver.messages import Message
from palaver.platforms import Times
from palaver.records import all_records
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine
from palaver.testing.fakes.slack import FakeSlack
from palaver.web.listener import listening
from palaver_plugins.channels.slack.api import Installations
from palaver_plugins.channels.slack.channel import SlackChannel
from palaver_plugins.channels.slack.manifest import EVENTS_PATH
from palaver_plugins.channels.slack.platform import SlackPlatform
from palaver_plugins.channels.slack.settings import NAME, SlackSettings

REPLICA_COUNT = 3
LEASE_SECONDS = 3.0
"""Of turns and outboxes: longer than this process may be kept from running, since Slack takes the
call of an owner that has lost its lease meanwhile."""
TIMES = Times(
    lease=LEASE_SECONDS,
    poll=0.05,
    progress=0.5,
    retries=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    retry_later=0.5,
)
SETTINGS = Settings(
    server=ServerSettings(port=0, drain=0.0, grace=1.0),
    dispatch=DispatchSettings(lease=LEASE_SECONDS, max_attempts=1_000),
    routing=RoutingSettings(default="reference", threshold=1.0, consult_engine=False),
)
DOOMED_SHARE = 4
"""How often a server that will die is among the addresses from which Slack chooses one."""


class ProofPlatform(SlackPlatform):
    """The platform without pauses. Mutants are derived from it."""

    def __init__(self, installations: Installations, slack: FakeSlack, *, is_agent: bool) -> None:
        super().__init__(
            installations,
            is_agent=is_agent,
            edit_interval=0.05,
            pace=fast(),
            clock=slack.clock.now,
        )


class ProofChannel(SlackChannel):
    """The channel with short intervals. Mutants are derived from it."""

    times = TIMES
    platform_class: type[ProofPlatform] = ProofPlatform

    def __init__(self, settings: SlackSettings, slack: FakeSlack) -> None:
        super().__init__(
            settings,
            lambda installations: self.platform_class(
                installations, slack, is_agent=settings.agent
            ),
        )


class ProofLedger(MemoryLedger):
    """A ledger that knows when messages were accepted and turns begun."""

    def __init__(self) -> None:
        super().__init__(clock=time.time, monotonic=time.monotonic)
        self.accepted_at: dict[tuple[str, str], float] = {}
        """By conversation and id."""
        self.begun_at: dict[tuple[str, str], float] = {}

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        receipt = await super().accept(message, policies)
        self.accepted_at.setdefault(_key(message), time.monotonic())
        return receipt

    async def claim(self, worker: str, **options: Any) -> Claim | None:  # Any: as the ledger's
        claim = await super().claim(worker, **options)
        for message in claim.messages if claim else ():
            self.begun_at.setdefault(_key(message), time.monotonic())
        return claim


def _key(message: Message) -> tuple[str, str]:
    return str(message.conversation), message.id


class Replica:
    """A server in a process of its own."""

    def __init__(self) -> None:
        self.process = SimulatedProcess()
        self.url = ""
        self.is_doomed = False
        """It dies soon."""
        self.is_ready = asyncio.Event()

    async def serve(self, server: Server) -> None:
        async with server, listening(server) as address:
            self.url = f"{address.rstrip('/')}{EVENTS_PATH}"
            self.is_ready.set()
            await asyncio.Event().wait()


class SlackReplicas:
    """Servers on one ledger, each of which is replaced when it has died."""

    def __init__(
        self,
        slack: FakeSlack,
        rng: random.Random,
        *,
        channel: type[ProofChannel] = ProofChannel,
        is_agent: bool = True,
    ) -> None:
        self.ledger = ProofLedger()
        self.answered: set[str] = set()
        """The messages that the skill has answered."""
        self.kill_count = 0
        self._slack = slack
        self._rng = rng
        self._channel = channel
        self._settings = slack_settings(slack, agent=is_agent)
        self._running: dict[int, Replica] = {}

    async def keep_running(self, number: int) -> None:
        """Run replica ``number``, and start it again whenever it has died."""
        while True:
            replica = self._running[number] = Replica()
            try:
                replica.process.run(replica.serve(self._server(replica)))
                await replica.is_ready.wait()
                self._tell_addresses()
                await replica.process.wait_killed()
                self.kill_count += 1
                self._tell_addresses()
            finally:
                replica.process.kill()
                await replica.process.wait_dead()
            await asyncio.sleep(self._rng.uniform(0, 0.3))

    def _server(self, replica: Replica) -> Server:
        return Server(
            SETTINGS,
            ledger=KillableLedger.wrap(self.ledger, replica.process),
            engine=ScriptedEngine(),
            knowledge=ListKnowledge(),
            skills={"reference": ReferenceSkill(self.answered)},
            channels={"slack": self._channel(self._settings, self._slack)},
        )

    def _tell_addresses(self) -> None:
        """Tell Slack where it delivers: often to a server that is going to die, and to the dead
        ones while there are no others."""
        urls = [
            replica.url
            for replica in self._running.values()
            for _ in range(DOOMED_SHARE if replica.is_doomed else 1)
            if replica.url and not replica.process.is_dead
        ]
        self._slack.request_urls[:] = urls or self._slack.request_urls

    def kill_soon(self) -> None:
        """Let a replica die of one of its next calls."""
        ready = [each for each in self._running.values() if each.is_ready.is_set()]
        if ready:
            replica = self._rng.choice(ready)
            replica.is_doomed = True
            if self._rng.random() < 0.5:
                replica.process.die_of_call(self._rng.randint(1, 20))
            else:
                replica.process.die_of_answer(self._rng.randint(1, 20))
            self._tell_addresses()

    async def is_settled(self) -> bool:
        """Return whether no turn runs and nothing is left to post."""
        depth = await self.ledger.queue_depth()
        if depth.queued or depth.running:
            return False
        async for record in all_records(self.ledger, NAME, "outbox:"):
            if record.due_at is not None:
                return False
        return True


@contextlib.asynccontextmanager
async def slack_replicas(
    slack: FakeSlack, rng: random.Random, **options: Any
) -> AsyncIterator[SlackReplicas]:
    """Run the servers; ``options`` are those of `SlackReplicas` (Any)."""
    replicas = SlackReplicas(slack, rng, **options)
    tasks = [asyncio.create_task(replicas.keep_running(each)) for each in range(REPLICA_COUNT)]
    try:
        while len(slack.request_urls) < REPLICA_COUNT:  # noqa: ASYNC110  the list sets no event
            await asyncio.sleep(0.01)
        yield replicas
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
