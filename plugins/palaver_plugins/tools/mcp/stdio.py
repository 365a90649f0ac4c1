"""stdio: an MCP server that runs as a process of this machine.

The SDK's own transport reads lines of any length and gives the process the environment that the
person of a terminal would have. This one bounds what it reads, and passes on next to nothing.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from palaver_plugins.tools.mcp.pace import Pace
from palaver_plugins.tools.mcp.settings import McpServerSettings
from palaver_plugins.tools.pinned.texts import clean_line

INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")
"""Environment variables that a process gets from the server."""
EXIT_SECONDS = 2.0
"""Seconds that a process has to exit when its input ends, and again after SIGTERM."""
MAX_GARBAGE_LINES = 100
"""Lines that are no messages, such as a banner. With more of them the process is stopped."""
PIECE_BYTES = 65_536
MAX_ERRORS_CHARACTERS = 500


def make_environment(settings: McpServerSettings) -> dict[str, str]:
    """Return the environment of a server's process. Raises `ConfigurationError` for a secret that
    cannot be read."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    secrets = {name: secret.reveal() for name, secret in settings.secrets.items()}
    return {**inherited, **settings.env, **secrets}


class ServerProcess:
    """The process of a server and its connection. ``problem`` says why the connection has ended."""

    def __init__(self, settings: McpServerSettings) -> None:
        self._settings = settings
        self._errors = b""
        self._is_stopping = False
        self.problem = ""

    @property
    def errors(self) -> str:
        """Return the end of what the process has written to its standard error."""
        text = self._errors.decode(errors="replace")
        return clean_line(text[-MAX_ERRORS_CHARACTERS:], MAX_ERRORS_CHARACTERS)

    @contextlib.asynccontextmanager
    async def connect(self, on_end: "asyncio.Event") -> AsyncGenerator[TransportStreams, None]:
        """Run the process and yield its messages; set ``on_end`` when there are no more. Raises
        `OSError` when it cannot be started."""
        environment = await asyncio.to_thread(make_environment, self._settings)
        # A scope cancels again and again: asyncio could not end a process that has just begun.
        with anyio.CancelScope(shield=True):
            process = await asyncio.create_subprocess_exec(
                self._settings.command,
                *self._settings.args,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                cwd=self._settings.directory,
                start_new_session=True,
                limit=PIECE_BYTES,
            )
        to_session, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write_stream, from_session = anyio.create_memory_object_stream[SessionMessage](0)
        async with anyio.create_task_group() as group:
            group.start_soon(self._read, process, to_session, on_end)
            group.start_soon(self._write, process, from_session)
            group.start_soon(self._read_errors, process)
            try:
                yield read_stream, write_stream
            finally:
                self._is_stopping = True
                read_stream.close()
                write_stream.close()
                with anyio.CancelScope(shield=True):
                    await _finish(_stop(process))
                group.cancel_scope.cancel()

    async def _read(
        self,
        process: asyncio.subprocess.Process,
        to_session: MemoryObjectSendStream[SessionMessage | Exception],
        on_end: asyncio.Event,
    ) -> None:
        assert process.stdout is not None
        try:
            async with to_session:
                await self._read_lines(process.stdout, to_session)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the session has ended
        finally:
            if not self._is_stopping:
                self.problem = self.problem or "the process has ended"
            on_end.set()

    async def _read_lines(
        self,
        stdout: asyncio.StreamReader,
        to_session: MemoryObjectSendStream[SessionMessage | Exception],
    ) -> None:
        pace, limit = Pace(self._settings.max_message_bytes), self._settings.max_message_bytes
        line, garbage = bytearray(), 0
        while piece := await stdout.read(PIECE_BYTES):
            await pace.spend(piece)
            *ends, rest = piece.split(b"\n")
            for end in ends:
                line += end
                if len(line) > limit:
                    break
                if message := _parse(bytes(line)):
                    await to_session.send(message)
                else:
                    garbage += bool(line.strip())
                line.clear()
            line += rest
            if len(line) > limit:
                self.problem = f"it has sent a message of more than {limit} bytes"
                return
            if garbage > MAX_GARBAGE_LINES:
                self.problem = "it writes lines to its standard output that are no messages"
                return

    async def _write(
        self,
        process: asyncio.subprocess.Process,
        from_session: MemoryObjectReceiveStream[SessionMessage],
    ) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            async with from_session:
                async for sent in from_session:
                    text = sent.message.model_dump_json(by_alias=True, exclude_unset=True)
                    process.stdin.write(f"{text}\n".encode())
                    await process.stdin.drain()

    async def _read_errors(self, process: asyncio.subprocess.Process) -> None:
        """Read what the process writes to its standard error, so that it never waits; keep the
        end."""
        assert process.stderr is not None
        pace = Pace(self._settings.max_message_bytes)
        while piece := await process.stderr.read(PIECE_BYTES):
            self._errors = (self._errors + piece)[-4 * MAX_ERRORS_CHARACTERS :]
            await pace.spend(piece)


def _parse(line: bytes) -> SessionMessage | None:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        return None


async def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Run something to its end. A cancellation of this task takes effect afterwards."""
    task = asyncio.create_task(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        raise cancellation


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End a process and those that it has started: close its input, ask it, and kill it."""
    assert process.stdin is not None
    process.stdin.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        if await _has_exited(process):
            break
        _signal_group(process.pid, number)
    _signal_group(process.pid, signal.SIGKILL)  # what it has started and left behind
    await process.wait()
    # What it has started may hold the pipes open, if it has left the group; nothing public closes
    # them.
    process._transport.close()  # type: ignore[attr-defined]


async def _has_exited(process: asyncio.subprocess.Process) -> bool:
    try:
        async with asyncio.timeout(EXIT_SECONDS):
            await process.wait()
    except TimeoutError:
        return False
    return True


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
