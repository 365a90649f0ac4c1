"""Ten times what a server can do is asked of it over HTTP: it refuses the rest before it begins,
stays as large as it was, answers all that it accepted, and is its old self when that is over."""

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
from tests.chaos.history import Findings, HistoryChecker
from tests.proof_settings import short_or_long
from tests.proofs.overload_server import TENANTS, ledger_in, paced_engine
from tests.proofs.report import Line, Report

from palaver.messages import Conversation, Message

PROPERTY = "overloaded"
ROOT = Path(__file__).parents[2]
CAPACITY = paced_engine().capacity
TIMES = 10
WAVES = short_or_long(1, 3)
SECONDS = short_or_long(8, 600)
USUAL_SECONDS = short_or_long(3, 30)
USUAL = 0.7
"""Part of its capacity that is asked of the server before and after."""
BUSY = 1.5
"""The same, to see what it can do beside its clients on this machine."""
BUSY_SECONDS = short_or_long(3, 900)
"""Long enough to fill what the ledger keeps at hand of the file, before the server is weighed."""
GROWTH = 1.3
START_PATIENCE = 30.0
PATIENCE = 60.0
TICK = 0.02
WIRES = 64
"""Connections of the clients."""
KEYS = {f"KEY_{tenant.upper()}": f"secret-of-{tenant}" for tenant in TENANTS}


