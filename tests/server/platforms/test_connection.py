"""A channel is connected again whenever its connection ends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from tests.proofs.virtual_time import run_in_virtual_time

from palaver.errors import ConfigurationError
from palaver.platforms.connection import Connection, ConnectionTimes
from palaver.platforms.platform import Unreachable

TIMES = ConnectionTimes(pauses=(1.0, 2.0, 5.0), stable=10.0)


def now() -> float:
    return asyncio.get_running_loop().time()


def in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    run_in_virtual_time(main)


class Calls:
    """A ``connect`` that does as it is told, each time once; then it stays connected."""

    def __init__(self, *steps: Callable[[], Awaitable[None]]) -> None:
        self._steps = list(steps)
        self.times: list[float] = []
        self.cancelled = 0

    async def __call__(self) -> None:
        self.times.append(now())
        if self._steps:
            await self._steps.pop(0)()
            return
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1


async def fail() -> None:
    raise Unreachable("no route")


async def leave() -> None:
    raise SystemExit(3)


async def cancel() -> None:
    raise asyncio.CancelledError("of something else")


async def return_at_once() -> None: ...


def after(seconds: float, step: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        await asyncio.sleep(seconds)
        await step()

    return wait


@pytest.mark.parametrize("step", [fail, leave, cancel, return_at_once])
def test_the_pauses_grow_while_it_does_not_last(step: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        calls = Calls(*[step] * 5)
        connection = Connection("board", calls, TIMES)
        await asyncio.sleep(100)
        assert calls.times == [0, 1, 3, 8, 13, 18]
        await connection.close()
        assert calls.cancelled == 1

    in_virtual_time(run())


@pytest.mark.parametrize("step", [fail, return_at_once])
def test_a_connection_that_lasted_is_opened_again_soon(
    step: Callable[[], Awaitable[None]],
) -> None:
    async def run() -> None:
        calls = Calls(fail, fail, fail, after(3600, step), after(11, step))
        connection = Connection("board", calls, TIMES)
        await asyncio.sleep(4000)
        assert calls.times == [0, 1, 3, 8, 3609, 3621]
        await connection.close()

    in_virtual_time(run())


def test_the_problem_ends_with_a_connection_that_lasts() -> None:
    async def run() -> None:
        connection = Connection("board", Calls(fail, after(5, fail)), TIMES)
        await asyncio.sleep(0.5)
        assert connection.problem == "the connection to the platform fails: no route"
        await asyncio.sleep(3)
        assert connection.problem
        await asyncio.sleep(20)
        assert connection.problem == ""
        await connection.close()

    in_virtual_time(run())


def test_what_an_error_quotes_is_not_shown() -> None:
    async def leak() -> None:
        raise ValueError("the secret token")

    async def run() -> None:
        connection = Connection("board", Calls(leak), TIMES)
        await asyncio.sleep(0.5)
        assert "ValueError" in connection.problem
        assert "secret" not in connection.problem
        await connection.close()

    in_virtual_time(run())


def test_a_configuration_that_cannot_work_is_not_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refuse() -> None:
        raise ConfigurationError("the token is not known")

    async def run() -> None:
        calls = Calls(refuse)
        connection = Connection("board", calls, TIMES)
        await asyncio.sleep(1000)
        assert calls.times == [0]
        assert connection.problem == "the token is not known"
        await connection.close()

    in_virtual_time(run())
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.getMessage() == "the channel board does not receive: the token is not known"
