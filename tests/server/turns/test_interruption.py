"""Requests to end a running turn: each cancels the skill once, and nothing that comes after it."""

import asyncio
from collections.abc import Callable

import pytest

from palaver.turns.interruption import Interruption

Request = Callable[[Interruption], None]
REQUESTS: dict[str, Request] = {
    "stop_requested": Interruption.stop,
    "fenced": Interruption.fence,
    "releasing": Interruption.release,
}


class Run:
    """A task that runs a skill, which never ends by itself, and closes the turn afterwards."""

    def __init__(self) -> None:
        self.may_close = asyncio.Event()
        self.is_closing = asyncio.Event()
        self.cancellations = 0
        self.task = asyncio.create_task(self._run())

    async def start(self) -> Interruption:
        self.interruption = Interruption("turn-7", self.task, stop_requested=False)
        await asyncio.sleep(0)
        return self.interruption

    async def _run(self) -> None:
        try:
            with self.interruption.cancellable():
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancellations = self.task.cancelling()
            self.task.uncancel()
        self.is_closing.set()
        await self.may_close.wait()

    async def end(self) -> None:
        self.may_close.set()
        async with asyncio.timeout(5):
            await self.task


@pytest.mark.parametrize("reason", sorted(REQUESTS))
async def test_a_request_ends_the_skill_and_not_what_closes_the_turn(reason: str) -> None:
    run = Run()
    interruption = await run.start()
    assert not interruption.requested
    REQUESTS[reason](interruption)
    assert interruption.requested
    set_ones = [name for name in REQUESTS if getattr(interruption, name)]
    assert set_ones == [reason]
    async with asyncio.timeout(5):
        await run.is_closing.wait()
    for request in REQUESTS.values():
        request(interruption)
    assert run.task.cancelling() == 0
    await run.end()


async def test_a_second_stop_cancels_no_second_time() -> None:
    run = Run()
    interruption = await run.start()
    interruption.stop()
    interruption.stop()
    await run.end()
    assert run.cancellations == 1


async def test_a_request_before_the_skill_runs_cancels_nothing() -> None:
    run = Run()
    run.interruption = Interruption("turn-7", run.task, stop_requested=False)
    run.interruption.stop()
    assert run.task.cancelling() == 0
    await asyncio.sleep(0)
    run.interruption.fence()
    await run.end()


async def test_a_pause_releases_a_running_skill(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    interruption = await run.start()
    interruption.pause()
    assert interruption.releasing
    assert "turn-7" in caplog.text
    await run.end()
    assert run.cancellations == 1


@pytest.mark.parametrize("reason", sorted(REQUESTS))
async def test_a_pause_changes_nothing_for_a_turn_that_ends(reason: str) -> None:
    run = Run()
    interruption = await run.start()
    REQUESTS[reason](interruption)
    interruption.pause()
    assert interruption.releasing is (reason == "releasing")
    await run.end()
    assert run.cancellations == 1


async def test_a_pause_changes_nothing_for_a_turn_that_is_being_closed() -> None:
    run = Run()
    interruption = await run.start()
    run.task.cancel()
    async with asyncio.timeout(5):
        await run.is_closing.wait()
    interruption.pause()
    assert not interruption.requested
    await run.end()
