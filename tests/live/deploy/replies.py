"""Replies that are observed while their server is killed."""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol, TypeVar

import aiohttp
from tests.chaos.client import ReconnectingClient

from palaver.messages import Conversation, Message, new_id

QUESTION = "/counting go"
WAIT_SECONDS = 60.0


COUNTING = """
import asyncio
from palaver import Skill, Turn

class Counting(Skill):
    \"\"\"Count, as slowly as a large model writes.\"\"\"

    name = "counting"

    async def answer(self, turn: Turn) -> None:
        for number in range(200):
            await turn.say(f"{number} ")
            await asyncio.sleep(0.02)
"""


def write_counting(folder: Path) -> Path:
    """Write a distribution with the skill `counting`, and return the folder for PYTHONPATH."""
    about = folder / "counting-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[palaver]\ncounting = counting\n")
    (folder / "counting.py").write_text(COUNTING)
    return folder


class Server(Protocol):
    """A server process or a container."""

    def signal(self, number: signal.Signals) -> None: ...

    async def running_turn_count(self) -> int: ...

    async def kill(self) -> None: ...


ServerT = TypeVar("ServerT", bound=Server)


@contextlib.asynccontextmanager
async def connected(address: str, key: str) -> AsyncIterator[ReconnectingClient]:
    """Connect a client to a new conversation, as the page does; it accepts any certificate."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
        client = ReconnectingClient(
            session,
            lambda: address,
            thread=new_id(),
            person=None,
            token=key or None,
            rng=random.Random(1),
        )
        running = asyncio.create_task(client.run())
        try:
            yield client
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def begin_reply(client: ReconnectingClient) -> str:
    """Ask, and return the turn."""
    conversation = Conversation("default", "web", "that of the client")
    message = Message(conversation=conversation, id=new_id(), person="anybody", text=QUESTION)
    async with asyncio.timeout(WAIT_SECONDS):
        return await client.send(message)


async def wait_for_reply(client: ReconnectingClient, turn: str) -> str:
    assert await client.wait_until(lambda: turn in client.finished, idle_seconds=WAIT_SECONDS)
    return client.recorder.texts[turn]


async def check_takeover(address: str, servers: tuple[ServerT, ServerT], key: str = "") -> ServerT:
    """Kill the server that writes a reply, with a client behind the proxy at ``address``. Check
    that the client gets each character once. Return the server."""
    expected = "".join(f"{number} " for number in range(200))
    async with connected(address, key) as client:
        turn = await begin_reply(client)
        has_begun = await client.wait_until(
            lambda: len(client.recorder.texts.get(turn, "")) > len(expected) // 4,
            idle_seconds=WAIT_SECONDS,
        )
        assert has_begun
        killed = await kill_active(*servers)
        assert await wait_for_reply(client, turn) == expected
    assert client.takeover_times[turn]
    assert client.protocol_errors == []
    return killed


async def kill_active(first: ServerT, second: ServerT) -> ServerT:
    """Kill the one of two servers that runs a turn, and return it. The other may not go on before
    that is known."""
    second.signal(signal.SIGSTOP)
    try:
        active = first if await first.running_turn_count() else second
        await active.kill()
    finally:
        second.signal(signal.SIGCONT)
    return active
