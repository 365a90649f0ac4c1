"""Property: a server that gets ten times the load it can serve refuses the excess before work
starts, keeps its memory, answers all that it accepted, and serves as before afterwards."""

import asyncio
import contextlib
import os
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from tests.chaos.findings import Findings
from tests.chaos.history import HistoryChecker
from tests.proof_settings import short_or_long
from tests.proofs.overload_server import TENANTS, ledger_in, make_engine
from tests.proofs.report import PropertyResult, Report

from palaver.messages import Conversation, Message

pytestmark = pytest.mark.alone

PROPERTY = "overloaded"
ROOT = Path(__file__).parents[2]
CAPACITY = make_engine().generations_per_second
OVERLOAD = 10
"""Load as a multiple of the capacity, as are the two below."""
NORMAL_LOAD = 0.7
BUSY_LOAD = 1.5
"""Load that measures the goodput of this machine, where the clients run as well."""
WAVE_COUNT = short_or_long(1, 3)
OVERLOAD_SECONDS = short_or_long(8, 600)
NORMAL_SECONDS = short_or_long(3, 30)
BUSY_SECONDS = short_or_long(3, 900)
"""Long enough to fill SQLite's page cache before the server's memory is measured."""
MAX_GROWTH = 1.3
START_TIMEOUT_SECONDS = 30.0
REST_TIMEOUT_SECONDS = 60.0
TICK_SECONDS = 0.02
CONNECTION_COUNT = 64
KEYS = {f"KEY_{tenant.upper()}": f"secret-key-of-{tenant}" for tenant in TENANTS}


