"""Rate limits and faults of the fake Discord, as discord.py takes them."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import discord
import pytest
import pytest_asyncio
from tests.server.testing.fakes.discord_bot import Bot, logged_in, until

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordLimits,
    DiscordRequest,
    FakeDiscord,
)

pytestmark = pytest.mark.slow

POST = "POST */messages"


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeDiscord]:
    async with FakeDiscord(clock=FakeClock(), limits=DiscordLimits.generous()) as fake:
        yield fake


@pytest.fixture
def general(fake: FakeDiscord) -> DiscordChannel:
    return fake.add_channel("general")


async def find(bot: Bot, channel: DiscordChannel) -> discord.TextChannel:
    found = await bot.fetch_channel(channel.id)
    assert isinstance(found, discord.TextChannel)
    return found


def posts(fake: FakeDiscord) -> list[DiscordRequest]:
    return [request for request in fake.requests if request.name.endswith("/messages")]


def texts(fake: FakeDiscord, channel: DiscordChannel) -> list[str]:
    return [message.content for message in fake.conversation(channel)]


async def get(fake: FakeDiscord, path: str, token: str = "") -> aiohttp.ClientResponse:
    """Ask without a library, and read the whole answer."""
    headers = {"Authorization": f"Bot {token or fake.token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(fake.api_url + path, headers=headers) as response,
    ):
        await response.read()
        return response


# Rate limits


async def test_a_bucket_of_five_for_creating_and_editing() -> None:
    async with FakeDiscord(clock=FakeClock()) as fake, aiohttp.ClientSession() as session:
        channel, other = fake.add_channel("a"), fake.add_channel("b")

        async def send(method: str, path: str) -> aiohttp.ClientResponse:
            url = f"{fake.api_url}/channels/{path}"
            headers = {"Authorization": f"Bot {fake.token}"}
            async with session.request(
                method, url, json={"content": "a"}, headers=headers
            ) as response:
                await response.read()
                return response

        await send("POST", f"{channel.id}/messages")
        (message,) = fake.conversation(channel)
        for remaining in (3, 2, 1, 0):
            answer = await send("PATCH", f"{channel.id}/messages/{message.id}")
            assert answer.headers["X-RateLimit-Remaining"] == str(remaining)
        refused = await send("POST", f"{channel.id}/messages")
        assert refused.status == 429
        assert refused.headers["X-RateLimit-Scope"] == "user"
        assert refused.headers["X-RateLimit-Bucket"] == answer.headers["X-RateLimit-Bucket"]
        assert refused.headers["Via"]
        assert (await refused.json())["retry_after"] == 5.0
        assert (await send("POST", f"{other.id}/messages")).status == 200
        fake.clock.advance(5)
        assert (await send("POST", f"{channel.id}/messages")).status == 200
        assert fake.rate_limits.refused == 1


async def test_fifty_requests_a_second() -> None:
    limits = DiscordLimits(bucket=1000)
    async with FakeDiscord(clock=FakeClock(), limits=limits) as fake:
        answers = await asyncio.gather(*(get(fake, "/users/@me") for _ in range(51)))
        refused = [answer for answer in answers if answer.status == 429]
        assert len(refused) == 1
        assert refused[0].headers["X-RateLimit-Global"] == "true"
        assert (await refused[0].json())["global"] is True
        assert (await get(fake, "/gateway")).status == 200
        fake.clock.advance(1)
        assert (await get(fake, "/users/@me")).status == 200


async def test_too_many_invalid_requests_are_a_ban() -> None:
    limits = DiscordLimits(invalid_requests=3, bucket=1000)
    async with FakeDiscord(clock=FakeClock(), limits=limits) as fake:
        await get(fake, "/users/@me", token="wrong")
        fake.faults.limit(0.1, scope="shared")
        await get(fake, "/users/@me")
        assert fake.rate_limits.invalid_requests == 1
        await get(fake, "/users/@me", token="wrong")
        await get(fake, "/users/@me", token="wrong")
        banned = await get(fake, "/users/@me")
        assert (banned.status, banned.content_type) == (429, "text/html")
        assert "Via" not in banned.headers
        fake.clock.advance(3601)
        assert (await get(fake, "/users/@me")).status == 200


async def test_invalid_requests_are_forgotten_after_ten_minutes() -> None:
    limits = DiscordLimits(invalid_requests=2)
    async with FakeDiscord(clock=FakeClock(), limits=limits) as fake:
        await get(fake, "/users/@me", token="wrong")
        fake.clock.advance(601)
        assert fake.rate_limits.invalid_requests == 0
        await get(fake, "/users/@me", token="wrong")
        assert (await get(fake, "/users/@me")).status == 200


async def test_the_library_waits_for_a_limit(fake: FakeDiscord, general: DiscordChannel) -> None:
    async with logged_in(fake) as bot:
        channel = await find(bot, general)
        fake.faults.limit(0.01, POST)
        fake.faults.limit(0.01, POST, scope="shared")
        await channel.send("patient")
    assert [request.status for request in posts(fake)] == [429, 429, 200]
    assert texts(fake, general) == ["patient"]


async def test_a_limit_without_via_is_an_error(fake: FakeDiscord, general: DiscordChannel) -> None:
    async with logged_in(fake) as bot:
        channel = await find(bot, general)
        fake.faults.limit(0.01, POST, has_via=False)
        with pytest.raises(discord.HTTPException) as error:
            await channel.send("a")
    assert error.value.status == 429
    assert texts(fake, general) == []


async def test_the_library_may_refuse_to_wait(fake: FakeDiscord, general: DiscordChannel) -> None:
    async with logged_in(fake, max_ratelimit_timeout=30) as bot:
        channel = await find(bot, general)
        fake.faults.limit(60, POST)
        with pytest.raises(discord.RateLimited):
            await channel.send("a")


# Faults


async def test_a_503_is_raised_at_once(fake: FakeDiscord, general: DiscordChannel) -> None:
    async with logged_in(fake) as bot:
        channel = await find(bot, general)
        fake.faults.answer(503, POST)
        with pytest.raises(discord.DiscordServerError):
            await channel.send("a")
    assert [request.status for request in posts(fake)] == [503]


async def test_a_500_is_tried_again_with_the_same_nonce(
    fake: FakeDiscord, general: DiscordChannel
) -> None:
    async with logged_in(fake) as bot:
        channel = await find(bot, general)
        fake.faults.answer(500, POST)
        await channel.send("a")
    first, second = posts(fake)
    assert (first.status, second.status) == (500, 200)
    assert first.body["nonce"] == second.body["nonce"]
    assert texts(fake, general) == ["a"]


async def test_a_lost_answer_is_found_by_the_nonce(
    fake: FakeDiscord, general: DiscordChannel
) -> None:
    async with logged_in(fake) as bot:
        channel = await find(bot, general)
        fake.faults.lose(POST)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await channel.send("a", nonce="delivery-1")
        (lost,) = posts(fake)
        assert (lost.is_committed, lost.is_lost, lost.status) == (True, True, 200)
        again = await channel.send("a", nonce="delivery-1")
    (message,) = fake.conversation(general)
    assert (message.id, message.nonce) == (again.id, "delivery-1")


async def test_a_dropped_request_does_nothing(fake: FakeDiscord, general: DiscordChannel) -> None:
    async with logged_in(fake) as bot:
        channel = await find(bot, general)
        fake.faults.drop(POST)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await channel.send("a")
    (dropped,) = posts(fake)
    assert (dropped.is_committed, dropped.is_lost, dropped.status) == (False, True, 0)
    assert texts(fake, general) == []


async def test_answers_lost_at_random_are_the_same_with_the_same_seed() -> None:
    async def lost(seed: int) -> list[bool]:
        async with FakeDiscord(limits=DiscordLimits.generous()) as fake:
            channel = fake.add_channel("a")
            async with logged_in(fake) as bot:
                found = await find(bot, channel)
                fake.faults.lose_at_random(0.5, seed=seed)
                sends = [found.send(str(number)) for number in range(20)]
                for send in sends:
                    await asyncio.gather(send, return_exceptions=True)
            assert len(fake.conversation(channel)) == 20
            return [request.is_lost for request in posts(fake)]

    assert await lost(1) == await lost(1)
    assert any(await lost(1))
    assert not all(await lost(1))
    assert await lost(1) != await lost(2)


async def test_a_request_hangs_until_it_is_released(
    fake: FakeDiscord, general: DiscordChannel
) -> None:
    async with logged_in(fake) as bot:
        channel = await find(bot, general)
        fault = fake.faults.hang(POST)
        sending = asyncio.create_task(channel.send("late"))
        await until(lambda: fault.waiting)
        assert texts(fake, general) == []
        fault.release()
        await sending
    assert texts(fake, general) == ["late"]


async def test_a_fault_meets_the_requests_that_it_names(
    fake: FakeDiscord, general: DiscordChannel
) -> None:
    fake.faults.answer(503, "DELETE *", times=2)
    async with logged_in(fake) as bot:
        channel = await find(bot, general)
        message = await channel.send("a")
        for _ in range(2):
            with pytest.raises(discord.DiscordServerError):
                await message.delete()
        fake.faults.answer(503, times=10)
        fake.faults.clear()
        await message.delete()
    assert texts(fake, general) == []


async def test_an_answer_may_hang_after_the_effect(
    fake: FakeDiscord, general: DiscordChannel
) -> None:
    async with logged_in(fake) as bot:
        channel = await find(bot, general)
        fault = fake.faults.hang(POST, is_committed=True)
        sending = asyncio.create_task(channel.send("done"))
        await fake.wait_until(lambda: fault.waiting)
        assert texts(fake, general) == ["done"]
        assert not sending.done()
        fault.release()
        await sending


async def test_a_refusal_by_its_code(fake: FakeDiscord, general: DiscordChannel) -> None:
    async with logged_in(fake) as bot:
        channel = await find(bot, general)
        fake.faults.refuse(50013, POST)
        with pytest.raises(discord.Forbidden, match="50013"):
            await channel.send("a")
        await channel.send("b")
    assert [request.code for request in posts(fake)] == [50013, 0]


async def test_hooks_see_each_request_before_and_after_its_effect(
    fake: FakeDiscord, general: DiscordChannel
) -> None:
    seen: list[tuple[str, str, int]] = []

    async def before(request: DiscordRequest) -> None:
        seen.append(("before", request.method, len(texts(fake, general))))

    async def after(request: DiscordRequest) -> None:
        seen.append(("after", request.method, len(texts(fake, general))))

    async with logged_in(fake) as bot:
        channel = await find(bot, general)
        fake.before_call(before)
        fake.after_call(after)
        fake.faults.drop(POST)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await channel.send("dropped")
        await channel.send("a")
    assert seen == [("before", "POST", 0), ("after", "POST", 1)]


async def test_waiting_has_an_end(fake: FakeDiscord) -> None:
    with pytest.raises(TimeoutError):
        await fake.wait_until(lambda: fake.requests, within=0.01)
