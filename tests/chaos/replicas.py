"""Replicas: real server processes that a test starts, kills, freezes and ends."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START = 20.0
"""Seconds in which a replica must serve."""


class DidNotStart(Exception):
    """A replica ended before it served, or does not serve in time."""


class Replica:
    """One process. ``ended`` is set when it is gone, however that came about."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.address = ""
        self.ended = asyncio.Event()
        self.clean = False
        """Whether its program has returned, as it should after SIGTERM."""
        self.known = asyncio.Event()
        """Set when it serves at ``address``, or has ended."""

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, released or closed."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open, and it does nothing until it is thawed."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid and not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def hear(self, told: dict[str, Any]) -> None:
        """Take in what the process tells."""
        self.pid = told.get("pid", self.pid)
        self.clean = told.get("ended", self.clean)
        self.address = told.get("address", self.address)
        if self.address:
            self.known.set()

    def lose(self) -> None:
        """The process is gone."""
        self.ended.set()
        self.known.set()


class Replicas:
    """Starts replicas of ``program``, named ``package.module:function``.

    That is an ``async def function(options, ready)``: it builds a server, calls ``ready`` with the
    address (``http://127.0.0.1:PORT/``) where it serves, and returns when SIGTERM has come and
    the server has ended. What replicas write to standard error is added to the file ``log``.
    Leaving the context kills those that still run.
    """

    def __init__(self, program: str, *, log: Path) -> None:
        self._program = program
        self._log = log
        self._replicas: dict[int, Replica] = {}
        self._numbers = itertools.count(1)
        self._stack = contextlib.AsyncExitStack()
        self._zygote: asyncio.subprocess.Process
        self._link = ""

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="palaver-")
            stack.push_async_callback(asyncio.to_thread, folder.cleanup)
            self._link = str(Path(folder.name) / "link")
            listener = await asyncio.start_unix_server(self._listen, self._link)
            stack.callback(listener.close)
            self._zygote = await self._start_zygote()
            stack.push_async_callback(self._end)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _start_zygote(self) -> asyncio.subprocess.Process:
        log = await asyncio.to_thread(self._log.open, "ab")
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.chaos.fork_server",
                self._program,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
        finally:
            log.close()

    async def _end(self) -> None:
        for replica in self._replicas.values():
            replica.kill()
        assert self._zygote.stdin is not None
        self._zygote.stdin.close()
        await self._zygote.wait()
        await asyncio.gather(*(each.ended.wait() for each in self._replicas.values() if each.pid))

    async def start(self, **options: Any) -> Replica:  # Any: JSON values
        """Start a replica and wait until it serves. ``options`` reach the program.

        Raises `DidNotStart` with the end of the log.
        """
        replica = Replica(next(self._numbers))
        self._replicas[replica.number] = replica
        order = {"number": replica.number, "link": self._link, "options": options}
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(order).encode() + b"\n")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START):
                await replica.known.wait()
        if not replica.address:
            replica.kill()
            log = await asyncio.to_thread(self._log.read_text, errors="replace")
            raise DidNotStart(f"a replica does not serve: …{log[-4000:]}")
        return replica

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear what one replica tells, until it ends."""
        try:
            hello = json.loads(await reader.readline())
            replica = self._replicas[hello["number"]]
            replica.hear(hello)
            while line := await reader.readline():
                replica.hear(json.loads(line))
            replica.lose()
        finally:
            writer.close()