@dataclass
class Clients:
    """Clients of all tenants, and the responses that they got."""

    address: str
    session: aiohttp.ClientSession
    checker: HistoryChecker = field(
        default_factory=lambda: HistoryChecker(lambda message: make_engine().reply_to(message.text))
    )
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    refusals_without_retry_after: int = 0

    async def send(self, rate: float, seconds: float) -> None:
        """Send ``rate`` messages per second, without waiting for the responses before."""
        began = time.monotonic()
        sent_before = self.sent
        async with asyncio.TaskGroup() as group:
            while (elapsed := time.monotonic() - began) < seconds:
                while self.sent - sent_before < elapsed * rate:
                    self.sent += 1
                    group.create_task(self._post(self.sent))
                await asyncio.sleep(TICK_SECONDS)

    async def _post(self, number: int) -> None:
        tenant = TENANTS[number % len(TENANTS)]
        message = Message(
            conversation=Conversation(tenant, "web", f"t{number}"),
            id="1",
            person=f"p{number % 500}",
            text=f"m{number}",
        )
        async with self.session.post(
            f"{self.address}v1/conversations/{message.conversation.thread}/messages",
            json={"text": message.text, "id": message.id, "person": message.person},
            headers={"Authorization": f"Bearer secret-key-of-{tenant}"},
        ) as response:
            self.statuses[response.status] += 1
            answer = await response.json()
            if response.status == 202:
                self.checker.record_accepted(message, answer["turn"])
            elif not _has_retry_after(response):
                self.refusals_without_retry_after += 1

    async def metric(self, name: str) -> float:
        """Return the current value of one of the server's metrics."""
        async with self.session.get(
            f"{self.address}metrics", headers={"Authorization": "Bearer secret-key-of-red"}
        ) as response:
            text = await response.text()
        value = re.search(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return float(value[1]) if value else 0.0

    async def wait_at_rest(self) -> float:
        """Wait until every turn is settled; return the seconds that it took."""
        began = time.monotonic()
        async with asyncio.timeout(REST_TIMEOUT_SECONDS):
            while await self.metric("palaver_turns_unsettled"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return time.monotonic() - began


def _has_retry_after(response: aiohttp.ClientResponse) -> bool:
    seconds, milliseconds = (
        int(response.headers.get(name, 0)) for name in ("Retry-After", "retry-after-ms")
    )
    return 0 < milliseconds <= 1000 * seconds


class MemoryMonitor:
    """Monitor of a process's resident memory, in KiB."""

    def __init__(self, process: int) -> None:
        self._status = Path(f"/proc/{process}/status")
        self.peak = 0

    def measure(self) -> int:
        """Return the memory now, and update the peak."""
        match = re.search(r"VmRSS:\s+(\d+)", self._status.read_text())
        memory = int(match[1]) if match else 0
        self.peak = max(self.peak, memory)
        return memory

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self.measure()
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def overload_server(
    folder: Path, *arguments: str
) -> AsyncIterator[tuple[Clients, asyncio.subprocess.Process]]:
    """Run the server in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.proofs.overload_server",
        str(folder),
        *arguments,
        cwd=ROOT,
        env=os.environ | KEYS | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        address = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_SECONDS)
        connector = aiohttp.TCPConnector(limit=CONNECTION_COUNT)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Clients(address.decode().strip(), session), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass(frozen=True)
class Wave:
    """Result of a period of load: messages by outcome, and durations in seconds."""

    offered: int
    answered: float
    refused: int
    seconds: float
    rest_seconds: float
    """Time after the load until every turn was settled."""

    @property
    def goodput(self) -> float:
        """Answered messages per second."""
        return self.answered / self.seconds


async def run_wave(clients: Clients, load: float, seconds: float) -> Wave:
    """Send ``load`` times the capacity for so many seconds."""
    sent, accepted = clients.sent, clients.statuses[202]
    settled = await clients.metric("palaver_turns_total")
    began = time.monotonic()
    await clients.send(load * CAPACITY, seconds)
    answered = await clients.metric("palaver_turns_total") - settled
    elapsed = time.monotonic() - began
    offered = clients.sent - sent
    refused = offered - (clients.statuses[202] - accepted)
    return Wave(offered, answered, refused, elapsed, await clients.wait_at_rest())


async def test_ten_times_the_capacity_is_refused_and_changes_nothing(
    report: Report, tmp_path: Path
) -> None:
    async with (
        overload_server(tmp_path) as (clients, process),
        contextlib.AsyncExitStack() as stack,
    ):
        await clients.send(NORMAL_LOAD * CAPACITY, NORMAL_SECONDS)
        statuses_before = Counter(clients.statuses)
        busy = await run_wave(clients, BUSY_LOAD, BUSY_SECONDS)
        memory = MemoryMonitor(process.pid)
        memory_before = memory.measure()
        monitoring = asyncio.create_task(memory.run())
        stack.callback(monitoring.cancel)
        await stack.enter_async_context(
            report.progress(lambda: f"{PROPERTY}: {dict(clients.statuses)} {memory.peak} KiB")
        )
        waves = [await run_wave(clients, OVERLOAD, OVERLOAD_SECONDS) for _ in range(WAVE_COUNT)]
        statuses_under_load = Counter(clients.statuses)
        await clients.send(NORMAL_LOAD * CAPACITY, NORMAL_SECONDS)
        await clients.wait_at_rest()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), REST_TIMEOUT_SECONDS) == 0
    findings = await check_ledger(clients, tmp_path)
    offered = sum(wave.offered for wave in waves)
    refused = sum(wave.refused for wave in waves)
    goodput = min(wave.goodput for wave in waves)
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=clients.checker.turn_count,
            findings=findings,
            figures={
                "waves": WAVE_COUNT,
                "times_capacity": round(offered / (WAVE_COUNT * OVERLOAD_SECONDS) / CAPACITY, 1),
                "refused": refused,
                "growth_percent": round(100 * memory.peak / memory_before - 100),
                "goodput_percent": round(100 * goodput / busy.goodput),
                "at_rest_after_s": round(max(wave.rest_seconds for wave in waves), 1),
            },
        )
    )
    assert findings.is_clean, findings.examples
    assert statuses_before.keys() == {202}
    assert statuses_under_load.keys() <= {202, 429, 503}
    assert refused > offered / 2, "there was no overload"
    assert clients.refusals_without_retry_after == 0
    sent_afterwards = clients.sent - statuses_under_load.total()
    assert clients.statuses - statuses_under_load == Counter({202: sent_afterwards})
    assert memory.peak <= MAX_GROWTH * memory_before


async def check_ledger(clients: Clients, folder: Path) -> Findings:
    """Compare the accepted messages with the ledger of the server after its exit."""
    ledger = ledger_in(folder)
    await ledger.start()
    try:
        return await clients.checker.check(ledger)
    finally:
        await ledger.close()


async def test_mutant_without_refusals_is_detected(report: Report, tmp_path: Path) -> None:
    async with overload_server(tmp_path, "--unbounded") as (clients, process):
        await clients.send(NORMAL_LOAD * CAPACITY, NORMAL_SECONDS)
        memory = MemoryMonitor(process.pid)
        before = memory.measure()
        for _ in range(10):
            await clients.send(OVERLOAD * CAPACITY, 2)
            if memory.measure() > MAX_GROWTH * before:
                break
    assert clients.statuses.keys() == {202}
    detected = memory.peak > MAX_GROWTH * before
    report.add_mutant(PROPERTY, detected, "no refusals")
    assert detected
