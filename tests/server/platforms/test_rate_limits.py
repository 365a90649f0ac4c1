"""Calls are spaced out before a platform has to refuse them."""

import asyncio

import pytest
from tests.proofs.virtual_time import run_in_virtual_time

from palaver.platforms.platform import RateLimited
from palaver.platforms.rate_limits import MAX_BUCKETS, RateLimits


async def test_a_burst_may_be_taken_at_once() -> None:
    limits = RateLimits(0.001, burst=3)
    for _ in range(3):
        limits.take("a")
    with pytest.raises(RateLimited) as caught:
        limits.take("a")
    assert 900 < caught.value.retry_after <= 1000
    limits.take("b")


async def test_what_is_not_taken_is_not_counted() -> None:
    limits = RateLimits(0.001)
    limits.take()
    for _ in range(5):
        with pytest.raises(RateLimited) as caught:
            limits.take()
    assert caught.value.retry_after <= 1000


async def test_waiting_calls_go_in_their_order() -> None:
    limits = RateLimits(1000.0)
    order: list[int] = []

    async def call(number: int) -> None:
        await limits.wait()
        order.append(number)

    await asyncio.gather(*[call(number) for number in range(5)])
    assert order == [0, 1, 2, 3, 4]


async def test_a_pause_holds_for_everybody() -> None:
    limits = RateLimits(1000.0, burst=10)
    limits.pause(500)
    with pytest.raises(RateLimited) as caught:
        limits.take()
    assert 499 < caught.value.retry_after <= 500


async def test_the_buckets_do_not_grow_for_ever() -> None:
    limits = RateLimits(0.001)
    for number in range(MAX_BUCKETS + 1):
        limits.take(str(number))
    limits.take("0")  # forgotten
    with pytest.raises(RateLimited):
        limits.take(str(MAX_BUCKETS))


def test_a_pause_holds_back_those_that_wait_already() -> None:
    async def call_times() -> list[float]:
        limits, loop = RateLimits(1.0), asyncio.get_running_loop()
        times = []

        async def call() -> None:
            await limits.wait()
            times.append(loop.time())

        waiting = asyncio.gather(*[call() for _ in range(3)])
        await asyncio.sleep(0.5)
        limits.pause(10)
        await waiting
        return times

    assert run_in_virtual_time(call_times()) == [0.0, 10.5, 11.5]


def test_who_takes_does_not_overtake_who_waits() -> None:
    async def run() -> float:
        limits = RateLimits(1.0)
        limits.take()
        waiting = [asyncio.create_task(limits.wait()) for _ in range(2)]
        await asyncio.sleep(1.5)  # one of them is through
        with pytest.raises(RateLimited) as caught:
            limits.take()
        await asyncio.gather(*waiting)
        return caught.value.retry_after

    assert run_in_virtual_time(run()) == 1.5


def test_who_gives_up_waiting_costs_no_call() -> None:
    async def run() -> float:
        limits, loop = RateLimits(1.0), asyncio.get_running_loop()
        limits.take()
        first, second = (asyncio.create_task(limits.wait()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        return loop.time()

    assert run_in_virtual_time(run()) == 1.0
