"""``palaver chat`` at a terminal, with a server."""

import asyncio
import contextlib
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator

from tests.server.web.house import PATIENCE, House, eventually, open_house

from palaver.config.settings import ConcurrencyPolicySettings
from palaver.messages import Conversation

COMMAND = (sys.executable, "-c", "from palaver.cli import main; main()", "chat")


class TerminalSession:
    """A terminal that runs ``palaver chat``."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self.process = process
        self.output = ""
        self._terminal = terminal
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(terminal, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._terminal, 65_536)
        except OSError:  # the other side is closed
            asyncio.get_running_loop().remove_reader(self._terminal)
            return
        self.output += re.sub(r"\x1b\[[0-9;]*m", "", data.decode()).replace("\r", "")
        self._changed.set()

    def type(self, text: str) -> None:
        os.write(self._terminal, f"{text}\n".encode())

    def press(self, key: bytes) -> None:
        os.write(self._terminal, key)

    async def wait_for(self, text: str) -> None:
        """Wait for ``text`` in the output, and drop the output up to its end."""
        async with asyncio.timeout(2 * PATIENCE):  # the command takes a moment to start
            while text not in self.output:
                self._changed.clear()
                await self._changed.wait()
        self.output = self.output.partition(text)[2]


@contextlib.asynccontextmanager
async def open_terminal(house: House, *arguments: str) -> AsyncIterator[TerminalSession]:
    terminal, other_side = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        f"--url={house.address}",
        *arguments,
        stdin=other_side,
        stdout=other_side,
        start_new_session=True,
    )
    os.close(other_side)
    session = TerminalSession(process, terminal)
    try:
        await session.wait_for("> ")
        yield session
    finally:
        asyncio.get_running_loop().remove_reader(terminal)
        os.close(terminal)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_the_position_in_the_queue_counts_down(house: House) -> None:
    async with open_terminal(house) as session:
        session.type("/teller go")
        house.teller.tell("Once upon", end=False)
        await session.wait_for("Once upon")
        session.type("first")
        await session.wait_for("[1 ahead of you]")
        session.type("/teller again")
        await session.wait_for("[2 ahead of you]")
        house.teller.tell(" a time")
        await session.wait_for(" a time\n[1 ahead of you]")
        await session.wait_for("[parrot] first")
        house.teller.tell("The end")
        await session.wait_for("The end\n> ")


async def test_a_message_that_the_running_turn_does_not_take_is_answered_by_the_next_turn() -> None:
    steering = ConcurrencyPolicySettings(skills={"teller": "steer"})
    async with (
        open_house(concurrency_policy=steering) as house,
        open_terminal(house) as session,
    ):
        session.type("/teller go")
        house.teller.tell("Straight on", end=False)
        await session.wait_for("Straight on")
        session.type("left")
        await session.wait_for("[added to the running turn]")
        house.teller.tell("!")
        await session.wait_for("!\n")
        await session.wait_for("[parrot] left \n> ")


async def test_a_terminal_opened_during_a_reply_shows_the_rest_of_it(house: House) -> None:
    async with house.client("t", person="bob") as wire:
        await wire.say("/teller go")
        house.teller.tell("Once upon", end=False)
        await eventually(lambda: is_stored(house, "Once upon"))
        async with open_terminal(house, "--thread=t", "--person=bob") as session:
            session.type("and then?")
            await session.wait_for("[1 ahead of you]")
            house.teller.tell(" a time")
            await session.wait_for("a time\n[parrot] and then? \n> ")


async def is_stored(house: House, text: str) -> bool:
    """Return True when the ledger has ``text``."""
    snapshot = await house.server.snapshot(Conversation("default", "web", "t"))
    return any(text in turn.reply for turn in snapshot.pending)


async def test_ctrl_c_stops_the_reply_and_then_ends(house: House) -> None:
    async with open_terminal(house) as session:
        session.type("/teller go")
        house.teller.tell("Once upon", end=False)
        await session.wait_for("Once upon")
        session.process.send_signal(signal.SIGINT)
        await session.wait_for("[stopped]\n> ")
        session.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(session.process.wait(), PATIENCE) == 0


async def test_ctrl_d_ends(house: House) -> None:
    async with open_terminal(house) as session:
        session.press(b"\x04")
        assert await asyncio.wait_for(session.process.wait(), PATIENCE) == 0


async def test_lines_of_a_file_are_answered_one_after_the_other(house: House) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        f"--url={house.address}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(2 * PATIENCE):
        output, _ = await process.communicate(b"one\n\ntwo\n")
    assert process.returncode == 0
    replies = re.findall(r"\[parrot\] (\w+) ", re.sub(r"\x1b\[[0-9;]*m", "", output.decode()))
    assert replies == ["one", "two"]
    assert "ahead" not in output.decode()
