"""The watchdog of the event loop."""

import asyncio
import logging

import pytest
from tests.proofs.virtual_time import VirtualTimeLoop
from tests.server.skills_under_test import Parrot

from palaver.metrics import Metrics
from palaver.testing import ScriptedEngine, converse
from palaver.watchdog import INTERVAL, LOG_INTERVAL, RECENT, LoopWatchdog


def stalls_after(*stalls: float, pause: float = 1.0) -> tuple[LoopWatchdog, Metrics]:
    """Return a watchdog after stalls with pauses between them, and its metrics."""

    async def main() -> tuple[LoopWatchdog, Metrics]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        metrics = Metrics()
        watchdog = LoopWatchdog(metrics)
        watchdog.start()
        for stall in stalls:
            await asyncio.sleep(pause)
            loop.stall(stall)
        await asyncio.sleep(2 * INTERVAL)
        watchdog.stop()
        return watchdog, metrics

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


def test_it_measures_the_longest_stall_and_counts_those_above_the_limit() -> None:
    watchdog, metrics = stalls_after(0.5, 2.0, 0.01, 0.3)
    assert watchdog.longest_stall == pytest.approx(2.0, abs=1.1 * INTERVAL)
    text = metrics.exposition().decode()
    assert "palaver_loop_stall_seconds_count 3.0" in text
    assert 'palaver_loop_stall_seconds_bucket{le="0.5"} 2.0' in text


def test_a_stall_is_forgotten_after_a_minute_or_two() -> None:
    watchdog, _ = stalls_after(2.0, 0.1, 0.1, pause=RECENT * 1.2)
    assert watchdog.longest_stall < 0.2


def test_a_log_record_names_the_longest_stall_of_the_last_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "palaver.watchdog")
    stalls_after(0.3, 2.0, 0.5, 0.4, pause=LOG_INTERVAL / 3)
    lengths = [float(record.getMessage().split()[5]) for record in caplog.records]
    assert lengths == pytest.approx([0.3, 2.0], abs=1.1 * INTERVAL)


async def test_a_server_watches_its_loop() -> None:
    async with converse(Parrot, engine=ScriptedEngine("hi")) as chat:
        await chat.say("hello")
        text = chat.server.metrics.exposition().decode()
    assert "palaver_loop_longest_stall_seconds " in text
    assert "palaver_loop_stall_seconds_count " in text
