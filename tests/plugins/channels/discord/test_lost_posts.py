"""Posts whose answer was lost are recognized by their nonce for minutes, then by what they show."""

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.plugins.channels.discord.support import (
    posted,
    restored_addresses,
    settings_for,
    texts,
)

from palaver import Attachment, Conversation, new_id
from palaver.platforms import (
    AlreadyPosted,
    MessageGone,
    OutgoingPost,
    RateLimited,
    TurnReply,
    Unreachable,
)
from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordMessage,
    DiscordUser,
    FakeDiscord,
)
from palaver_plugins.channels.discord.api import Api
from palaver_plugins.channels.discord.places import COMMAND, MessageSource
from palaver_plugins.channels.discord.platform import NOTHING, DiscordPlatform, nonce_of

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def platform(fake: FakeDiscord) -> AsyncIterator[DiscordPlatform]:
    with restored_addresses():
        api = Api(settings_for(fake))
        yield DiscordPlatform(api)
        await api.close()


async def save() -> None: ...


def post_in(room: DiscordChannel, text: str, asked: DiscordMessage, **fields: Any) -> OutgoingPost:
    """Return a post; ``fields`` are those of `OutgoingPost`."""
    assert room.guild is not None
    post = OutgoingPost(
        id=new_id(),
        conversation=Conversation("default", "discord", f"{room.guild.id}.{room.id}"),
        text=text,
        number=0,
        is_last=False,
        reply=TurnReply(new_id(), messages=[str(asked.id)]),
        message="",
        notes={},
        save_notes=save,
    )
    return dataclasses.replace(post, **fields)


@pytest_asyncio.fixture
async def asked(fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser) -> DiscordMessage:
    return await fake.say(room, ada, "A question")


async def test_a_repeated_post_is_the_same_message(
    fake: FakeDiscord, room: DiscordChannel, asked: DiscordMessage, platform: DiscordPlatform
) -> None:
    post = post_in(room, "one", asked)
    first = await platform.create(post)
    assert await platform.create(post) == first
    assert texts(fake, room) == ["one"]


@pytest.mark.parametrize("change", ["text", "buttons"])
async def test_a_repeated_post_that_has_changed_is_told(
    fake: FakeDiscord,
    room: DiscordChannel,
    asked: DiscordMessage,
    platform: DiscordPlatform,
    change: str,
) -> None:
    post = post_in(room, "one", asked, is_last=True)
    first = await platform.create(post)
    done = dataclasses.replace(post.reply, outcome="done")
    changed = {
        "text": dataclasses.replace(post, text="one and two"),
        "buttons": dataclasses.replace(post, reply=done),
    }
    with pytest.raises(AlreadyPosted) as found:
        await platform.create(changed[change])
    assert found.value.message == first
    assert texts(fake, room) == ["one"]


async def test_a_post_is_found_when_its_nonce_is_forgotten(
    fake: FakeDiscord, room: DiscordChannel, asked: DiscordMessage, platform: DiscordPlatform
) -> None:
    with_buttons = post_in(room, "one", asked, is_last=True)
    without = post_in(room, "two \n and\u200b more ", asked)
    file = Attachment(name="a file.txt", media_type="text/plain", url="")
    attached = post_in(room, "", asked, attachment=file, content=b"content")
    created = [await platform.create(each) for each in (with_buttons, without, attached)]
    fake.clock.advance(600)
    grown = dataclasses.replace(with_buttons, text="one, and what came later")
    assert [await platform.find(each) for each in (grown, without, attached)] == created
    assert len(posted(fake, room)) == 3


@pytest.mark.parametrize("asked_by", ["message", "command", "nobody knows"])
async def test_a_post_is_found_since_what_was_asked(
    fake: FakeDiscord,
    room: DiscordChannel,
    ada: DiscordUser,
    asked: DiscordMessage,
    platform: DiscordPlatform,
    asked_by: str,
) -> None:
    messages = {"message": [str(asked.id)], "command": [f"{COMMAND}{asked.id}"]}
    reply = TurnReply("turn", messages=messages.get(asked_by, []))
    post = post_in(room, "one", asked, reply=reply)
    created = await platform.create(post)
    for number in range(90):
        await fake.say(room, ada, f"talk {number}")
    assert await platform.find(post) == created


async def test_other_messages_of_the_bot_are_not_taken_for_a_post(
    fake: FakeDiscord,
    room: DiscordChannel,
    ada: DiscordUser,
    asked: DiscordMessage,
    platform: DiscordPlatform,
) -> None:
    await fake.say(room, ada, "one")
    source = MessageSource(
        thread="t", person="p", user="u", channel=room.id, message=asked.id, room=str(room.id)
    )
    await platform.notify(source, "one")  # a notice
    await platform.create(post_in(room, "one", asked, is_last=True))  # has buttons of its own
    before = await platform.create(post_in(room, "one", asked))
    assert await platform.find(post_in(room, "one", asked, previous=before)) == ""
    assert await platform.find(post_in(room, "two", asked)) == ""


async def test_a_post_that_was_deleted_is_not_posted_again(
    fake: FakeDiscord, room: DiscordChannel, asked: DiscordMessage, platform: DiscordPlatform
) -> None:
    post = post_in(room, "one", asked)
    await platform.create(post)
    await fake.delete(posted(fake, room)[0])
    assert await platform.create(post) == NOTHING
    gone = dataclasses.replace(post, message=NOTHING)
    with pytest.raises(MessageGone):
        await platform.edit(gone)
    with pytest.raises(MessageGone):
        await platform.delete(gone)


@pytest.mark.parametrize("has_via", [True, False])
async def test_a_long_limit_is_left_to_the_kit(
    fake: FakeDiscord,
    room: DiscordChannel,
    asked: DiscordMessage,
    platform: DiscordPlatform,
    has_via: bool,
) -> None:
    await platform.create(post_in(room, "one", asked))
    fake.faults.limit(100.0, "POST */messages", has_via=has_via)
    with pytest.raises(RateLimited) as limited:
        await platform.create(post_in(room, "two", asked))
    assert 99.0 < limited.value.retry_after < 102.0
    assert texts(fake, room) == ["one"]


async def test_a_connection_that_is_lost_is_no_answer(
    fake: FakeDiscord, room: DiscordChannel, asked: DiscordMessage, platform: DiscordPlatform
) -> None:
    post = post_in(room, "one", asked)
    fake.faults.lose("POST */messages")
    with pytest.raises(Unreachable):
        await platform.create(post)
    assert await platform.find(post) == str(posted(fake, room)[0].id)


def test_nonces_are_short_and_different() -> None:
    nonces = {nonce_of(new_id()) for _ in range(1_000)}
    assert len(nonces) == 1_000
    assert max(map(len, nonces)) <= 25
