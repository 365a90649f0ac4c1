"""What goes wrong between a bot and a fake Discord, when a test wants it."""

import asyncio
import dataclasses
import fnmatch
import random
from typing import Literal

from palaver.testing.fakes.discord.errors import Refusal
from palaver.testing.fakes.discord.limits import RateLimited, Scope
from palaver.testing.fakes.discord.requests import DiscordRequest

Effect = Literal["raise", "drop", "lose", "hang", "hang after"]


@dataclasses.dataclass(eq=False, slots=True, kw_only=True)
class Fault:
    """What happens to the next requests whose ``METHOD /path`` matches a pattern in the form of
    `fnmatch`, such as ``POST */messages``.

    ``times`` counts down. A hanging request waits for `release`.
    """

    effect: Effect
    requests: str
    times: int
    error: Refusal | RateLimited | None = None
    released: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    waiting: int = 0
    """How many requests hang."""

    def matches(self, request: DiscordRequest) -> bool:
        return self.times > 0 and fnmatch.fnmatchcase(request.name, self.requests)

    async def hang(self) -> None:
        self.waiting += 1
        try:
            await self.released.wait()
        finally:
            self.waiting -= 1

    def release(self) -> None:
        """Let the hanging requests go on, and hold no more."""
        self.times = 0
        self.released.set()


class Faults:
    """The faults of a fake Discord, in the order in which they were added."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._loss = 0.0
        self._random = random.Random(0)

    def answer(self, status: int, requests: str = "*", *, times: int = 1) -> Fault:
        """Answer with a status such as 500 or 503, and do nothing."""
        error = Refusal(0)
        error.status, error.message = status, f"{status}: by the test"
        return self._add(Fault(effect="raise", requests=requests, times=times, error=error))

    def refuse(self, code: int, requests: str = "*", *, times: int = 1) -> Fault:
        """Refuse with one of Discord's codes, such as 50013, and do nothing."""
        error = Refusal(code)
        return self._add(Fault(effect="raise", requests=requests, times=times, error=error))

    def limit(
        self,
        retry_after: float,
        requests: str = "*",
        *,
        times: int = 1,
        scope: Scope = "user",
        has_via: bool = True,
    ) -> Fault:
        """Answer 429, and do nothing. Without ``Via`` the answer comes from the network in front of
        Discord."""
        error = RateLimited(retry_after, scope=scope, has_via=has_via)
        return self._add(Fault(effect="raise", requests=requests, times=times, error=error))

    def drop(self, requests: str = "*", *, times: int = 1) -> Fault:
        """Cut the connection, and do nothing."""
        return self._add(Fault(effect="drop", requests=requests, times=times))

    def lose(self, requests: str = "*", *, times: int = 1) -> Fault:
        """Do what is asked, and cut the connection without an answer."""
        return self._add(Fault(effect="lose", requests=requests, times=times))

    def lose_at_random(self, probability: float, *, seed: int) -> None:
        """Lose the answers of a part of all requests that change something."""
        self._loss, self._random = probability, random.Random(seed)

    def hang(self, requests: str = "*", *, times: int = 1, is_committed: bool = False) -> Fault:
        """Do nothing until `Fault.release`, and answer then; or do what is asked before."""
        effect: Effect = "hang after" if is_committed else "hang"
        return self._add(Fault(effect=effect, requests=requests, times=times))

    def clear(self) -> None:
        """End all faults, and let hanging requests go on."""
        for fault in self._faults:
            fault.release()
        self._faults.clear()
        self._loss = 0.0

    def _add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def take(self, request: DiscordRequest, *effects: Effect) -> Fault | None:
        """Return the first fault of these kinds for the request, and count it."""
        for fault in self._faults:
            if fault.effect in effects and fault.matches(request):
                fault.times -= 1
                return fault
        return None

    def loses(self, request: DiscordRequest) -> bool:
        """Return True when the client shall not get the answer."""
        if self.take(request, "lose"):
            return True
        changes = request.method != "GET"
        return changes and self._loss > 0 and self._random.random() < self._loss
