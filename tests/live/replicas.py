"""Several `palaver serve` processes on one Redis."""

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp

PALAVER = str(Path(sys.executable).with_name("palaver"))
PATIENCE = 60.0
"""Seconds in which a server must have started, or a turn been claimed."""
RUN, REST = 0.002, 0.05
"""Seconds that a slowed server runs and rests in turn: 4 % of the time, about nine tokens of the
starter model a second."""


class Replica:
    """One ``palaver serve``, with its files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.pid = 0
        self.address = ""

    async def start(self, redis: str) -> None:
        """Start it on a free port, and wait until it answers."""
        self._folder.mkdir()
        log = self._folder / "log"
        given = ["server.port=0", "ledger.use=redis", f"ledger.redis.url={redis}"]
        settings = [word for setting in given for word in ("--set", setting)]
        with log.open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                PALAVER, *settings, "serve",
                cwd=self._folder, stdout=asyncio.subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self.pid = self._process.pid
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await self._process.stdout.readline()).decode()
        address = re.search(r"http://\S+/", line)
        if address is None:
            raise RuntimeError(log.read_text(errors="replace"))
        self.address = address[0]

    async def turns(self) -> int:
        """How many turns it runs, by its own count."""
        session = aiohttp.ClientSession()
        async with session, session.get(self.address + "metrics") as response:
            metrics = await response.text()
        count = re.search(r"^palaver_turns_here (\S+)$", metrics, re.MULTILINE)
        assert count is not None, metrics
        return int(float(count[1]))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it was killed."""
        if self._process is not None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        # Forgotten first: a signal to a process that has just ended would take its exit status.
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def running(count: int, redis: str, folder: Path) -> AsyncIterator[list[Replica]]:
    """``count`` replicas on the Redis at ``redis``, with their files in ``folder``."""
    replicas = [Replica(folder / f"replica-{number}") for number in range(count)]
    try:
        await asyncio.gather(*(replica.start(redis) for replica in replicas))
        yield replicas
    finally:
        await asyncio.gather(*(replica.kill() for replica in replicas))


async def writer_among(replicas: Sequence[Replica]) -> Replica:
    """The one that runs a turn, as soon as there is one."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for replica in replicas:
                if await replica.turns():
                    return replica


@contextlib.asynccontextmanager
async def slowed(*replicas: Replica) -> AsyncIterator[None]:
    """Meanwhile let them run only a part of the time, so that a small model writes at the pace of
    a large one."""

    async def hold() -> None:
        while True:
            for number, seconds in ((signal.SIGCONT, RUN), (signal.SIGSTOP, REST)):
                for replica in replicas:
                    replica.signal(number)
                await asyncio.sleep(seconds)

    holding = asyncio.create_task(hold())
    try:
        yield
    finally:
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        for replica in replicas:
            replica.signal(signal.SIGCONT)
