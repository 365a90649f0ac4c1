"""Replies that are observed while their server is killed."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import aiohttp
from tests.chaos.client import ReconnectingClient
from tests.live.serve_processes import Slowable, slowed_down

from palaver.messages import Conversation, Message, new_id

QUESTION = "Write a function to check if a number is prime"
WAIT_SECONDS = 60.0


class Server(Slowable, Protocol):
    """A server process or a container."""

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


async def check_takeover(
    address: str,
    servers: Sequence[ServerT],
    find_active: Callable[[], Awaitable[ServerT]],
    key: str = "",
) -> ServerT:
    """Kill the server that writes a reply, with a client behind the proxy at ``address``. Check
    that the client gets what it gets without a fault, each character once. Return the server."""
    async with connected(address, key) as client:
        expected = await wait_for_reply(client, await begin_reply(client))
    async with connected(address, key) as client, slowed_down(*servers):
        turn = await begin_reply(client)
        has_begun = await client.wait_until(
            lambda: len(client.recorder.texts.get(turn, "")) > len(expected) // 3,
            idle_seconds=WAIT_SECONDS,
        )
        assert has_begun
        killed = await find_active()
        await killed.kill()
        assert await wait_for_reply(client, turn) == expected
    assert client.takeover_times[turn]
    assert client.protocol_errors == []
    return killed
