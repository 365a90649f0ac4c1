"""Property: hostile clients, all at once, hardly delay a tenant that behaves well.

The clients hold idle and slow connections, send texts made to be slow, continue huge conversations,
export without pause, guess keys, and send malformed headers and frames. Server, hostile clients and
the measuring client are processes of their own.
"""

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.proof_settings import SEED, short_or_long
from tests.proofs.hostile_server import DESCRIPTORS, KEYS
from tests.proofs.report import FigureValue, PropertyResult, Report
from tests.proofs.test_overload import MemoryMonitor

pytestmark = pytest.mark.alone

PROPERTY = "hostile-clients"
ROOT = Path(__file__).parents[2]
CALM_SECONDS = short_or_long(10, 60)
HOSTILE_SECONDS = short_or_long(30, 900)
WARM_UP_SECONDS = 5
"""Seconds of both before the measurement, in which pools and caches reach their size."""
INTERVAL_SECONDS = 0.1
"""Time between two messages of the calm tenant."""
MAX_SLOWDOWN = 2.0
PERCENTILE = short_or_long(95, 99)
"""Percentile for that limit. A short run has too few messages for the 99th."""
MAX_STALL_SECONDS = 0.05
MAX_GROWTH = 4.0
"""Limit for the memory, as a multiple of that of a small server without a model. It was 28 before
there were limits on histories, exports and slow readers."""
MUTANT_SECONDS = 5
START_TIMEOUT_SECONDS = 60.0
REPLY_TIMEOUT_SECONDS = 20.0
Frame = dict[str, Any]  # JSON values


@dataclass
class CalmTenant:
    """People who connect, send one message and read the reply."""

    address: str
    session: aiohttp.ClientSession
    first_token_seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    sent: int = 0

    async def run(self, seconds: float) -> list[float]:
        """Send messages for so many seconds; return their times to first token."""
        self.first_token_seconds = []
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end:
                self.sent += 1
                group.create_task(self._exchange(self.sent))
                await asyncio.sleep(INTERVAL_SECONDS)
        return self.first_token_seconds

    async def _exchange(self, number: int) -> None:
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
                await self._converse(number)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.failures.append(f"message {number}: {error!r}")

    async def _converse(self, number: int) -> None:
        began = time.monotonic()
        async with self.session.ws_connect(f"{self.address}ws") as socket:
            token = KEYS["KEY_CALM"]
            hello = {"type": "hello", "thread": f"c{number}", "person": f"p{number}"}
            await socket.send_json(hello | {"token": token})
            await socket.send_json({"type": "send", "id": "1", "text": "hello", "skill": "engine"})
            text = ""
            async for received in socket:
                frame: Frame = json.loads(received.data)
                if frame["type"] == "text":
                    if not text:
                        self.first_token_seconds.append(time.monotonic() - began)
                    text += frame["text"]
                elif frame["type"] == "finished":
                    if frame["outcome"] != "done" or len(text) != frame["length"]:
                        self.failures.append(f"message {number}: {frame} after {len(text)}")
                    return
                elif frame["type"] == "error":
                    self.failures.append(f"message {number}: {frame}")
                    return
        self.failures.append(f"message {number}: closed with {socket.close_code}")


@contextlib.asynccontextmanager
async def running(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module of the tests in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"tests.proofs.{module}",
        *arguments,
        cwd=ROOT,
        env=os.environ | KEYS | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def read_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_SECONDS)
    return line.decode().strip()


@dataclass
class Measurement:
    """Figures of one run; times to first token in seconds, memory in KiB."""

    alone: list[float] = field(default_factory=list)
    attacked: list[float] = field(default_factory=list)
    memory_before: int = 0
    memory_peak: int = 0
    descriptors_peak: int = 0
    stall_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    exit_code: int | None = None

    def words(self) -> dict[str, FigureValue]:
        """Return the counts of the attacks whose names are words."""
        return {name: count for name, count in self.counts.items() if re.fullmatch(r"\w+", name)}

    def slowdown(self, percent: int) -> float:
        return percentile(self.attacked, percent) / percentile(self.alone, percent)

    @property
    def growth(self) -> float:
        return self.memory_peak / self.memory_before


