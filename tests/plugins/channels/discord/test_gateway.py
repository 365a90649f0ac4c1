"""Connections to Discord: nothing is lost and nothing doubled, whatever happens to them."""

import asyncio
import contextlib
import threading

import pytest
from discord.gateway import KeepAliveHandler
from tests.plugins.channels.discord.support import (
    Does,
    QuickChannel,
    fake_discord,
    guild_of_shard,
    posted,
    repeat,
    serving,
    settings_for,
    texts,
    until,
    until_shown,
)

from palaver.platforms import Unreachable
from palaver.testing import MemoryLedger
from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordLimits,
    DiscordUser,
    FakeDiscord,
)
from palaver_plugins.channels.discord.catch_up import Mark
from palaver_plugins.channels.discord.connection import GatewayClient
from palaver_plugins.channels.discord.shard import GatewayTimes, Shard

pytestmark = pytest.mark.slow

EVENTS = ["drop", "reconnect", "resumable", "not resumable", "4000", "4009", "1000"]


def disturb(fake: FakeDiscord, event: str) -> None:
    match event:
        case "drop":
            fake.gateway.drop()
        case "reconnect":
            fake.gateway.request_reconnect()
        case "resumable" | "not resumable":
            fake.gateway.invalidate(resumable=event == "resumable")
        case code:
            fake.gateway.close(int(code))


@pytest.mark.parametrize("event", EVENTS)
async def test_messages_around_a_broken_connection_are_answered_once(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, event: str
) -> None:
    fake.gateway.replay_seen = 3
    async with serving(fake, skill=Does(repeat)) as replicas:
        await fake.say(room, ada, "one", mentions_bot=True)
        await until_shown(fake, room, "one")
        disturb(fake, event)
        await fake.say(room, ada, "two", mentions_bot=True)
        await fake.say(room, ada, "three", mentions_bot=True)
        await until_shown(fake, room, "one", "two", "three")
        await fake.say(room, ada, "four", mentions_bot=True)
        await until_shown(fake, room, "one", "two", "three", "four")
        await replicas.until_settled()
        assert texts(fake, room) == ["one", "two", "three", "four"]


async def test_a_resumed_connection_reads_no_history(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)):
        await fake.say(room, ada, "one", mentions_bot=True)
        await until_shown(fake, room, "one")
        fake.gateway.request_reconnect()
        await until(lambda: fake.gateway.sessions[0].resumes == 1)
        await fake.say(room, ada, "two", mentions_bot=True)
        await until_shown(fake, room, "one", "two")
        assert not [
            each for each in fake.requests if each.method == "GET" and "messages" in each.path
        ]


async def test_a_new_session_may_begin_at_the_address_for_resuming(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)):
        fake.gateway.request_reconnect()
        await until(lambda: fake.gateway.sessions[0].resumes == 1)
        fake.gateway.invalidate(resumable=False)
        await until(lambda: len(fake.gateway.identifies) == 2)
        await fake.say(room, ada, "one", mentions_bot=True)
        await until_shown(fake, room, "one")


async def test_a_silent_connection_is_replaced() -> None:
    limits = DiscordLimits(bucket=10_000, identify_seconds=0.0, heartbeat_interval=0.05)
    async with fake_discord(limits=limits) as fake:
        ada, room = fake.add_user("Ada"), fake.add_channel("general")
        async with serving(fake, skill=Does(repeat), channel=ImpatientChannel):
            (socket,) = fake.gateway.sockets
            await until(lambda: len(socket.received) > 12)  # heartbeats, for longer than 0.3 s
            assert len(fake.gateway.identifies) == 1
            fake.gateway.silence()
            await fake.say(room, ada, "one", mentions_bot=True)
            await until_shown(fake, room, "one")


async def test_a_connection_with_events_is_kept_without_acknowledgements(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)):
        fake.gateway.sends_acks = False
        await fake.say(room, ada, "one", mentions_bot=True)
        await until_shown(fake, room, "one")
        assert len(fake.gateway.identifies) == 1


class ImpatientChannel(QuickChannel):
    gateway_times = GatewayTimes(lease=0.5, start_interval=0.0, silence=0.3, guilds=0.02)


async def test_a_server_that_stops_while_it_connects_ends_the_heartbeats(
    fake: FakeDiscord,
) -> None:
    async with serving(fake):
        limits = fake.faults.hang("GET /gateway/bot")
        fake.gateway.invalidate(resumable=False)
        await until(lambda: limits.waiting == 1)
        assert heartbeats()
    assert not heartbeats()
    limits.release()


class StubbornClient(GatewayClient):
    """A client whose library loses a cancellation."""

    is_connecting = False

    async def connect(self, *, reconnect: bool = True) -> None:
        self.is_connecting = True
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()


