"""Storm: people who talk to a fleet of replicas, whatever happens to it."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
from tests.chaos.client import ChaosClient
from tests.chaos.faults import Fleet
from tests.chaos.history import Findings, HistoryChecker

from palaver.errors import LedgerUnavailable
from palaver.ledger import Ledger
from palaver.messages import Conversation, Message
from palaver.testing.recorder import RecordingSubscriber

LATEST_COPY = 2.0
"""Seconds after which a copy of a message may still arrive."""
AGAIN = 0.25
"""Seconds before what was refused is tried again."""
HANGS = aiohttp.ClientTimeout(total=10.0)
"""For a request to a replica that is frozen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProfile:
    """What people do in a `Storm`. A pair is drawn from, anew each time."""

    conversations: int = 64
    """At the same time."""
    messages: int = 20
    """Of one conversation."""
    copies: tuple[int, int] = (1, 4)
    """Deliveries of a message, at once and later, over websocket and HTTP, to any replica."""
    tabs: tuple[int, int] = (1, 2)
    """Readers of one conversation."""
    ahead: tuple[int, ...] = (0, 0, 0, 1, 3)
    """Turns that may be unanswered when the next message is sent."""
    stops: float = 0.03
    """The share of turns that are stopped."""
    patience: float = 60.0
    """Seconds without any news after which a conversation is given up: its replies are lost."""


class LoadGenerator:
    """One conversation after the other, many at a time, until `end`.

    Every message is acknowledged in the end, and told to ``checker``. ``findings`` has what was
    wrong on a reader's recorder, and is complete when `run` returns. ``on_recorder`` is called with
    every reader's recorder at the end of its conversation.
    """

    def __init__(
        self,
        fleet: Fleet,
        ledger: Ledger,
        checker: HistoryChecker,
        *,
        seed: int,
        weather: LoadProfile | None = None,
        on_recorder: Callable[[RecordingSubscriber], None] = lambda recorder: None,
    ) -> None:
        self.fleet = fleet
        self.ledger = ledger
        self.checker = checker
        self.seed = seed
        self.on_recorder = on_recorder
        self.weather = weather or LoadProfile()
        self.session: aiohttp.ClientSession
        self.findings = Findings()
        self.interruptions: list[float] = []
        """See `Tab.interruptions`."""
        self.over = False
        self._begun = 0

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector) as self.session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(self.weather.conversations):
                group.create_task(self._talk())

    def end(self) -> None:
        """Say nothing more; what was said is still to be answered."""
        self.over = True

    async def _talk(self) -> None:
        while not self.over:
            self._begun += 1
            await SimulatedConversation(self, self._begun).run()


@contextlib.asynccontextmanager
async def generating_load(storm: LoadGenerator) -> AsyncIterator[None]:
    """A storm around what is done meanwhile; it is over when this is left."""
    async with asyncio.TaskGroup() as group:
        group.create_task(storm.run())
        yield
        storm.end()


