"""The clock of the fake platforms."""

import asyncio

import pytest

from palaver.testing.fakes.clock import START, FakeClock


async def let_tasks_run() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_it_stands_still_until_a_test_advances_it() -> None:
    clock = FakeClock()
    assert clock.now() == START
    clock.advance(2.5)
    assert clock.now() == START + 2.5


def test_timers_run_in_order_each_at_its_own_time() -> None:
    clock = FakeClock(0)
    seen: list[tuple[str, float]] = []
    clock.call_later(5, lambda: seen.append(("second", clock.now())))
    clock.call_later(3, lambda: seen.append(("first", clock.now())))
    clock.call_later(9, lambda: seen.append(("late", clock.now())))
    clock.call_later(4, lambda: seen.append(("cancelled", clock.now()))).cancel()
    clock.advance(8)
    assert seen == [("first", 3), ("second", 5)]
    assert clock.now() == 8


def test_a_timer_may_set_another_that_is_due_as_well() -> None:
    clock = FakeClock(0)
    seen: list[float] = []
    clock.call_later(1, lambda: clock.call_later(1, lambda: seen.append(clock.now())))
    clock.advance(10)
    assert seen == [2]


async def test_a_sleeper_waits_for_the_clock() -> None:
    clock = FakeClock()
    sleeper = asyncio.ensure_future(clock.sleep(60))
    await let_tasks_run()
    clock.advance(59)
    await let_tasks_run()
    assert not sleeper.done()
    clock.advance(1)
    await sleeper


async def test_a_block_times_out_by_the_clock() -> None:
    clock = FakeClock()

    async def wait_for_ever() -> None:
        async with clock.timeout(3):
            await asyncio.Event().wait()

    waiting = asyncio.ensure_future(wait_for_ever())
    await let_tasks_run()
    clock.advance(3)
    with pytest.raises(TimeoutError):
        await waiting


async def test_a_block_that_ends_in_time_is_not_cancelled_later() -> None:
    clock = FakeClock()
    async with clock.timeout(3):
        pass
    clock.advance(10)
    await let_tasks_run()


async def test_it_follows_real_time_faster_when_told() -> None:
    clock = FakeClock(0, speed=1000)
    async with asyncio.timeout(5):
        await clock.sleep(20)
    assert clock.now() >= 20


async def test_it_jumps_while_it_follows_real_time() -> None:
    clock = FakeClock(speed=1)
    sleeper = asyncio.ensure_future(clock.sleep(3600))
    await let_tasks_run()
    clock.advance(3600)
    async with asyncio.timeout(5):
        await sleeper
