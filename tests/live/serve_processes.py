"""Processes of ``palaver serve``."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import aiohttp

PALAVER = str(Path(sys.executable).with_name("palaver"))
TIMEOUT_SECONDS = 60.0
"""Limit for the start of a server, and for the claim of a turn."""
RUN_SECONDS, STOP_SECONDS = 0.002, 0.05
"""Duty cycle of a slowed server: 4 %, about nine tokens of the starter model per second."""


class ServeProcess:
    """A process of ``palaver serve`` with its files in ``folder``. ``environment`` holds further
    variables."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = environment or {}
        self._process: asyncio.subprocess.Process | None = None
        self.pid = 0
        self.address = ""

    async def start(self, *overrides: str) -> None:
        """Start the server on a free port and wait until it listens; also again after its end."""
        self._folder.mkdir(exist_ok=True)
        log = self._folder / "log"
        overrides = ("server.port=0", "auth.cookie_secret=env:COOKIE_SECRET", *overrides)
        settings = [word for setting in overrides for word in ("--set", setting)]
        with log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                PALAVER, *settings, "serve",
                cwd=self._folder, stdout=asyncio.subprocess.PIPE, stderr=errors,
                env={
                    **os.environ,
                    "COOKIE_SECRET": "a secret of all replicas",
                    **self._environment,
                },
            )  # fmt: skip
        self.pid = self._process.pid
        assert self._process.stdout is not None
        async with asyncio.timeout(TIMEOUT_SECONDS):
            line = (await self._process.stdout.readline()).decode()
        address = re.search(r"http://\S+/", line)
        if address is None:
            raise RuntimeError(log.read_text(errors="replace"))
        self.address = address[0]

    async def running_turn_count(self) -> int:
        """Return the number of running turns from the server's metrics."""
        return await count_running_turns(self.address)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process was killed."""
        if self._process is not None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """Kill the process with SIGKILL and wait for its end."""
        # `signal` must not reach a process that has just ended: it would take the exit status.
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


async def count_running_turns(address: str, key: str = "") -> int:
    """Return the number of running turns from a server's metrics."""
    session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"} if key else {})
    async with session, session.get(address + "metrics") as response:
        metrics = await response.text()
    count = re.search(r"^palaver_turns_here (\S+)$", metrics, re.MULTILINE)
    assert count is not None, metrics
    return int(float(count[1]))


@contextlib.asynccontextmanager
async def running_processes(
    count: int, redis: str, folder: Path, *overrides: str
) -> AsyncIterator[list[ServeProcess]]:
    """Run ``count`` servers on the Redis at ``redis``, with their files in ``folder``.
    ``overrides`` are further settings."""
    processes = [ServeProcess(folder / f"server-{number}") for number in range(count)]
    ledger = ("ledger.use=redis", f"ledger.redis.url={redis}")
    try:
        await asyncio.gather(*(process.start(*ledger, *overrides) for process in processes))
        yield processes
    finally:
        await asyncio.gather(*(process.kill() for process in processes))


async def wait_for_active(processes: Sequence[ServeProcess]) -> ServeProcess:
    """Wait until one of the servers runs a turn, and return it."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            for process in processes:
                if await process.running_turn_count():
                    return process


@contextlib.asynccontextmanager
async def slowed_down(*processes: ServeProcess) -> AsyncIterator[None]:
    """Stop and continue the servers in turn, so that a small model is as slow as a large one."""

    async def alternate() -> None:
        while True:
            for number, seconds in (
                (signal.SIGCONT, RUN_SECONDS),
                (signal.SIGSTOP, STOP_SECONDS),
            ):
                for process in processes:
                    process.signal(number)
                await asyncio.sleep(seconds)

    alternating = asyncio.create_task(alternate())
    try:
        yield
    finally:
        alternating.cancel()
        await asyncio.gather(alternating, return_exceptions=True)
        for process in processes:
            process.signal(signal.SIGCONT)
