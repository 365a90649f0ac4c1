"""Fixtures for skill packages. Installing palaver brings them; they import nothing until used."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest_asyncio

if TYPE_CHECKING:
    from palaver.testing import ChatClient

Begin = Callable[..., "Awaitable[ChatClient]"]


@pytest_asyncio.fixture
async def begin() -> AsyncIterator[Begin]:
    """Begin conversations that end with the test::

    async def test_haiku(begin):
        chat = await begin(Haiku, engine=ScriptedEngine("Old pond."))
        assert "pond" in await chat.say("write a haiku about a frog")

    Takes what `palaver.testing.converse` takes.
    """
    from palaver.testing import converse  # a test run without skills should not pay for it

    async with contextlib.AsyncExitStack() as stack:

        async def begin(*skills: Any, **parts: Any) -> "ChatClient":  # Any: as converse takes them
            return await stack.enter_async_context(converse(*skills, **parts))

        yield begin
