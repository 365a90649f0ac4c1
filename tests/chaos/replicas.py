"""Replicas: server processes that a test starts, kills, freezes and terminates."""

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

START_TIMEOUT_SECONDS = 20.0


class DidNotStart(Exception):
    """A replica exited before it served, or did not serve within `START_TIMEOUT_SECONDS`."""


class Replica:
    """One server process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.address = ""
        self.exited_cleanly = False
        """True when the program has returned, as it should after SIGTERM."""
        self.started = asyncio.Event()
        """Set when the process serves at ``address``, or has exited."""
        self.exited = asyncio.Event()

    def kill(self) -> None:
        """Send SIGKILL: nothing is flushed, released or closed."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM: the server shuts down gracefully."""
        self._signal(signal.SIGTERM)

    def freeze(self) -> None:
        """Send SIGSTOP: connections stay open, and nothing runs until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid and not self.exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def update(self, status: dict[str, Any]) -> None:
        """Store a status that the process has sent."""
        self.pid = status.get("pid", self.pid)
        self.exited_cleanly = status.get("exited_cleanly", self.exited_cleanly)
        self.address = status.get("address", self.address)
        if self.address:
            self.started.set()

    def mark_exited(self) -> None:
        """Record that the process has ended."""
        self.exited.set()
        self.started.set()


class ReplicaLauncher:
    """Launcher of replicas of ``program``, named ``package.module:function``.

    The program is an ``async def function(options, on_ready)``. It builds a server, calls
    ``on_ready`` with its address (``http://127.0.0.1:PORT/``), and returns when the server has
    shut down after SIGTERM. The replicas' standard error is appended to the file ``log``.
    The context's exit kills the replicas that still run.
    """

    def __init__(self, program: str, *, log: Path) -> None:
        self._program = program
        self._log = log
        self._replicas: dict[int, Replica] = {}
        self._numbers = itertools.count(1)
        self._stack = contextlib.AsyncExitStack()
        self._fork_server: asyncio.subprocess.Process
        self._control_socket = ""

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="palaver-")
            stack.push_async_callback(asyncio.to_thread, folder.cleanup)
            self._control_socket = str(Path(folder.name) / "control")
            listener = await asyncio.start_unix_server(self._receive, self._control_socket)
            stack.callback(listener.close)
            self._fork_server = await self._start_fork_server()
            stack.push_async_callback(self._stop)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _start_fork_server(self) -> asyncio.subprocess.Process:
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

    async def _stop(self) -> None:
        for replica in self._replicas.values():
            replica.kill()
        assert self._fork_server.stdin is not None
        self._fork_server.stdin.close()
        await self._fork_server.wait()
        forked = [replica for replica in self._replicas.values() if replica.pid]
        await asyncio.gather(*(replica.exited.wait() for replica in forked))

    async def start(self, **options: Any) -> Replica:  # Any: JSON values
        """Start a replica with ``options`` for its program, and wait until it serves.

        Raises `DidNotStart` with the end of the log.
        """
        replica = Replica(next(self._numbers))
        self._replicas[replica.number] = replica
        command = {
            "number": replica.number,
            "control_socket": self._control_socket,
            "options": options,
        }
        assert self._fork_server.stdin is not None
        self._fork_server.stdin.write(json.dumps(command).encode() + b"\n")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await replica.started.wait()
        if not replica.address:
            replica.kill()
            log = await asyncio.to_thread(self._log.read_text, errors="replace")
            raise DidNotStart(f"replica {replica.number} does not serve; its log: …{log[-4000:]}")
        return replica

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Receive one replica's status lines until its process ends."""
        try:
            first = json.loads(await reader.readline())
            replica = self._replicas[first["number"]]
            replica.update(first)
            while line := await reader.readline():
                replica.update(json.loads(line))
            replica.mark_exited()
        finally:
            writer.close()
