"""Model setup of a running server: a process connects the model that a person has chosen.

The process (`palaver.cli.setup_process`) downloads the model, tries it, and writes the settings. It
may take all the time and memory of a large model; the server only reads its progress, and restarts
once it is done. One setup runs at a time.
"""

import asyncio
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from palaver.errors import Conflict
from palaver.models.choices import Launch, SetupChoice, SetupProgress, SetupRequest

PROCESS = "palaver.cli.setup_process"
MAX_LINE_BYTES = 65_536

_decode_progress = msgspec.json.Decoder(SetupProgress).decode


class ModelSetup:
    """The setup of one server. ``restart`` makes the server start again with the new settings."""

    def __init__(self, launch: Launch, restart: Callable[[], None]) -> None:
        self._launch = launch
        self._restart = restart
        self.instance = secrets.token_hex(8)
        """An id of this run of the server: clients see by it that the server has restarted."""
        self.progress: SetupProgress | None = None
        """Where the present setup is, or how the last one ended; None: there was none."""
        self._task: asyncio.Task[None] | None = None

    @property
    def settings_file(self) -> Path:
        return Path(self._launch.settings_file)

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self, choice: SetupChoice) -> SetupProgress:
        """Begin to connect a model. Raises `Conflict` while another setup runs."""
        if self.is_running or (self.progress and self.progress.step == "restarting"):
            raise Conflict("a model is being connected already; wait for it, or cancel it")
        self.progress = SetupProgress(step="looking")
        request = SetupRequest(launch=self._launch, choice=choice)
        self._task = asyncio.create_task(self._run(msgspec.json.encode(request)))
        return self.progress

    async def cancel(self) -> None:
        """End the setup that runs. What was downloaded so far is kept."""
        if self._task is not None and self.is_running:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self.progress = None

    async def close(self) -> None:
        await self.cancel()

    async def _run(self, request: bytes) -> None:
        # -P: a file of the working directory must not stand for a module.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", PROCESS,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C is for the server, which ends the process
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        try:
            # The pipe stays open: its end tells the process that the server is gone.
            process.stdin.write(request + b"\n")
            last = await self._follow(process.stdout)
            code = None if last else await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        problem = f"the trial of the model ended unexpectedly (code {code})"
        self.progress = last or SetupProgress(step="failed", problem=problem)
        if self.progress.step == "done":
            self.progress = msgspec.structs.replace(self.progress, step="restarting")
            self._restart()

    async def _follow(self, lines: asyncio.StreamReader) -> SetupProgress | None:
        """Show the progress, and return the last one; None: the process has ended without it."""
        async for line in lines:
            progress = _decode_progress(line)
            if progress.step in ("done", "failed"):
                return progress
            self.progress = progress
        return None