async def test_a_connection_ends_although_the_library_loses_a_cancellation(
    fake: FakeDiscord,
) -> None:
    async with serving(fake) as replicas:
        shard = Shard(replicas.channel._gateway._parts, 0, 1)
        settings = settings_for(fake)
        client = StubbornClient(
            shard, settings, shard=0, shards=1, silence=60.0, guilds=0.0, absence=60.0
        )
        serve = asyncio.create_task(client.serve())
        await until(lambda: client.is_connecting)
        serve.cancel()
        await until(serve.done)
        assert serve.cancelled()
        assert client.is_closed()


def heartbeats() -> list[KeepAliveHandler]:
    """Return the library's threads that send heartbeats."""
    return [each for each in threading.enumerate() if isinstance(each, KeepAliveHandler)]


# Restarts


async def test_what_was_missed_while_no_server_ran_is_answered(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    other, direct = fake.add_channel("other"), fake.open_direct(ada)
    silent = fake.add_channel("silent")
    fake.restrict(silent, may_view=False)
    async with serving(fake, skill=Does(repeat), direct_messages="open") as replicas:
        await fake.say(room, ada, "one", mentions_bot=True)
        last = await fake.say(direct, ada, "two")
        await until_shown(fake, direct, "two")
        await replicas.until_marked(last)
        await replicas.until_settled()
        await replicas.stop()
        await fake.say(room, ada, "three", mentions_bot=True)
        await fake.say(room, ada, "for nobody")
        await fake.say(other, ada, "four", mentions_bot=True)
        await fake.say(direct, ada, "five")
        thread = await fake.start_thread(room, ada, "A thread")
        await fake.say(thread, ada, "six", mentions_bot=True)
        await fake.say(silent, ada, "unseen", mentions_bot=True)
        await replicas.start(QuickChannel(settings_for(fake, direct_messages="open")))
        await until_shown(fake, room, "one", "three")
        await until_shown(fake, other, "four")
        await until_shown(fake, direct, "two", "five")
        await until_shown(fake, thread, "six")
        assert not [each for each in fake.requests if each.status == 403]


async def test_missed_messages_come_before_new_ones(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)) as replicas:
        last = await fake.say(room, ada, "one", mentions_bot=True)
        await replicas.until_marked(last)
        await replicas.until_settled()
        await replicas.stop()
        await fake.say(room, ada, "two", mentions_bot=True)
        held = fake.faults.hang("GET */messages")
        await replicas.start(QuickChannel(settings_for(fake)))
        await replicas.until_connected()
        await until(lambda: held.waiting == 1)
        await fake.say(room, ada, "three", mentions_bot=True)
        held.release()
        await until_shown(fake, room, "one", "two", "three")


