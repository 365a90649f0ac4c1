"""Faults of the proofs of the Discord channel: what happens to connections and to requests."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from tests.proofs.discord_people import People
from tests.proofs.discord_replicas import LEASE_SECONDS

from palaver.testing.fakes.discord import DiscordRequest, FakeDiscord

CLOSE_CODES = (1000, 4000, 4009)
"""After the first and the last a session is over."""
NONCE_MINUTES = 4
"""After them Discord has forgotten a nonce."""


class ConnectionFaults:
    """What happens to connections: they break in every way, and events are repeated."""

    def __init__(self, fake: FakeDiscord, people: People, rng: random.Random) -> None:
        self._gateway = fake.gateway
        self._people = people
        self._rng = rng
        self.counts: Counter[str] = Counter()

    async def disturb(self) -> None:
        """Let something happen to all connections."""
        gateway, rng = self._gateway, self._rng
        gateway.replay_seen = rng.randint(0, 5)
        kind = rng.choice(["drops", "closed", "op 7", "op 9", "silences", "repeated"])
        self.counts[kind] += 1
        match kind:
            case "drops":
                gateway.drop()
            case "closed":
                gateway.close(rng.choice(CLOSE_CODES))
            case "op 7":
                gateway.request_reconnect()
            case "op 9":
                gateway.invalidate(resumable=rng.random() < 0.5)
            case "silences":
                gateway.silence()
            case _:
                await self._people.repeat_a_message()


class RequestFaults:
    """What happens to requests about messages, each with a probability of its own."""

    lost = 0.05
    """Share of requests that take effect, and whose answer is lost."""

    def __init__(self, fake: FakeDiscord, rng: random.Random) -> None:
        self._fake = fake
        self._rng = rng
        self._late = 0
        self.counts: Counter[str] = Counter()
        faults = fake.faults
        self._kinds: dict[str, tuple[float, Callable[[str], object]]] = {
            "429": (
                0.02,
                lambda name: faults.limit(0.1, name, scope=rng.choice(["user", "shared"])),
            ),
            "429 for all": (0.002, lambda name: faults.limit(0.1, name, scope="global")),
            "429 without Via": (0.003, lambda name: faults.limit(1.0, name, has_via=False)),
            "503": (0.02, lambda name: faults.answer(503, name)),
            "502": (0.002, lambda name: faults.answer(502, name)),
            "dropped": (0.02, lambda name: faults.drop(name)),  # the next one of the same name
            "late": (0.01, self._delay),
        }

    def begin(self) -> None:
        self._fake.before_call(self._before_call)
        self._fake.faults.lose_at_random(self.lost, seed=self._rng.randrange(1_000_000))

    def end(self) -> None:
        self._fake.before_call(_do_nothing)
        self._fake.faults.clear()

    async def _before_call(self, request: DiscordRequest) -> None:
        if "/messages" not in request.path:
            return
        roll = self._rng.random()
        for kind, (share, add_fault) in self._kinds.items():
            roll -= share
            if roll < 0:
                self.counts[kind] += 1
                add_fault(request.name)
                return

    def _delay(self, name: str) -> None:
        """Let a request take effect late: whoever has sent it may be gone. No lease ends while an
        edit is on its way: it would show an old text, and nobody can prevent that."""
        seconds = (0.1, 1.5) if name.startswith("POST") else (0.05, 0.3 * LEASE_SECONDS)
        fault = self._fake.faults.hang(name)
        self._late += 1
        loop = asyncio.get_running_loop()

        def release() -> None:
            self._late -= 1
            fault.release()

        loop.call_later(self._rng.uniform(*seconds), release)

    async def forget_nonces(self) -> None:
        """Let so much time pass that Discord forgets the nonces, unless a request is late: that one
        would be doubled, whatever the bot does."""
        if not self._late:
            self.counts["nonces forgotten"] += 1
            self._fake.clock.advance(60 * NONCE_MINUTES)


async def _do_nothing(request: DiscordRequest) -> None: ...
