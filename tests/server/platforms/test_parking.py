"""Parked conversations are listed, and posted or settled when an operator says so."""

import asyncio

import pytest
from tests.server.platforms.board import Board
from tests.server.platforms.test_poster import CHANNEL, Bot, running

from palaver.platforms.parking import PARKING_SECONDS, ParkedConversations

pytestmark = pytest.mark.slow


def parked_of(bot: Bot) -> ParkedConversations:
    return ParkedConversations(bot.server.records, CHANNEL, clock=bot.clock)


async def park(bot: Bot, *threads: str) -> ParkedConversations:
    """Park conversations, each with one reply that waits."""
    for thread in threads:
        bot.board.faults["create", bot.board.calls.count("create") + 1] = "refused"
        await bot.say(f"Hello {thread}", thread)
        await bot.until(lambda record: b"archived" in record.value, thread)
        bot.clock.now += 1
    bot.board.faults.clear()
    return parked_of(bot)


async def listed(parked: ParkedConversations) -> list[str]:
    return [each.conversation.thread for each in await parked.list()]


async def test_a_parked_conversation_is_listed_with_its_problem() -> None:
    async with running(Board()) as bot:
        parked = await park(bot, "a", "b")
        assert await listed(parked) == ["b", "a"]
        assert (await parked.list())[0].problem == "the channel is archived"


async def test_a_replayed_conversation_is_posted() -> None:
    async with running(Board()) as bot:
        parked = await park(bot, "a")
        assert await parked.replay(bot.conversation("a"))
        assert await bot.until_posted("a") == ["Hello a"]
        assert await listed(parked) == []
        assert not await parked.replay(bot.conversation("a"))


async def test_a_replayed_conversation_that_is_refused_again_is_listed_again() -> None:
    async with running(Board()) as bot:
        parked = await park(bot, "a")
        bot.board.faults["create", bot.board.calls.count("create") + 1] = "refused"
        await parked.replay(bot.conversation("a"))
        await bot.until(lambda record: b"archived" in record.value, "a")
        assert await listed(parked) == ["a"]


async def test_the_conversations_of_an_installation_are_replayed_together() -> None:
    async with running(Board()) as bot:
        parked = await park(bot, "T1a", "T1b", "T2a")
        assert await parked.replay_all("default", "T1") == 2
        assert await bot.until_posted("T1a") == ["Hello T1a"]
        assert await bot.until_posted("T1b") == ["Hello T1b"]
        assert await listed(parked) == ["T2a"]
        assert await parked.replay_all("another tenant") == 0


async def test_a_discarded_conversation_goes_on_with_the_next_message() -> None:
    async with running(Board()) as bot:
        parked = await park(bot, "a")
        bot.board.faults["create", bot.board.calls.count("create") + 1] = "refused"
        async with bot.board.next_call("create"):
            await bot.say("Anybody?", "a")
        await bot.until(lambda record: record.due_at is None, "a")
        assert await parked.discard(bot.conversation("a"), bot.server.snapshot)
        assert await listed(parked) == []
        await bot.say("Anew", "a")
        assert await bot.until_posted("a", count=3) == ["Anew"]


async def test_an_erased_conversation_is_listed_no_longer() -> None:
    async with running(Board()) as bot:
        parked = await park(bot, "a")
        await bot.server.erase("default", "ada")
        assert await listed(parked) == []
        assert await bot.server.records.list_records(CHANNEL, "parked:") == ()
        assert not await parked.replay(bot.conversation("a"))
        assert not await parked.discard(bot.conversation("a"), bot.server.snapshot)


async def test_a_conversation_that_is_about_to_be_parked_stays_listed() -> None:
    async with running(Board()) as bot:
        await bot.say("Hello")
        await bot.until_posted()
        parked = parked_of(bot)
        await parked.add(bot.conversation())
        await parked.add(bot.conversation())
        assert await parked.list() == []
        assert len(await bot.server.records.list_records(CHANNEL, "parked:")) == 1
        bot.clock.now += PARKING_SECONDS + 1
        assert await parked.list() == []
        assert await bot.server.records.list_records(CHANNEL, "parked:") == ()


async def test_two_operators_replay_once() -> None:
    async with running(Board()) as bot:
        parked = await park(bot, "a")
        both = await asyncio.gather(*[parked.replay(bot.conversation("a")) for _ in range(2)])
        assert sorted(both) == [False, True]
        assert await bot.until_posted("a") == ["Hello a"]
