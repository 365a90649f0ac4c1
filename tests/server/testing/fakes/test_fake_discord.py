"""The fake Discord as discord.py sees it: messages, channels, threads."""

import asyncio
from collections.abc import AsyncIterator

import discord
import pytest
import pytest_asyncio
from tests.server.testing.fakes.discord_bot import Bot, connected, logged_in, until

from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordFile,
    DiscordLimits,
    DiscordUser,
    FakeDiscord,
)


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeDiscord]:
    async with FakeDiscord(limits=DiscordLimits.generous()) as fake:
        yield fake


@pytest.fixture
def ada(fake: FakeDiscord) -> DiscordUser:
    return fake.add_user("Ada")


@pytest.fixture
def general(fake: FakeDiscord) -> DiscordChannel:
    return fake.add_channel("general")


def get_channel(bot: Bot, channel: DiscordChannel) -> discord.TextChannel:
    found = bot.get_channel(channel.id)
    assert isinstance(found, discord.TextChannel)
    return found


def texts(fake: FakeDiscord, channel: DiscordChannel) -> list[tuple[str, str]]:
    return [(m.author.name, m.content) for m in fake.conversation(channel)]


async def test_a_bot_answers_a_mention(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        await fake.say(general, ada, "Hello", mentions_bot=True)
        await until(lambda: bot.messages)
        message = bot.messages[0]
        assert bot.user in message.mentions
        assert isinstance(message.author, discord.Member)
        await message.channel.send("Hello Ada")
        await until(lambda: len(bot.messages) == 2)
    assert texts(fake, general) == [
        ("Ada", f"<@{fake.bot.id}> Hello"),
        ("Palaver", "Hello Ada"),
    ]


async def test_a_bot_edits_and_deletes(fake: FakeDiscord, general: DiscordChannel) -> None:
    async with connected(fake) as bot:
        message = await get_channel(bot, general).send("one")
        await message.edit(content="two")
        await until(lambda: bot.edits)
        assert texts(fake, general) == [("Palaver", "two")]
        assert fake.conversation(general)[0].revisions == ["one"]
        await message.delete()
        await until(lambda: bot.deletions)
        with pytest.raises(discord.NotFound, match="10008"):
            await message.edit(content="three")
    assert texts(fake, general) == []


async def test_a_bot_sees_edits_and_deletions(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        message = await fake.say(general, ada, "helo")
        await fake.edit(message, "hello")
        await fake.delete(message)
        await until(lambda: bot.deletions)
        assert [edit.message.content for edit in bot.edits] == ["hello"]
        assert bot.deletions[0].message_id == message.id


async def test_history_after_before_and_around(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        said = [await fake.say(general, ada, str(number)) for number in range(6)]
        channel = get_channel(bot, general)
        middle = discord.Object(said[2].id)

        async def read(**options: object) -> list[str]:
            return [m.content async for m in channel.history(**options)]  # type: ignore[arg-type]

        assert await read() == ["5", "4", "3", "2", "1", "0"]
        assert await read(limit=2, after=middle) == ["3", "4"]
        assert await read(limit=2, before=middle) == ["1", "0"]
        assert await read(limit=3, around=middle) == ["3", "2", "1"]
        assert (await channel.fetch_message(said[4].id)).content == "4"


async def test_a_restarted_bot_reads_what_it_missed(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake):
        last = await fake.say(general, ada, "seen")
    await fake.say(general, ada, "missed")
    async with connected(fake) as bot:
        missed = [
            message.content
            async for message in get_channel(bot, general).history(after=discord.Object(last.id))
        ]
        assert missed == ["missed"]
        assert bot.messages == []


async def test_files_in_and_out(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        await fake.say(general, ada, attachments=[DiscordFile("a.txt", b"text", "text/plain")])
        await until(lambda: bot.messages)
        (attachment,) = bot.messages[0].attachments
        assert (attachment.filename, attachment.size) == ("a.txt", 4)
        assert await attachment.read() == b"text"
        files = [discord.File(__file__, filename="b.py"), discord.File(__file__, filename="c.py")]
        sent = await get_channel(bot, general).send("look", files=files)
        assert [attachment.filename for attachment in sent.attachments] == ["b.py", "c.py"]
    shown = fake.conversation(general)[1]
    assert [attachment.file.name for attachment in shown.attachments] == ["b.py", "c.py"]


async def test_direct_messages(fake: FakeDiscord, ada: DiscordUser) -> None:
    async with connected(fake) as bot:
        direct = fake.open_direct(ada)
        await fake.say(direct, ada, "psst")
        await until(lambda: bot.messages)
        assert isinstance(bot.messages[0].channel, discord.DMChannel)
        user = await bot.fetch_user(ada.id)
        await user.send("yes?")
    assert texts(fake, direct) == [("Ada", "psst"), ("Palaver", "yes?")]


async def test_concurrent_tasks_write_in_one_channel(
    fake: FakeDiscord, general: DiscordChannel
) -> None:
    async with logged_in(fake) as bot:
        channel = await bot.fetch_channel(general.id)
        assert isinstance(channel, discord.TextChannel)
        await asyncio.gather(*(channel.send(str(number)) for number in range(5)))
    assert sorted(text for _, text in texts(fake, general)) == ["0", "1", "2", "3", "4"]


async def test_a_message_may_be_delivered_again(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        message = await fake.say(general, ada, "again")
        await fake.deliver_again(message)
        await until(lambda: bot.texts == ["again", "again"])
    assert texts(fake, general) == [("Ada", "again")]


async def test_files_may_be_gone(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        message = await fake.say(general, ada, attachments=[DiscordFile("a.txt", b"a")])
        await until(lambda: bot.messages)
        fake.remove_files(message)
        with pytest.raises(discord.NotFound):
            await bot.messages[0].attachments[0].read()
