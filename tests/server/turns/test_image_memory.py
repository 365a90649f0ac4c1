"""A bound on the bytes of images that turns hold."""

import asyncio

import pytest
from tests.server.turns.test_takeover import until
from tests.skills.test_chat import CAT, attach

from palaver.messages import Conversation
from palaver.testing import ChatClient, ScriptedEngine, converse
from palaver.turns.image_memory import IMAGE_MEMORY, ImageMemory
from palaver_skills.chat import Chat


class Holders:
    """Tasks that hold bytes of a memory until they are told to let go."""

    def __init__(self, memory: ImageMemory) -> None:
        self._memory = memory
        self.holding: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str, size: int) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, size))
        await self.settle()

    async def _hold(self, name: str, size: int) -> None:
        async with self._memory.hold(size):
            self.holding.append(name)
            await self._ends[name].wait()
        self.holding.remove(name)

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_who_waits_is_served_in_order_and_within_the_bound() -> None:
    holders = Holders(ImageMemory(10))
    for name, size in (("a", 6), ("b", 6), ("c", 2)):
        await holders.start(name, size)
    assert holders.holding == ["a"], "c does not overtake b"
    await holders.end("a")
    assert holders.holding == ["b", "c"]
    await holders.end("b")
    await holders.start("d", 8)
    assert holders.holding == ["c", "d"]
    await holders.end("c")
    await holders.end("d")
    await holders.start("e", 10)
    assert holders.holding == ["e"]
    await holders.end("e")


async def test_a_cancelled_wait_gives_way() -> None:
    holders = Holders(ImageMemory(10))
    for name, size in (("a", 6), ("b", 10), ("c", 4)):
        await holders.start(name, size)
    await holders.cancel("b")
    assert holders.holding == ["a", "c"]
    await holders.end("a")
    await holders.end("c")
    await holders.start("d", 10)
    assert holders.holding == ["d"], "nothing is lost"
    await holders.end("d")


async def test_a_wait_that_is_cancelled_when_it_ends_loses_nothing() -> None:
    memory = ImageMemory(10)
    holders = Holders(memory)
    async with memory.hold(10):
        await holders.start("b", 10)
    holders.tasks["b"].cancel()  # before its task has run again
    await holders.start("c", 10)
    assert holders.holding == ["c"]
    with pytest.raises(asyncio.CancelledError):
        await holders.tasks["b"]
    await holders.end("c")


async def test_turns_with_images_wait_for_memory_and_others_do_not() -> None:
    engine = ScriptedEngine("Hello.", "A cat.")
    async with converse(Chat, engine=engine) as chat:
        memory = chat.server._dispatcher._services.image_memory
        async with memory.hold(IMAGE_MEMORY):
            turn = await chat.send("What is it?", attachments=attach(CAT))
            other = Conversation("default", "test", "other")
            await ChatClient(chat.server, other, "bob").send("hi")
            await until(lambda: bool(engine.requests and memory._waiting))
            assert [request.messages[-1].content for request in engine.requests] == ["hi"]
        assert await chat.reply(turn) == "A cat."
        async with memory.hold(IMAGE_MEMORY):  # what the turn held is free again
            assert engine.requests[1].messages[-1].images


async def test_a_stopped_turn_waits_no_longer() -> None:
    async with converse(Chat, engine=ScriptedEngine("A cat.")) as chat:
        memory = chat.server._dispatcher._services.image_memory
        async with memory.hold(IMAGE_MEMORY):
            turn = await chat.send("What is it?", attachments=attach(CAT))
            await until(lambda: bool(memory._waiting))
            await chat.stop(turn)
            assert (await chat.reply(turn)).outcome == "stopped"
        assert await chat.say("And now?", attachments=attach(CAT)) == "A cat."
