"""``palaver chat`` at a terminal, with a server."""

import asyncio
import contextlib
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator

from tests.server.web.live_server import TIMEOUT_SECONDS, LiveServer, eventually, open_live_server

from palaver.config.settings import ConcurrencyPolicySettings
from palaver.messages import Conversation

COMMAND = (sys.executable, "-c", "from palaver.cli import main; main()", "chat")


class Person:
    """Somebody at a terminal that runs ``palaver chat``."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self.process = process
        self.seen = ""
        self._terminal = terminal
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(terminal, self._look)

    def _look(self) -> None:
        try:
            data = os.read(self._terminal, 65_536)
        except OSError:  # the other side is closed
            asyncio.get_running_loop().remove_reader(self._terminal)
            return
        self.seen += re.sub(r"\x1b\[[0-9;]*m", "", data.decode()).replace("\r", "")
        self._changed.set()

    def type(self, text: str) -> None:
        os.write(self._terminal, f"{text}\n".encode())

    def press(self, key: bytes) -> None:
        os.write(self._terminal, key)

    async def sees(self, text: str) -> None:
        """Wait for ``text``; what came up to there is not looked at again."""
        async with asyncio.timeout(2 * TIMEOUT_SECONDS):  # the command takes a moment to start
            while text not in self.seen:
                self._changed.clear()
                await self._changed.wait()
        self.seen = self.seen.partition(text)[2]


@contextlib.asynccontextmanager
async def sitting_at(live_server: LiveServer, *arguments: str) -> AsyncIterator[Person]:
    terminal, other_side = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        f"--url={live_server.address}",
        *arguments,
        stdin=other_side,
        stdout=other_side,
        start_new_session=True,
    )
    os.close(other_side)
    person = Person(process, terminal)
    try:
        await person.sees("> ")
        yield person
    finally:
        asyncio.get_running_loop().remove_reader(terminal)
        os.close(terminal)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_the_place_in_the_queue_counts_down(live_server: LiveServer) -> None:
    async with sitting_at(live_server) as person:
        person.type("/scripted go")
        live_server.scripted.emit("Once upon", end=False)
        await person.sees("Once upon")
        person.type("first")
        await person.sees("[1 ahead of you]")
        person.type("/scripted again")
        await person.sees("[2 ahead of you]")
        live_server.scripted.emit(" a time")
        await person.sees(" a time\n[1 ahead of you]")
        await person.sees("[parrot] first")
        live_server.scripted.emit("The end")
        await person.sees("The end\n> ")


async def test_a_message_that_joins_is_told_and_one_that_was_not_taken_is_answered() -> None:
    steering = ConcurrencyPolicySettings(skills={"scripted": "steer"})
    async with (
        open_live_server(concurrency_policy=steering) as live_server,
        sitting_at(live_server) as person,
    ):
        person.type("/scripted go")
        live_server.scripted.emit("Straight on", end=False)
        await person.sees("Straight on")
        person.type("left")
        await person.sees("[handed to the running skill]")
        live_server.scripted.emit("!")
        await person.sees("!\n")
        await person.sees("[parrot] left \n> ")


async def test_one_who_comes_later_sees_the_rest_of_the_reply(live_server: LiveServer) -> None:
    async with live_server.connect("t", person="bob") as client:
        await client.send_message("/scripted go")
        live_server.scripted.emit("Once upon", end=False)
        await eventually(lambda: told(live_server, "Once upon"))
        async with sitting_at(live_server, "--thread=t", "--person=bob") as person:
            person.type("and then?")
            await person.sees("[1 ahead of you]")
            live_server.scripted.emit(" a time")
            await person.sees("a time\n[parrot] and then? \n> ")


async def told(live_server: LiveServer, text: str) -> bool:
    """Whether the ledger has it."""
    snapshot = await live_server.server.snapshot(Conversation("default", "web", "t"))
    return any(text in turn.reply for turn in snapshot.pending)


async def test_ctrl_c_stops_the_reply_and_then_ends(live_server: LiveServer) -> None:
    async with sitting_at(live_server) as person:
        person.type("/scripted go")
        live_server.scripted.emit("Once upon", end=False)
        await person.sees("Once upon")
        person.process.send_signal(signal.SIGINT)
        await person.sees("[stopped]\n> ")
        person.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(person.process.wait(), TIMEOUT_SECONDS) == 0


async def test_ctrl_d_ends(live_server: LiveServer) -> None:
    async with sitting_at(live_server) as person:
        person.press(b"\x04")
        assert await asyncio.wait_for(person.process.wait(), TIMEOUT_SECONDS) == 0


async def test_lines_of_a_file_are_answered_one_after_the_other(live_server: LiveServer) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        f"--url={live_server.address}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(2 * TIMEOUT_SECONDS):
        output, _ = await process.communicate(b"one\n\ntwo\n")
    assert process.returncode == 0
    replies = re.findall(r"\[parrot\] (\w+) ", re.sub(r"\x1b\[[0-9;]*m", "", output.decode()))
    assert replies == ["one", "two"]
    assert "ahead" not in output.decode()
