"""Load generator: simulated conversations with a replica set under faults."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import aiohttp
from tests.chaos.client import ReconnectingClient, message_fields
from tests.chaos.findings import Findings
from tests.chaos.history import HistoryChecker
from tests.chaos.replica_set import ReplicaSet

from palaver.errors import LedgerUnavailable
from palaver.ledger import Ledger
from palaver.messages import Conversation, Message
from palaver.testing import RecordingSubscriber

MAX_DUPLICATE_DELAY_SECONDS = 2.0
RETRY_SECONDS = 0.25
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
"""A frozen replica accepts a request and does not answer it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProfile:
    """Parameters of a `LoadGenerator`. Each pair is the range of a random number."""

    conversations: int = 64
    """Simultaneous conversations."""
    messages: int = 20
    """Messages of each conversation."""
    deliveries: tuple[int, int] = (1, 4)
    """Deliveries of each message, at once and later, over websocket and HTTP, to any replica."""
    clients: tuple[int, int] = (1, 2)
    """Clients of each conversation."""
    unanswered: tuple[int, ...] = (0, 0, 0, 1, 3)
    """Choices for the number of turns that may be unanswered when the next message is sent."""
    stop_rate: float = 0.03
    """Share of turns that are stopped."""
    branching_rate: float = 0.25
    """Share of conversations that continue after earlier turns and select alternatives."""
    idle_seconds: float = 60.0
    """Time without progress after which the missing replies of a conversation count as lost."""


class LoadGenerator:
    """Generator of simultaneous conversations until `stop`.

    Every message is retried until it is acknowledged, and recorded in ``checker``. ``findings``
    has what clients received wrongly, and is complete when `run` returns. ``on_recorder`` is
    called with each client's recorder at the end of its conversation.
    """

    def __init__(
        self,
        replica_set: ReplicaSet,
        ledger: Ledger,
        checker: HistoryChecker,
        *,
        seed: int,
        profile: LoadProfile | None = None,
        on_recorder: Callable[[RecordingSubscriber], None] = lambda recorder: None,
    ) -> None:
        self.replica_set = replica_set
        self.ledger = ledger
        self.checker = checker
        self.seed = seed
        self.on_recorder = on_recorder
        self.profile = profile or LoadProfile()
        self.session: aiohttp.ClientSession
        self.findings = Findings()
        self.pauses: list[float] = []
        """Seconds, see `ReconnectingClient.pauses`."""
        self.stopping = False
        self._conversation_count = 0

    async def run(self) -> None:
        """Generate load until `stop`, then wait for the replies that are due."""
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector) as self.session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(self.profile.conversations):
                group.create_task(self._converse())

    def stop(self) -> None:
        """Send no further message."""
        self.stopping = True

    async def _converse(self) -> None:
        while not self.stopping:
            self._conversation_count += 1
            number = self._conversation_count
            is_branching = random.Random(f"{number}:{self.seed}").random()
            kind = (
                BranchingConversation
                if is_branching < self.profile.branching_rate
                else SimulatedConversation
            )
            await kind(self, number).run()


@contextlib.asynccontextmanager
async def generating_load(generator: LoadGenerator) -> AsyncIterator[None]:
    """Run a generator during the context, and stop it at the end."""
    async with asyncio.TaskGroup() as group:
        group.create_task(generator.run())
        yield
        generator.stop()


