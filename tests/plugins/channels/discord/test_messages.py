"""Which messages of Discord are answered, and what the bot reads of them."""

import asyncio

import pytest
from tests.plugins.channels.discord.support import (
    Does,
    Replicas,
    fake_discord,
    posted,
    repeat,
    serving,
    texts,
    until,
    until_shown,
)

from palaver import Conversation, Cursor, HistoryEntry, Message, PendingTurn, Snapshot, Turn
from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordFile,
    DiscordUser,
    FakeDiscord,
)
from palaver_plugins.channels.discord.channel import NO_TEXT
from palaver_plugins.channels.discord.messages import is_first
from palaver_plugins.channels.discord.places import Place

pytestmark = pytest.mark.slow


# For whom


async def test_only_messages_for_the_bot_are_answered(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)):
        await fake.say(room, ada, "for nobody")
        await fake.say(room, ada, "one", mentions_bot=True)
        await fake.say(room, ada, f"two {fake.bot.mention}")
        await fake.say(room, ada, f"<@!{fake.bot.id}>, three")
        await until_shown(fake, room, "one", "two", "three")


async def test_a_reply_to_the_bot_is_answered(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)):
        await fake.say(room, ada, "one", mentions_bot=True)
        await until_shown(fake, room, "one")
        await fake.say(room, ada, "two", reply_to=posted(fake, room)[0])
        await until_shown(fake, room, "one", "two")


async def test_a_reply_to_the_second_message_of_a_long_reply_is_answered(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake):
        await fake.say(room, ada, "long", mentions_bot=True)
        await until(lambda: len(posted(fake, room)) > 5)
        second = posted(fake, room)[1]
        await fake.say(room, ada, "say it", reply_to=second)
        await until(lambda: texts(fake, room)[-1] == "You said it.")


async def test_direct_messages_are_answered_without_a_mention(
    fake: FakeDiscord, ada: DiscordUser
) -> None:
    direct = fake.open_direct(ada)
    async with serving(fake, skill=Does(repeat), direct_messages="open"):
        await fake.say(direct, ada, "hello")
        await until_shown(fake, direct, "hello")


async def test_people_who_may_write_direct_messages(fake: FakeDiscord, ada: DiscordUser) -> None:
    bob = fake.add_user("Bob")
    direct, other = fake.open_direct(ada), fake.open_direct(bob)
    people = (str(ada.id),)
    async with serving(
        fake, skill=Does(repeat), direct_messages="allowlist", people=people
    ) as replicas:
        await fake.say(other, bob, "hello")
        await fake.say(direct, ada, "hello")
        await until_shown(fake, direct, "hello")
        await replicas.until_settled()
        assert texts(fake, other) == []