class SimulatedConversation:
    """One conversation: its messages in their order, each in several copies, and its readers."""

    def __init__(self, storm: LoadGenerator, number: int) -> None:
        self._storm = storm
        self._number = number
        self._chance = random.Random(f"{storm.seed}:{number}")
        self._conversation = Conversation("default", "web", f"{storm.seed}-{number}")
        self._person = f"person-{number}"
        self._turns: list[str] = []
        self._given_up = False
        self._tabs = [
            ChaosClient(
                storm.session,
                storm.fleet.anywhere,
                thread=self._conversation.thread,
                person=self._person,
                chance=self._chance,
            )
            for _ in range(self._chance.randint(*storm.weather.tabs))
        ]

    async def run(self) -> None:
        staying = [asyncio.create_task(tab.stay()) for tab in self._tabs]
        try:
            async with asyncio.TaskGroup() as copies:
                number, answered = 0, True
                while answered and number < self._storm.weather.messages and not self._storm.over:
                    answered = await self._say(number, copies)
                    number += 1
            await self._read_to_the_end()
        finally:
            for task in staying:
                task.cancel()
            await asyncio.gather(*staying, return_exceptions=True)

    async def _say(self, number: int, copies: asyncio.TaskGroup) -> bool:
        """Send a message, and wait for as many replies as one waits for; whether they came."""
        weather, chance = self._storm.weather, self._chance
        message = Message(
            conversation=self._conversation,
            id=f"{self._number}.{number}",
            person=self._person,
            text=f"q{self._number}.{number}",
        )
        for _ in range(chance.randint(*weather.copies) - 1):
            late = chance.choice((0.0, chance.uniform(0, LATEST_COPY)))
            copies.create_task(self._post(message, late))
        turn = await chance.choice(self._tabs).send(message.id, message.text)
        self._accepted(message, turn)
        self._turns.append(turn)
        if chance.random() < weather.stops:
            await self._stop(turn)
        ahead = chance.choice(weather.ahead)
        return await self._seen(self._tabs[0], self._turns[: len(self._turns) - ahead])

    def _accepted(self, message: Message, turn: str) -> None:
        self._storm.checker.record_accepted(message, turn)

    async def _post(self, message: Message, late: float) -> None:
        """One more copy, on its way for ``late`` seconds. It may get lost."""
        await asyncio.sleep(late)
        body = {"id": message.id, "text": message.text, "person": self._person}
        answer = await self._request("messages", body)
        if answer is not None:
            self._accepted(message, answer["turn"])

    async def _request(self, what: str, body: dict[str, str]) -> dict[str, str] | None:
        """The answer of one of the replicas, or None when there was none."""
        thread = self._conversation.thread
        url = f"{self._storm.fleet.anywhere()}v1/conversations/{thread}/{what}"
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with self._storm.session.post(
                url, json=body, params={"person": self._person}, timeout=HANGS
            ) as response:
                answer: dict[str, str] = await response.json()
                return answer if response.ok else None
        return None

    async def _stop(self, turn: str) -> None:
        """Stop a turn that has begun to speak."""
        tab = self._tabs[0]
        await tab.until(lambda: turn in tab.growth, self._storm.weather.patience)
        self._storm.checker.record_stopped(turn)
        while (answer := await self._request("stop", {"turn": turn})) is None:  # noqa: ASYNC110
            await asyncio.sleep(AGAIN)
        if answer["state"] == "unknown":
            self._storm.findings.record("lost", f"{self._conversation}: nobody knows of {turn}")

    async def _seen(self, tab: ChaosClient, turns: list[str]) -> bool:
        """Wait until a reader has seen how these turns ended; whether that came. Nobody waits in
        vain twice."""
        patience = 0.0 if self._given_up else self._storm.weather.patience
        seen = await tab.until(lambda: tab.ended.issuperset(turns), patience)
        self._given_up = self._given_up or not seen
        return seen

    async def _read_to_the_end(self) -> None:
        storm = self._storm
        for tab in self._tabs:
            if not await self._seen(tab, self._turns):
                missing = [turn for turn in self._turns if turn not in tab.ended]
                storm.findings.record("lost", f"{self._conversation}: no end of {missing} was seen")
            storm.interruptions += tab.interruptions()
            for fault in tab.faults:
                storm.findings.record("gaps", f"{self._conversation}: {fault}")
            storm.findings.merge(await self._compare(tab))
            storm.on_recorder(tab.recorder)

    async def _compare(self, tab: ChaosClient) -> Findings:
        """What the reader has against what the ledger has. `TimeoutError` when that stays away."""
        storm = self._storm
        async with asyncio.timeout(storm.weather.patience):
            while True:
                with contextlib.suppress(LedgerUnavailable):
                    return await storm.checker.check_recorder(
                        storm.ledger, self._conversation, tab.recorder
                    )
                await asyncio.sleep(AGAIN)