class SimulatedConversation:
    """One conversation: its messages in order, with duplicate deliveries, and its clients."""

    def __init__(self, load: LoadGenerator, number: int) -> None:
        self._load = load
        self._number = number
        self._rng = random.Random(f"{load.seed}:{number}")
        self._conversation = Conversation("default", "web", f"{load.seed}-{number}")
        self._person = f"person-{number}"
        self._turns: list[str] = []
        self._timed_out = False
        self._clients = [
            ReconnectingClient(
                load.session,
                load.replica_set.random_address,
                thread=self._conversation.thread,
                person=self._person,
                rng=self._rng,
            )
            for _ in range(self._rng.randint(*load.profile.clients))
        ]

    async def run(self) -> None:
        """Send the messages one after the other, then check what every client received."""
        async with asyncio.TaskGroup() as clients:  # an error in a client ends the conversation
            running = [clients.create_task(client.run()) for client in self._clients]
            async with asyncio.TaskGroup() as duplicates:
                number, answered = 0, True
                while answered and number < self._load.profile.messages and not self._load.stopping:
                    answered = await self._send(number, duplicates)
                    number += 1
            await self._check_clients()
            for task in running:
                task.cancel()

    async def _send(self, number: int, duplicates: asyncio.TaskGroup) -> bool:
        """Send a message and wait for the replies that are due; return False on a timeout."""
        profile, rng = self._load.profile, self._rng
        turn = await self._deliver(self._make_message(number), duplicates)
        self._turns.append(turn)
        if rng.random() < profile.stop_rate:
            await self._stop(turn)
        unanswered = rng.choice(profile.unanswered)
        due = self._turns[: len(self._turns) - unanswered]
        return await self._wait_finished(self._clients[0], due)

    def _make_message(self, number: int, after: str | None = None) -> Message:
        return Message(
            conversation=self._conversation,
            id=f"{self._number}.{number}",
            person=self._person,
            text=f"q{self._number}.{number}",
            after=after,
        )

    async def _deliver(self, message: Message, duplicates: asyncio.TaskGroup) -> str:
        """Send a message until it is acknowledged, and some duplicates; return its turn."""
        rng = self._rng
        for _ in range(rng.randint(*self._load.profile.deliveries) - 1):
            delay = rng.choice((0.0, rng.uniform(0, MAX_DUPLICATE_DELAY_SECONDS)))
            duplicates.create_task(self._post(message, delay))
        turn = await rng.choice(self._clients).send(message)
        self._record_accepted(message, turn)
        return turn

    def _record_accepted(self, message: Message, turn: str) -> None:
        self._load.checker.record_accepted(message, turn)

    async def _post(self, message: Message, delay_seconds: float) -> None:
        """Deliver a message once more over HTTP. The request may fail."""
        await asyncio.sleep(delay_seconds)
        body = {"id": message.id, "person": self._person, **message_fields(message)}
        answer = await self._request("messages", body)
        if answer is not None:
            self._record_accepted(message, answer["turn"])

    async def _request(self, path: str, body: Mapping[str, str | None]) -> dict[str, str] | None:
        """Send a request to a random replica; return its answer, or None on a failure."""
        thread = self._conversation.thread
        url = f"{self._load.replica_set.random_address()}v1/conversations/{thread}/{path}"
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with self._load.session.post(
                url, json=body, params={"person": self._person}, timeout=REQUEST_TIMEOUT
            ) as response:
                answer: dict[str, str] = await response.json()
                return answer if response.ok else None
        return None

    async def _stop(self, turn: str) -> None:
        """Stop a turn after the first text of its reply."""
        client, load = self._clients[0], self._load
        await client.wait_until(
            lambda: turn in client.growth_times, idle_seconds=load.profile.idle_seconds
        )
        load.checker.record_stopped(turn)
        while (answer := await self._request("stop", {"turn": turn})) is None:  # noqa: ASYNC110
            await asyncio.sleep(RETRY_SECONDS)
        if answer["state"] == "unknown":
            load.findings.record("lost", f"{self._conversation}: the turn {turn} is unknown")

    async def _wait_finished(self, client: ReconnectingClient, turns: list[str]) -> bool:
        """Wait until a client has received the end of ``turns``; return False on a timeout.

        After one timeout the conversation does not wait again.
        """
        idle_seconds = 0.0 if self._timed_out else self._load.profile.idle_seconds
        finished = await client.wait_until(
            lambda: client.finished.issuperset(turns), idle_seconds=idle_seconds
        )
        self._timed_out = self._timed_out or not finished
        return finished

    async def _check_clients(self) -> None:
        load = self._load
        for client in self._clients:
            if not await self._wait_finished(client, self._turns):
                missing = [turn for turn in self._turns if turn not in client.finished]
                load.findings.record(
                    "lost", f"{self._conversation}: no end of {missing} was received"
                )
            load.pauses += client.pauses()
            for error in client.protocol_errors:
                load.findings.record("gaps", f"{self._conversation}: {error}")
            load.findings.merge(await self._compare(client))
            load.on_recorder(client.recorder)

    async def _compare(self, client: ReconnectingClient) -> Findings:
        """Compare a client with the ledger, and retry while that is unavailable.

        Raises `TimeoutError` after the profile's ``idle_seconds``.
        """
        load = self._load
        async with asyncio.timeout(load.profile.idle_seconds):
            while True:
                with contextlib.suppress(LedgerUnavailable):
                    return await load.checker.check_recorder(
                        load.ledger, self._conversation, client.recorder
                    )
                await asyncio.sleep(RETRY_SECONDS)


class BranchingConversation(SimulatedConversation):
    """Conversation that waits for each reply, then continues after any turn of its history, or
    selects an alternative."""

    def __init__(self, load: LoadGenerator, number: int) -> None:
        super().__init__(load, number)
        self._branches = load.checker.branches_of(self._conversation)

    async def _send(self, number: int, duplicates: asyncio.TaskGroup) -> bool:
        path = self._branches.path
        after = self._rng.choice([None, None, "", *path]) if path else None
        turn = await self._deliver(self._make_message(number, after), duplicates)
        self._branches.add(turn, after)
        self._turns = list(self._branches.path)
        if self._rng.random() < self._load.profile.stop_rate:
            await self._stop(turn)
        if not await self._wait_finished(self._clients[0], [turn]):
            return False
        if self._branches.parents and self._rng.random() < 0.5:
            await self._select(self._rng.choice(sorted(self._branches.parents)))
        return True

    async def _select(self, turn: str) -> None:
        async with asyncio.timeout(self._load.profile.idle_seconds):
            while await self._request("select", {"turn": turn}) is None:  # noqa: ASYNC110
                await asyncio.sleep(RETRY_SECONDS)
        self._branches.select(turn)
        self._turns = list(self._branches.path)