async def test_a_message_that_is_read_early_does_not_hide_one_that_has_not_arrived(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    other = fake.add_channel("other")
    async with serving(fake, skill=Does(repeat)) as replicas:
        last = await fake.say(room, ada, "one", mentions_bot=True)
        await replicas.until_marked(last)
        await replicas.until_settled()
        await replicas.stop()
        await fake.say(room, ada, "two", mentions_bot=True)
        held = fake.faults.hang("GET */messages")
        await replicas.start(QuickChannel(settings_for(fake)))
        await until(lambda: held.waiting == 1)
        fake.gateway.silence()
        await fake.say(other, ada, "on its way", mentions_bot=True)
        await fake.say(room, ada, "three", mentions_bot=True)
        held.release()
        await until_shown(fake, room, "one", "two", "three")
        await replicas.until_settled()
        await replicas.stop()
        await replicas.start(QuickChannel(settings_for(fake)))
        await until_shown(fake, other, "on its way")


async def test_what_is_missed_while_missed_messages_are_read_is_answered(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    other = fake.add_channel("other")
    async with serving(fake, skill=Does(repeat)) as replicas:
        last = await fake.say(room, ada, "one", mentions_bot=True)
        await replicas.until_marked(last)
        await replicas.until_settled()
        await replicas.stop()
        await fake.say(room, ada, "two", mentions_bot=True)
        held = fake.faults.hang("GET */messages")
        await replicas.start(PatientChannel(settings_for(fake)))
        await until(lambda: held.waiting == 1)
        fake.gateway.close(4009)  # a new session has to begin
        await fake.say(other, ada, "between two sessions", mentions_bot=True)
        await until(lambda: len(fake.gateway.identifies) == 3)
        held.release()
        await until_shown(fake, room, "one", "two")
        await until_shown(fake, other, "between two sessions")


class PausingClient(GatewayClient):
    """A client whose library makes a long pause before its next attempt to connect."""

    async def connect(self, *, reconnect: bool = True) -> None:
        await asyncio.Event().wait()


async def test_a_shard_is_given_up_when_it_is_not_connected_for_long(fake: FakeDiscord) -> None:
    async with serving(fake) as replicas:
        shard = Shard(replicas.channel._gateway._parts, 0, 1)
        client = PausingClient(
            shard, settings_for(fake), shard=0, shards=1, silence=60.0, guilds=0.0, absence=0.05
        )
        with pytest.raises(Unreachable, match="cannot be reached"):
            await client.serve()
        assert client.is_closed()


async def test_a_connection_that_opens_again_ends_the_absence(fake: FakeDiscord) -> None:
    async with serving(fake) as replicas:
        shard = Shard(replicas.channel._gateway._parts, 0, 1)
        client = GatewayClient(
            shard, settings_for(fake), shard=0, shards=1, silence=60.0, guilds=0.0, absence=60.0
        )
        await client.on_disconnect()
        assert client._absence_timer is not None
        await client.on_resumed()
        assert client._absence_timer is None


class PatientChannel(QuickChannel):
    gateway_times = GatewayTimes(lease=0.5, start_interval=0.0, guilds=0.3, mark=0.02)


async def test_a_message_that_newer_ones_of_other_channels_have_overtaken(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)) as replicas:
        await replicas.until_marked()
        await replicas.stop()
        early = await fake.say(room, ada, "early", mentions_bot=True)
        record = await replicas.ledger.read_record("discord", "seen:0.1")
        assert record is not None
        newer = str(early.id + (1_000 << 22)).encode()
        await replicas.ledger.write_record("discord", "seen:0.1", newer, expect=record.version)
        await replicas.start(QuickChannel(settings_for(fake)))
        await until_shown(fake, room, "early")


async def test_what_was_written_before_the_first_start_is_left_alone(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    await fake.say(room, ada, "before", mentions_bot=True)
    async with serving(fake, skill=Does(repeat)) as replicas:
        await fake.say(room, ada, "after", mentions_bot=True)
        await until_shown(fake, room, "after")
        await replicas.until_settled()
        await replicas.stop()
        await replicas.start(QuickChannel(settings_for(fake)))
        await fake.say(room, ada, "later", mentions_bot=True)
        await until_shown(fake, room, "after", "later")
        await replicas.until_settled()
        assert texts(fake, room) == ["after", "later"]


async def test_messages_that_are_too_old_are_left_alone(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)) as replicas:
        last = await fake.say(room, ada, "one", mentions_bot=True)
        await replicas.until_marked(last)
        await replicas.until_settled()
        key = "seen:0.1"
        record = await replicas.ledger.read_record("discord", key)
        assert record is not None
        await replicas.stop()
        fake.clock.advance(-30 * 3600)  # what follows is older than a day
        fake.state._last_id = 0
        await fake.say(room, ada, "old", mentions_bot=True)
        record = await replicas.ledger.read_record("discord", key)
        assert record is not None
        await replicas.ledger.write_record("discord", key, b"1", expect=record.version)
        fake.clock.advance(30 * 3600)
        await fake.say(room, ada, "two", mentions_bot=True)
        await replicas.start(QuickChannel(settings_for(fake)))
        await until(lambda: texts(fake, room)[-1] == "two")
        assert "old" not in texts(fake, room)


async def test_a_reply_goes_on_after_a_restart(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake) as replicas:
        await fake.say(room, ada, "hold", mentions_bot=True)
        await until_shown(fake, room, "The first half.")
        await replicas.stop()
        replicas.skill.may_continue.set()  # type: ignore[attr-defined]
        await replicas.start(QuickChannel(settings_for(fake)))
        await until_shown(fake, room, "The first half. The second half.")


# Several servers


async def test_two_servers_have_one_connection(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)) as replicas:
        await replicas.start(QuickChannel(settings_for(fake)))
        for number in range(5):
            await fake.say(room, ada, f"message {number}", mentions_bot=True)
        await until_shown(fake, room, *[f"message {number}" for number in range(5)])
        assert len(fake.gateway.identifies) == 1


async def test_another_server_takes_over_when_the_first_is_gone(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)) as replicas:
        await replicas.start(QuickChannel(settings_for(fake)))
        await replicas.until_marked()
        await replicas.stop()
        await fake.say(room, ada, "one", mentions_bot=True)
        await until_shown(fake, room, "one")
        assert len(fake.gateway.connected) == 1


async def test_a_server_that_loses_its_lease_closes_its_session(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)) as replicas:
        await replicas.start(QuickChannel(settings_for(fake)))
        (first,) = fake.gateway.connected

        replicas.clock.now += 61.0
        assert await replicas.ledger.claim_record("discord.lease.shard.0", 0.5)  # a third server
        await until(lambda: first.socket is None)
        await replicas.until_connected()
        assert first.is_over
        await fake.say(room, ada, "one", mentions_bot=True)
        await until_shown(fake, room, "one")