@dataclass
class Crowd:
    """Clients of all tenants, and what they were told."""

    address: str
    session: aiohttp.ClientSession
    checker: HistoryChecker = field(
        default_factory=lambda: HistoryChecker(lambda message: paced_engine().reply(message.text))
    )
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    speechless: int = 0
    """Refusals that do not say when to come back."""

    async def send(self, rate: float, seconds: float) -> None:
        """``rate`` messages a second, whatever becomes of those before."""
        began = time.monotonic()
        due = self.sent
        async with asyncio.TaskGroup() as group:
            while (passed := time.monotonic() - began) < seconds:
                while self.sent - due < passed * rate:
                    self.sent += 1
                    group.create_task(self._say(self.sent))
                await asyncio.sleep(TICK)

    async def _say(self, number: int) -> None:
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
            headers={"Authorization": f"Bearer secret-of-{tenant}"},
        ) as response:
            self.statuses[response.status] += 1
            answer = await response.json()
            if response.status == 202:
                self.checker.record_accepted(message, answer["turn"])
            elif not _tells_when(response):
                self.speechless += 1

    async def gauge(self, name: str) -> float:
        async with self.session.get(
            f"{self.address}metrics", headers={"Authorization": "Bearer secret-of-red"}
        ) as response:
            told = re.search(rf"^{name}(?:{{.*}})? (\S+)$", await response.text(), re.MULTILINE)
            return float(told[1]) if told else 0.0

    async def at_rest(self) -> float:
        """Wait until nothing is unsettled; returns after how many seconds."""
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            while await self.gauge("palaver_turns_unsettled"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return time.monotonic() - began


def _tells_when(response: aiohttp.ClientResponse) -> bool:
    seconds, exactly = (
        int(response.headers.get(name, 0)) for name in ("Retry-After", "retry-after-ms")
    )
    return 0 < exactly <= 1000 * seconds


class Scales:
    """Weighs a process all the time."""

    def __init__(self, process: int) -> None:
        self._status = Path(f"/proc/{process}/status")
        self.most = 0

    def weigh(self) -> int:
        """Its resident memory now, in KiB."""
        told = re.search(r"VmRSS:\s+(\d+)", self._status.read_text())
        weight = int(told[1]) if told else 0
        self.most = max(self.most, weight)
        return weight

    async def watch(self) -> None:
        while True:
            self.weigh()
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def overload_server(
    folder: Path, *arguments: str
) -> AsyncIterator[tuple[Crowd, asyncio.subprocess.Process]]:
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
        address = await asyncio.wait_for(process.stdout.readline(), START_PATIENCE)
        connector = aiohttp.TCPConnector(limit=WIRES)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Crowd(address.decode().strip(), session), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass(frozen=True)
class Wave:
    """A time of overload: what was offered, answered and refused, and how long the server took to
    come to rest."""

    offered: int
    answered: float
    refused: int
    seconds: float
    rest: float

    @property
    def rate(self) -> float:
        """Answered in a second."""
        return self.answered / self.seconds


async def wave(crowd: Crowd, times: float, lasting: float) -> Wave:
    sent, accepted = crowd.sent, crowd.statuses[202]
    settled = await crowd.gauge("palaver_turns_total")
    began = time.monotonic()
    await crowd.send(times * CAPACITY, lasting)
    answered = await crowd.gauge("palaver_turns_total") - settled
    seconds = time.monotonic() - began
    offered = crowd.sent - sent
    refused = offered - (crowd.statuses[202] - accepted)
    return Wave(offered, answered, refused, seconds, await crowd.at_rest())


async def test_ten_times_the_capacity_is_refused_and_changes_nothing(
    report: Report, tmp_path: Path
) -> None:
    async with overload_server(tmp_path) as (crowd, process), contextlib.AsyncExitStack() as stack:
        await crowd.send(USUAL * CAPACITY, USUAL_SECONDS)
        usual = Counter(crowd.statuses)
        busy = await wave(crowd, BUSY, BUSY_SECONDS)
        scales = Scales(process.pid)
        before = scales.weigh()
        weighing = asyncio.create_task(scales.watch())
        stack.callback(weighing.cancel)
        await stack.enter_async_context(
            report.progress(lambda: f"{PROPERTY}: {dict(crowd.statuses)} {scales.most} KiB")
        )
        waves = [await wave(crowd, TIMES, SECONDS) for _ in range(WAVES)]
        overloaded = Counter(crowd.statuses)
        await crowd.send(USUAL * CAPACITY, USUAL_SECONDS)
        await crowd.at_rest()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    findings = await checked(crowd, tmp_path)
    offered = sum(each.offered for each in waves)
    refused = sum(each.refused for each in waves)
    report(
        Line(
            property=PROPERTY,
            turns=crowd.checker.turn_count,
            findings=findings,
            figures={
                "waves": WAVES,
                "times_capacity": round(offered / (WAVES * SECONDS) / CAPACITY, 1),
                "refused": refused,
                "growth_percent": round(100 * scales.most / before - 100),
                "goodput_percent": round(100 * min(each.rate for each in waves) / busy.rate),
                "at_rest_after_s": round(max(each.rest for each in waves), 1),
            },
        )
    )
    assert findings.is_clean, findings.examples
    assert usual.keys() == {202}
    assert overloaded.keys() <= {202, 429, 503}
    assert refused > offered / 2, "there was no overload"
    assert crowd.speechless == 0
    assert crowd.statuses - overloaded == Counter({202: crowd.sent - overloaded.total()})
    assert scales.most <= GROWTH * before


async def checked(crowd: Crowd, folder: Path) -> Findings:
    """Hold what was accepted against what the server has left behind."""
    ledger = ledger_in(folder)
    await ledger.start()
    try:
        return await crowd.checker.check(ledger)
    finally:
        await ledger.close()


async def test_twin_without_refusals_the_server_grows(report: Report, tmp_path: Path) -> None:
    async with overload_server(tmp_path, "--unbounded") as (crowd, process):
        await crowd.send(USUAL * CAPACITY, USUAL_SECONDS)
        scales = Scales(process.pid)
        before = scales.weigh()
        for _ in range(10):
            await crowd.send(TIMES * CAPACITY, 2)
            if scales.weigh() > GROWTH * before:
                break
    assert crowd.statuses.keys() == {202}
    failed = scales.most > GROWTH * before
    report.twin(PROPERTY, failed, "no refusals")
    assert failed
