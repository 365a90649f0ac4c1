"""Slots of engine ``llamacpp``: which of them a generation gets, and whose prompt they remember.

llama.cpp remembers the last prompt of each slot and computes only what is new in the next one. It
does not know tenants. So a slot is chosen here for each generation, and what the slot remembers is
used only by the tenant that it is from.
"""

import asyncio
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from palaver import EngineStats, PalaverError


@dataclass(slots=True)
class Slot:
    """A slot by its number. ``tenant`` and ``prompt``: of its last generation. ``tokens``: reserved
    for a running one, 0 while it is free."""

    number: int
    tenant: str = ""
    prompt: Sequence[int] = ()
    tokens: int = 0
    last_used: int = 0
    reusable: bool = False
    """The slot remembers a prompt of the tenant for which it is reserved."""


@dataclass(order=True, slots=True)
class _Waiter:
    priority: int
    age: int
    tenant: str = field(compare=False)
    prompt: Sequence[int] = field(compare=False)
    tokens: int = field(compare=False)
    granted: asyncio.Future[Slot] = field(compare=False)


class PromptSlots:
    """The slots, which share a cache of ``capacity`` tokens. Waiters run by priority and age."""

    def __init__(self, count: int, capacity: int) -> None:
        self._slots = [Slot(number) for number in range(count)]
        self._capacity = capacity
        self._waiters: list[_Waiter] = []
        self._serial = itertools.count(1)

    def stats(self) -> EngineStats:
        waiting = sum(not waiter.granted.done() for waiter in self._waiters)
        return EngineStats(running=len(self._slots) - len(self._free()), waiting=waiting)

    async def acquire(
        self, tenant: str, prompt: Sequence[int], *, tokens: int, priority: int
    ) -> Slot:
        """Wait for a slot and for ``tokens`` of the cache. `release` must follow."""
        granted: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(priority, next(self._serial), tenant, prompt, tokens, granted)
        heapq.heappush(self._waiters, waiter)
        self._dispatch()
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._dispatch()
            else:  # granted at the same moment
                self.release(granted.result())
            raise

    def release(self, slot: Slot) -> None:
        slot.tokens = 0
        slot.last_used = next(self._serial)
        self._dispatch()

    def fail(self, error: PalaverError) -> None:
        """End all waiting with ``error``."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.granted.done():
                waiter.granted.set_exception(error)

    def _free(self) -> list[Slot]:
        return [slot for slot in self._slots if not slot.tokens]

    def _dispatch(self) -> None:
        """Grant slots to the first waiters. One that needs much of the cache is not overtaken."""
        while self._waiters:
            waiter = self._waiters[0]
            if not waiter.granted.done():
                reserved = sum(slot.tokens for slot in self._slots)
                if not self._free() or reserved + waiter.tokens > self._capacity:
                    return
                waiter.granted.set_result(self._reserve(waiter))
            heapq.heappop(self._waiters)

    def _reserve(self, waiter: _Waiter) -> Slot:
        slot = self._choose(waiter.tenant, waiter.prompt)
        slot.reusable = slot.tenant == waiter.tenant
        slot.tenant, slot.prompt, slot.tokens = waiter.tenant, waiter.prompt, waiter.tokens
        return slot

    def _choose(self, tenant: str, prompt: Sequence[int]) -> Slot:
        """Return the slot that remembers the longest beginning of ``prompt``, unless that is less
        than half of what it remembers; else the one that was not used for the longest time."""
        free = self._free()
        own = [slot for slot in free if slot.tenant == tenant]
        best = max(own, key=lambda slot: common_length(slot.prompt, prompt), default=None)
        if best is not None and 2 * common_length(best.prompt, prompt) > len(best.prompt):
            return best
        return min(free, key=lambda slot: slot.last_used)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
