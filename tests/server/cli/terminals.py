"""A terminal that runs a command of ``palaver``."""

import asyncio
import codecs
import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator

PALAVER = (sys.executable, "-c", "from palaver.cli import main; main()")
COMMAND = (*PALAVER, "chat")
TIMEOUT_SECONDS = 20.0
"""The command takes a moment to start."""
ROWS = 50


class TerminalSession:
    """A terminal that runs a command."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self.process = process
        self.output = ""
        """What it shows after what was waited for, without styles."""
        self.transcript = ""
        """All that it has shown, with the styles as escape sequences."""
        self._terminal = terminal
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(terminal, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._terminal, 65_536)
        except OSError:  # the other side is closed
            asyncio.get_running_loop().remove_reader(self._terminal)
            return
        text = self._decoder.decode(data).replace("\r", "")
        self.transcript += text
        self.output += re.sub(r"\x1b\[[0-9;]*m", "", text)
        self._changed.set()

    def type(self, text: str) -> None:
        os.write(self._terminal, f"{text}\n".encode())

    def press(self, key: bytes) -> None:
        os.write(self._terminal, key)

    async def wait_for(self, text: str) -> None:
        """Wait for ``text`` in the output, and drop the output up to its end."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while text not in self.output:
                self._changed.clear()
                await self._changed.wait()
        self.output = self.output.partition(text)[2]


@contextlib.asynccontextmanager
async def open_terminal(
    address: str, *arguments: str, columns: int = 80
) -> AsyncIterator[TerminalSession]:
    """Run ``palaver chat`` with the server at ``address``, and wait for its prompt."""
    async with run_in_terminal(
        *COMMAND, f"--url={address}", *arguments, columns=columns
    ) as session:
        await session.wait_for("> ")
        yield session


@contextlib.asynccontextmanager
async def run_in_terminal(*command: str, columns: int = 80) -> AsyncIterator[TerminalSession]:
    """Run a command in a terminal of its own."""
    terminal, other_side = pty.openpty()
    fcntl.ioctl(other_side, termios.TIOCSWINSZ, struct.pack("4H", ROWS, columns, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=other_side,
        stdout=other_side,
        stderr=other_side,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        start_new_session=True,
    )
    os.close(other_side)
    session = TerminalSession(process, terminal)
    try:
        yield session
    finally:
        asyncio.get_running_loop().remove_reader(terminal)
        os.close(terminal)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