async def test_two_sessions_with_the_same_events_answer_once(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    guild = guild_of_shard(fake, 1, of=2)
    there = fake.add_channel("there", guild=guild)
    async with serving(fake, skill=Does(repeat)) as replicas:
        await replicas.start(QuickChannel(settings_for(fake, shards=2)))
        await until(lambda: len(fake.gateway.connected) == 2)
        for number in range(5):
            await fake.say(there, ada, f"message {number}", mentions_bot=True)
        await until_shown(fake, there, *[f"message {number}" for number in range(5)])
        await replicas.until_settled()
        assert len(posted(fake, there)) == 5


# Shards


@pytest.mark.parametrize("count", [1, 3])
async def test_another_number_of_shards_begins_where_all_were(count: int) -> None:
    records = MemoryLedger()
    for shard, mark in enumerate([200, 100]):
        await Mark(records, shard, 2).save(mark)
    assert [await Mark(records, shard, count).load() for shard in range(count)] == [100] * count
    assert [await Mark(records, shard, 2).load() for shard in range(2)] == [200, 100]


@pytest.mark.parametrize("shards", [2, "auto"])
async def test_each_shard_has_a_connection(
    fake: FakeDiscord, ada: DiscordUser, shards: int | str
) -> None:
    fake.gateway.shards = 2
    rooms = [
        fake.add_channel("room", guild=guild_of_shard(fake, number, of=2)) for number in range(2)
    ]
    rooms.append(fake.open_direct(ada))
    async with serving(fake, skill=Does(repeat), shards=shards, direct_messages="open"):
        await until(lambda: len(fake.gateway.connected) == 2)
        assert {session.shard for session in fake.gateway.connected} == {(0, 2), (1, 2)}
        for room in rooms:
            await fake.say(room, ada, "hello", mentions_bot=room.guild is not None)
            await until_shown(fake, room, "hello")


async def test_sessions_begin_as_far_apart_as_discord_wants() -> None:
    limits = DiscordLimits(identify_seconds=0.2)
    async with fake_discord(limits=limits) as fake:
        async with serving(fake, shards=3, channel=PunctualChannel):
            await until(lambda: len(fake.gateway.connected) == 3)
            frames = [frame for socket in fake.gateway.sockets for frame in socket.received]
            assert [frame["op"] for frame in frames].count(2) == 3


class PunctualChannel(QuickChannel):
    gateway_times = GatewayTimes(lease=0.5, start_interval=0.8, guilds=0.02, mark=0.02)


async def test_the_last_sessions_of_the_day_are_not_used() -> None:
    limits = DiscordLimits(session_starts=6, identify_seconds=0.0)
    async with fake_discord(limits=limits) as fake, serving(fake) as replicas:
        fake.gateway.invalidate(resumable=False)
        await until(lambda: "begun 1 sessions today" in replicas.channel.problem)
        assert len(fake.gateway.identifies) == 1


# The ledger is away


async def test_messages_wait_for_the_ledger_in_their_order(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)) as replicas:
        replicas.ledger.is_away = True
        for number in range(3):
            await fake.say(room, ada, f"message {number}", mentions_bot=True)
        await until(lambda: replicas.ledger.refused > 2)
        replicas.ledger.is_away = False
        await until_shown(fake, room, "message 0", "message 1", "message 2")


async def test_messages_that_wait_are_edited_and_deleted(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)) as replicas:
        replicas.ledger.is_away = True
        first = await fake.say(room, ada, "one", mentions_bot=True)
        second = await fake.say(room, ada, "two", mentions_bot=True)
        await fake.say(room, ada, "three", mentions_bot=True)
        await fake.edit(first, f"{fake.bot.mention} first")
        await fake.delete(second)
        await until(lambda: replicas.ledger.refused > 2)
        replicas.ledger.is_away = False
        await until_shown(fake, room, "first", "three")


async def test_messages_without_room_in_the_queues_are_read_again(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat), channel=SmallChannel) as replicas:
        await fake.say(room, ada, "zero", mentions_bot=True)
        await until_shown(fake, room, "zero")
        replicas.ledger.is_away = True
        for number in range(5):
            await fake.say(room, ada, f"message {number}", mentions_bot=True)
        await until(lambda: replicas.ledger.refused > 2)
        replicas.ledger.is_away = False
        await until_shown(fake, room, "zero", *[f"message {number}" for number in range(5)])


class SmallChannel(QuickChannel):
    max_queued = 2


async def test_missed_messages_are_read_again_when_discord_fails(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with serving(fake, skill=Does(repeat)) as replicas:
        last = await fake.say(room, ada, "one", mentions_bot=True)
        await replicas.until_marked(last)
        await replicas.until_settled()
        await replicas.stop()
        await fake.say(room, ada, "two", mentions_bot=True)
        fake.faults.answer(503, "GET */messages")
        await replicas.start(QuickChannel(settings_for(fake)))
        await until_shown(fake, room, "one", "two")