def percentile(values: Sequence[float], percent: int = 99) -> float:
    return sorted(values)[len(values) * percent // 100] if values else float("inf")


class DescriptorMonitor:
    """Monitor of the number of files that a process has open."""

    def __init__(self, process: int) -> None:
        self._folder = f"/proc/{process}/fd"
        self.peak = 0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self.peak = max(self.peak, len(os.listdir(self._folder)))
            await asyncio.sleep(0.1)


async def measure(
    folder: Path, seconds: float, *arguments: str, attacks: Sequence[str] = ()
) -> Measurement:
    """Run a server under attack for so many seconds and until every hostile text is sent.

    ``arguments`` are those of `tests.proofs.hostile_server`; ``attacks``: all by default.
    """
    result = Measurement()
    async with (
        running("hostile_server", str(folder), *arguments) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        address = await read_line(server)
        calm = CalmTenant(address, session)
        async with running("hostile_clients", address, str(SEED), *attacks) as clients:
            assert await read_line(clients) == "ready"
            await calm.run(WARM_UP_SECONDS)
            result.alone = await calm.run(CALM_SECONDS)
            memory, descriptors = MemoryMonitor(server.pid), DescriptorMonitor(server.pid)
            result.memory_before = memory.measure()
            assert clients.stdin is not None
            clients.stdin.write(b"attack\n")
            monitors = [asyncio.create_task(each.run()) for each in (memory, descriptors)]
            await calm.run(WARM_UP_SECONDS)
            result.attacked = await calm.run(seconds)
            assert await read_line(clients) == "sent"
            for monitor in monitors:
                monitor.cancel()
            result.counts = await end_attack(clients)
        result.memory_peak, result.descriptors_peak = memory.peak, descriptors.peak
        result.failures = calm.failures
        server.terminate()
        result.exit_code = await asyncio.wait_for(server.wait(), START_TIMEOUT_SECONDS)
    result.stall_seconds = float((folder / "stall").read_text())
    return result


async def end_attack(clients: asyncio.subprocess.Process) -> dict[str, int]:
    """Stop the hostile clients and return their counts."""
    clients.terminate()
    counts: dict[str, int] = json.loads(await read_line(clients))
    return counts


async def test_hostile_clients_hardly_delay_others(report: Report, tmp_path: Path) -> None:
    result = await measure(tmp_path, HOSTILE_SECONDS)
    failed = [name for name in result.counts if name.startswith("failed")]
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=len(result.alone) + len(result.attacked),
            figures=result.words()
            | {
                "ttft_p99_ms": round(percentile(result.attacked) * 1000),
                "ttft_p99_ratio": round(result.slowdown(99), 2),
                "stall_ms": round(result.stall_seconds * 1000),
                "growth_percent": round(100 * result.growth - 100),
                "descriptors": result.descriptors_peak,
                "failures": len(result.failures),
            },
        )
    )
    assert not failed, failed
    assert not result.failures, result.failures[:10]
    assert result.exit_code == 0
    assert result.stall_seconds <= MAX_STALL_SECONDS
    assert result.growth <= MAX_GROWTH
    assert result.descriptors_peak < DESCRIPTORS
    assert result.slowdown(PERCENTILE) <= MAX_SLOWDOWN


async def test_mutant_with_a_quadratic_pattern_is_detected(report: Report, tmp_path: Path) -> None:
    result = await measure(tmp_path, MUTANT_SECONDS, "--quadratic", attacks=["texts"])
    detected = result.stall_seconds > MAX_STALL_SECONDS
    report.add_mutant(PROPERTY, detected, "quadratic pattern")
    assert detected
