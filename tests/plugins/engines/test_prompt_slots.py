"""Slots of engine ``llamacpp``, without the engine."""

import asyncio
from collections.abc import Sequence

import pytest

from palaver.errors import EngineUnavailable
from palaver_plugins.engines.prompt_slots import PromptSlots, Slot, common_length


async def use(slots: PromptSlots, tenant: str, prompt: Sequence[int]) -> tuple[int, bool]:
    """Run in a slot; return its number, and whether its cache was used."""
    slot = await slots.acquire(tenant, prompt, tokens=len(prompt), priority=0)
    slots.release(slot)
    return slot.number, slot.reusable


async def test_a_tenant_never_gets_the_cache_of_another() -> None:
    slots = PromptSlots(1, 100)
    uses = [await use(slots, tenant, [1, 2, 3]) for tenant in ("a", "a", "b", "a", "a")]
    assert [reusable for _, reusable in uses] == [False, True, False, False, True]


async def test_the_slot_that_remembers_the_beginning_is_used_again() -> None:
    slots = PromptSlots(3, 100)
    one, other = [1, 2, 3, 4], [9, 8, 7, 6]
    first, _ = await use(slots, "a", one)
    second, _ = await use(slots, "a", other)
    assert first != second
    assert await use(slots, "a", [*one, 5]) == (first, True)
    assert await use(slots, "a", [*other, 5]) == (second, True)
    third, _ = await use(slots, "a", [1, 5, 5, 5])  # a quarter is too little
    assert third not in (first, second)


async def acquire_all(slots: PromptSlots, count: int, tokens: int = 10) -> list[Slot]:
    return [
        await slots.acquire("a", [number], tokens=tokens, priority=0) for number in range(count)
    ]


async def test_waiters_run_by_priority_and_age_and_none_is_overtaken() -> None:
    slots = PromptSlots(2, 100)
    taken = await acquire_all(slots, 2, tokens=50)
    order: list[str] = []

    async def wait(name: str, tokens: int, priority: int) -> None:
        slot = await slots.acquire("a", [], tokens=tokens, priority=priority)
        order.append(name)
        slots.release(slot)

    async with asyncio.TaskGroup() as group:
        for name, tokens, priority in (("small", 10, 5), ("large", 100, 1), ("urgent", 10, 0)):
            group.create_task(wait(name, tokens, priority))
        await asyncio.sleep(0)
        assert (slots.stats().running, slots.stats().waiting) == (2, 3)
        slots.release(taken[0])
        await asyncio.sleep(0)
        assert order == ["urgent"], "the large one waits for the whole cache"
        slots.release(taken[1])
    assert order == ["urgent", "large", "small"]
    assert (slots.stats().running, slots.stats().waiting) == (0, 0)


async def test_a_cancelled_waiter_loses_no_slot() -> None:
    slots = PromptSlots(1, 100)
    (taken,) = await acquire_all(slots, 1)
    waiting, granted, last = (
        asyncio.create_task(slots.acquire("a", [], tokens=tokens, priority=0))
        for tokens in (100, 10, 10)
    )
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    slots.release(taken)  # grants the second one, which is cancelled at the same moment
    granted.cancel()
    await asyncio.wait([granted])
    assert (await last).tokens == 10
    assert slots.stats().waiting == 0


async def test_a_cancelled_waiter_blocks_nobody() -> None:
    slots = PromptSlots(2, 100)
    (taken,) = await acquire_all(slots, 1, tokens=50)
    large, small = (
        asyncio.create_task(slots.acquire("a", [], tokens=tokens, priority=0))
        for tokens in (100, 50)
    )
    await asyncio.sleep(0)
    large.cancel()
    async with asyncio.timeout(5):
        assert (await small).number != taken.number


async def test_waiting_ends_with_the_engine() -> None:
    slots = PromptSlots(1, 100)
    await acquire_all(slots, 1)
    waiting = asyncio.create_task(slots.acquire("a", [], tokens=1, priority=0))
    await asyncio.sleep(0)
    slots.fail(EngineUnavailable("closed"))
    with pytest.raises(EngineUnavailable):
        await waiting


def test_the_common_beginning() -> None:
    assert [common_length([1, 2, 3], it) for it in ([], [1], [1, 2, 4], [1, 2, 3, 4], [2])] == [
        *(0, 1, 2, 3, 0)
    ]