async def test_bots_and_webhooks_are_ignored_and_limited(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    robot = fake.add_user("Robot", is_bot=True)
    async with serving(fake, skill=Does(repeat)) as replicas:
        await fake.say(room, robot, "loop", mentions_bot=True)
        await fake.say(room, robot, "hook", mentions_bot=True, webhook_id=5)
        await fake.say(room, ada, "hello", mentions_bot=True)
        await until_shown(fake, room, "hello")
        await replicas.until_settled()
        assert texts(fake, room) == ["hello"]


async def test_messages_of_bots_are_limited_where_they_are_answered(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    robot = fake.add_user("Robot", is_bot=True)
    async with serving(fake, skill=Does(repeat), bots="answer", bot_turns=2):
        for number in range(4):
            await fake.say(room, robot, f"loop {number}", mentions_bot=True)
        await fake.say(room, ada, "hello", mentions_bot=True)
        await until_shown(fake, room, "loop 0", "loop 1", "hello")


async def test_rooms_that_are_not_listed_are_silent_and_threads_are_as_their_channels(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    other = fake.add_channel("other")
    thread = await fake.start_thread(room, ada, "A thread")
    elsewhere = await fake.start_thread(other, ada, "Another thread")
    rooms = (str(room.id),)
    async with serving(fake, skill=Does(repeat), groups="allowlist", rooms=rooms) as replicas:
        for place in (other, elsewhere, thread, room):
            await fake.say(place, ada, "hello", mentions_bot=True)
        await until_shown(fake, room, "hello")
        await until_shown(fake, thread, "hello")
        await replicas.until_settled()
        assert texts(fake, other) == texts(fake, elsewhere) == []


async def test_a_thread_that_began_while_the_bot_was_away_belongs_to_its_channel(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    thread = await fake.start_thread(room, ada, "Archived")
    await fake.archive(thread)
    async with serving(fake, skill=Does(repeat), groups="allowlist", rooms=(str(room.id),)):
        await fake.say(thread, ada, "hello", mentions_bot=True)
        await until_shown(fake, thread, "hello")


async def test_each_server_has_its_tenant(fake: FakeDiscord, ada: DiscordUser) -> None:
    guild = fake.add_guild("Another")
    fake.join(ada, guild)
    here, there = fake.add_channel("here"), fake.add_channel("there", guild=guild)
    tenants = {str(guild.id): "another"}
    async with serving(fake, skill=Does(repeat), tenants=tenants) as replicas:
        for channel in (here, there):
            await fake.say(channel, ada, "hello", mentions_bot=True)
            await until_shown(fake, channel, "hello")
        records = await replicas.ledger.list_records("discord", "outbox:")
        conversations = {record.key.removeprefix("outbox:") for record in records}
        assert conversations == {
            f"default/discord/{fake.guild.id}.{here.id}",
            f"another/discord/{guild.id}.{there.id}",
        }


async def test_direct_messages_have_the_tenant_of_the_settings(
    fake: FakeDiscord, ada: DiscordUser
) -> None:
    direct = fake.open_direct(ada)
    skill = Does(repeat)
    async with serving(fake, skill=skill, direct_messages="open", tenant="ours") as replicas:
        await fake.say(direct, ada, "hello")
        await until_shown(fake, direct, "hello")
        (record,) = await replicas.ledger.list_records("discord", "outbox:")
        assert record.key.startswith("outbox:ours/discord/")


# What they say


async def read(
    fake: FakeDiscord, room: DiscordChannel, user: DiscordUser, text: str, **about: object
) -> str:
    """Return what the bot reads of a message."""
    skill = Does(repeat)
    async with serving(fake, skill=skill):
        await fake.say(room, user, text, mentions_bot=True, **about)  # type: ignore[arg-type]
        await until(lambda: bool(skill.texts))
    return skill.texts[0]


async def test_mentions_of_others_are_readable(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    bob = fake.add_user("Bob Smith")
    text = f"ask {bob.mention} in <#{room.id}> <:party:123> at <t:0:R> about </help:5> <@&77> <@99>"
    assert await read(fake, room, ada, text) == (
        "ask @Bob Smith in #general :party: at 1970-01-01 00:00 UTC about /help @role @user"
    )


async def test_an_emoji_alone_is_a_message(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    assert await read(fake, room, ada, "<a:party:123>") == ":party:"


async def test_a_mention_alone_is_asked_for_more(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake):
        await fake.say(room, ada, mentions_bot=True)
        await until_shown(fake, room, NO_TEXT)


async def test_a_mention_in_a_reply_to_somebody_reads_what_they_wrote(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    bob = fake.add_user("Bob")
    original = await fake.say(room, bob, "Water boils\nat 100 °C.")
    assert await read(fake, room, ada, "is that right?", reply_to=original) == (
        "Bob wrote:\n> Water boils\n> at 100 °C.\n\nis that right?"
    )


async def test_a_forwarded_message_is_read(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    other = fake.add_channel("other")
    original = await fake.say(other, ada, "Meet at nine.")
    skill = Does(repeat)
    async with serving(fake, skill=skill, direct_messages="open"):
        await fake.say(fake.open_direct(ada), ada, forward=original)
        await until(lambda: skill.texts == ["Forwarded message:\n> Meet at nine."])


async def test_a_spoken_message_is_named(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    audio = DiscordFile("voice-message.ogg", b"OggS" + bytes(100), "audio/ogg", 12.4)
    skill = Does(repeat)
    async with serving(fake, skill=skill, direct_messages="open"):
        await fake.say(fake.open_direct(ada), ada, attachments=[audio])
        await until(lambda: skill.texts == ["[voice message of 12 s]"])


async def test_files_reach_the_skill_also_of_a_forwarded_message(
    fake: FakeDiscord, ada: DiscordUser
) -> None:
    room = fake.add_channel("files")
    file = DiscordFile("notes.txt", b"thirty days", "text/plain")
    original = await fake.say(room, ada, "look", attachments=[file])
    async with serving(fake) as replicas:
        await fake.say(room, ada, "read this", mentions_bot=True, attachments=[file])
        await until_shown(fake, room, "It has 1 files.")
        await fake.say(room, ada, "read that", mentions_bot=True, forward=original)
        await until_shown(fake, room, "It has 1 files.", "It has 2 files.")
        assert replicas.skill.files == [b"thirty days"] * 2  # type: ignore[attr-defined]


async def test_a_file_that_discord_does_not_give_is_told(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake):
        file = DiscordFile("gone.txt", b"gone")
        message = await fake.say(room, ada, "read it", mentions_bot=True, attachments=[file])
        fake.state.attachments.clear()
        await until(lambda: "could not be read" in "".join(texts(fake, room)))
        reference = posted(fake, room)[-1].reference
        assert reference is not None
        assert reference.message_id == message.id


# Threads


async def test_a_thread_is_a_conversation_of_its_own(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    thread = await fake.start_thread(room, ada, "A thread")
    async with serving(fake, skill=Does(repeat)) as replicas:
        await fake.say(room, ada, "one", mentions_bot=True)
        await fake.say(thread, ada, "two", mentions_bot=True)
        await until_shown(fake, room, "one")
        await until_shown(fake, thread, "two")
        records = await replicas.ledger.list_records("discord", "outbox:")
        assert len(records) == 2


async def test_the_first_message_of_a_thread_is_read_from_its_channel_once(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    starter = await fake.say(room, ada, "Our plan: go by train.")
    thread = await fake.start_thread(room, ada, "The plan", message=starter)
    skill = Does(repeat)
    async with serving(fake, skill=skill):
        await fake.say(thread, ada, "is it good?", mentions_bot=True)
        await until(lambda: len(skill.texts) == 1)
        await fake.say(thread, ada, "and now?", mentions_bot=True)
        await until(lambda: len(skill.texts) == 2)
    assert skill.texts == ["Ada wrote:\n> Our plan: go by train.\n\nis it good?", "and now?"]


async def test_a_message_is_answered_in_a_thread_that_goes_on_without_mentions(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat), threads="thread"):
        message = await fake.say(room, ada, "Plan a trip", mentions_bot=True)
        await until(lambda: message.thread is not None)
        thread = message.thread
        assert thread is not None
        assert thread.name == "Plan a trip"
        await until_shown(fake, thread, "Plan a trip")
        await fake.say(thread, ada, "to Rome")
        await until_shown(fake, thread, "Plan a trip", "to Rome")
        assert texts(fake, room) == []


async def test_where_it_may_open_no_thread_the_bot_replies(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    fake.faults.refuse(50013, "POST */threads", times=1_000)
    async with serving(fake, skill=Does(repeat), threads="thread"):
        await fake.say(room, ada, "hello", mentions_bot=True)
        await until_shown(fake, room, "hello")


async def test_a_message_that_is_delivered_again_opens_one_thread(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    fake.faults.lose("POST */threads")
    async with serving(fake, skill=Does(repeat), threads="thread"):
        message = await fake.say(room, ada, "hello", mentions_bot=True)
        await until(lambda: message.thread is not None)
        assert message.thread is not None
        await until_shown(fake, message.thread, "hello")


# Without the Message Content intent


async def test_without_the_intent_mentions_and_direct_messages_are_answered() -> None:
    async with fake_discord(message_content=False) as fake:
        person, room = fake.add_user("Ada"), fake.add_channel("general")
        direct = fake.open_direct(person)
        async with serving(fake, skill=Does(repeat), message_content=False, direct_messages="open"):
            await fake.say(room, person, "not seen")
            await fake.say(room, person, "one", mentions_bot=True)
            await until_shown(fake, room, "one")
            await fake.say(direct, person, "two")
            await until_shown(fake, direct, "two")


# Edits and deletions


async def test_the_preview_of_a_link_is_no_edit(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)) as replicas:
        message = await fake.say(room, ada, "https://example.com", mentions_bot=True)
        await fake.add_preview(message)
        await until(lambda: len(texts(fake, room)) == 1)
        await replicas.until_settled()
        assert len(texts(fake, room)) == 1


class Held(Does):
    """Repeat each message, the first one only when it may."""

    def __init__(self) -> None:
        super().__init__(self._repeat)
        self.may_continue = asyncio.Event()

    async def _repeat(self, turn: Turn) -> None:
        if len(self.texts) == 1:
            await self.may_continue.wait()
        await repeat(turn)


async def until_waiting(replicas: Replicas, room: DiscordChannel, *wanted: str) -> None:
    """Wait until these messages of a channel have no reply yet."""
    place = Place(room.guild.id if room.guild else None, room.id)
    conversation = Conversation("default", "discord", str(place))

    async def is_waiting() -> bool:
        pending = (await replicas.server.snapshot(conversation)).pending
        return [message.text for turn in pending for message in turn.messages] == list(wanted)

    await until(is_waiting)


@pytest.mark.parametrize("place", ["channel", "thread", "direct"])
async def test_a_message_that_waits_is_edited_or_deleted(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, place: str
) -> None:
    skill = Held()
    where = fake.open_direct(ada) if place == "direct" else room
    where = await fake.start_thread(room, ada, "A thread") if place == "thread" else where
    async with serving(fake, skill=skill, direct_messages="open") as replicas:
        await fake.say(where, ada, "first", mentions_bot=True)
        await until(lambda: skill.texts == ["first"])
        edited = await fake.say(where, ada, "helo", mentions_bot=True)
        empty = await fake.say(where, ada, "nothing", mentions_bot=True)
        gone = await fake.say(where, ada, "gone", mentions_bot=True)
        many = [await fake.say(where, ada, f"{n}", mentions_bot=True) for n in range(2)]
        await until_waiting(replicas, where, "first", "helo", "nothing", "gone", "0", "1")
        await fake.edit(edited, f"{fake.bot.mention} hello {ada.mention}")
        await fake.edit(empty, fake.bot.mention)
        await fake.delete(gone)
        await fake.delete_many(many)
        await until_waiting(replicas, where, "first", "hello @Ada")
        skill.may_continue.set()
        await until_shown(fake, where, "first", "hello @Ada")
        assert skill.texts == ["first", "hello @Ada"]


async def test_an_edit_of_a_message_whose_turn_has_begun_changes_nothing(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    skill = Held()
    async with serving(fake, skill=skill) as replicas:
        first = await fake.say(room, ada, "first", mentions_bot=True)
        await until(lambda: skill.texts == ["first"])
        await fake.edit(first, f"{fake.bot.mention} second")
        last = await fake.say(room, ada, "last", mentions_bot=True)
        await until_waiting(replicas, room, "first", "last")
        await fake.edit(last, f"{fake.bot.mention} end")
        await until_waiting(replicas, room, "first", "end")
        await fake.delete(first)
        await fake.edit(last, f"{fake.bot.mention} the end")
        await until_waiting(replicas, room, "first", "the end")
        skill.may_continue.set()
        await until_shown(fake, room, "first", "the end")


async def test_a_message_with_a_thread_of_its_own_is_edited_and_deleted(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    skill = Held()
    async with serving(fake, skill=skill, threads="thread") as replicas:
        message = await fake.say(room, ada, "first", mentions_bot=True)
        await until(lambda: message.thread is not None)
        assert message.thread is not None
        await until(lambda: skill.texts == ["first"])
        waiting = await fake.say(message.thread, ada, "second")
        await until_waiting(replicas, message.thread, "first", "second")
        await fake.edit(waiting, "third")
        await until_waiting(replicas, message.thread, "first", "third")
        skill.may_continue.set()
        await until_shown(fake, message.thread, "first", "third")


def test_only_a_waiting_message_without_a_history_is_the_first() -> None:
    """An edit of it keeps the quote of the message with which its thread begins."""
    conversation = Conversation("default", "discord", "1.2")
    one, two = (
        PendingTurn(
            turn=f"t{id}",
            messages=(Message(conversation=conversation, id=id, person="p", text="hello"),),
            running=False,
            reply="",
        )
        for id in ("1", "2")
    )
    waiting = Snapshot(cursor=Cursor("e", 2), history=(), pending=(one, two))
    assert is_first(waiting, "1")
    assert not is_first(waiting, "2")
    assert not is_first(Snapshot(cursor=Cursor("e", 0), history=(), pending=()), "1")
    past = HistoryEntry(role="user", text="earlier", turn="t0", at=0.0)
    assert not is_first(Snapshot(cursor=Cursor("e", 2), history=(past,), pending=(one,)), "1")
