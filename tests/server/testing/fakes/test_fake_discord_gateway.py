"""The gateway of the fake Discord, used by discord.py and by a bare WebSocket."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import discord
import pytest
import pytest_asyncio
from tests.server.testing.fakes.discord_bot import (
    Bot,
    addressed_to,
    all_intents,
    connected,
    logged_in,
    until,
)

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordFile,
    DiscordLimits,
    DiscordUser,
    FakeDiscord,
)
from palaver.testing.fakes.discord.socket import GatewaySocket

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeDiscord]:
    async with FakeDiscord(clock=FakeClock(), limits=DiscordLimits.generous()) as fake:
        yield fake


@pytest.fixture
def ada(fake: FakeDiscord) -> DiscordUser:
    return fake.add_user("Ada")


@pytest.fixture
def general(fake: FakeDiscord) -> DiscordChannel:
    return fake.add_channel("general")


# discord.py


async def test_a_dropped_connection_is_resumed_without_a_loss(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        await fake.say(general, ada, "before")
        await until(lambda: bot.messages)
        fake.gateway.drop()
        await fake.say(general, ada, "meanwhile")
        await until(lambda: bot.resumes)
        await fake.say(general, ada, "after")
        await until(lambda: len(bot.messages) == 3)
    assert bot.texts == ["before", "meanwhile", "after"]
    assert fake.gateway.sessions[0].resumes == 1


async def test_the_bot_is_asked_to_reconnect(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        fake.gateway.request_reconnect()
        await until(lambda: bot.resumes)
        await fake.say(general, ada, "after")
        await until(lambda: bot.texts == ["after"])


async def test_an_invalid_session_that_can_be_resumed(fake: FakeDiscord) -> None:
    async with connected(fake) as bot:
        fake.gateway.invalidate(resumable=True)
        await until(lambda: bot.resumes)
    assert len(fake.gateway.identifies) == 1


async def test_an_invalid_session_that_cannot_be_resumed(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        (first,) = fake.gateway.sessions
        fake.gateway.invalidate(resumable=False)
        await until(lambda: len(fake.gateway.identifies) == 2)
        await fake.say(general, ada, "after")
        await until(lambda: bot.texts == ["after"])
    assert first not in fake.gateway.sessions


async def test_after_a_refused_resume_the_bot_identifies_where_it_wanted_to_resume(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        fake.gateway.drop()
        for session in fake.gateway.sessions:
            session.is_over = True
        await until(lambda: len(fake.gateway.identifies) == 2)
        await fake.say(general, ada, "after")
        await until(lambda: bot.texts == ["after"])
    assert fake.gateway.identifies == ["/gateway", "/resumed-gateway"]


async def test_a_replay_may_contain_what_was_seen(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    fake.gateway.replay_seen = 1
    async with connected(fake) as bot:
        await fake.say(general, ada, "twice")
        await until(lambda: bot.messages)
        fake.gateway.drop()
        await until(lambda: bot.resumes)
        assert bot.texts == ["twice", "twice"]
        assert len({message.id for message in bot.messages}) == 1


@pytest.mark.parametrize("code", [4000, 4007, 4009])
async def test_close_codes_after_which_the_bot_comes_back(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser, code: int
) -> None:
    async with connected(fake) as bot:
        (session,) = fake.gateway.sessions
        fake.gateway.close(code)
        await until(lambda: not session.socket)
        await until(lambda: fake.gateway.connected)
        await fake.say(general, ada, "after")
        await until(lambda: bot.texts == ["after"])
    assert len(fake.gateway.identifies) == (1 if code == 4000 else 2)


async def test_an_intent_that_the_portal_does_not_allow() -> None:
    async with FakeDiscord(message_content=False) as fake:
        with pytest.raises(discord.PrivilegedIntentsRequired):
            async with logged_in(fake) as bot:
                await bot.connect()


async def test_a_wrong_token(fake: FakeDiscord) -> None:
    with addressed_to(fake):
        async with Bot() as bot:
            with pytest.raises(discord.LoginFailure):
                await bot.login("wrong")
        async with Bot() as bot:
            await bot.login(fake.token)
            bot.http.token = "changed"
            with pytest.raises(discord.ConnectionClosed) as error:
                await bot.connect()
    assert error.value.code == 4004


async def test_without_the_intent_contents_are_empty(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    file = DiscordFile("a.txt", b"a")
    async with connected(fake, intents=discord.Intents.default()) as bot:
        await fake.say(general, ada, "hidden", attachments=[file])
        await fake.say(general, ada, "for you", mentions_bot=True)
        await fake.say(fake.open_direct(ada), ada, "direct")
        channel = bot.get_channel(general.id)
        assert isinstance(channel, discord.TextChannel)
        await channel.send("mine")
        await until(lambda: len(bot.messages) == 4)
    assert bot.texts == ["", f"<@{fake.bot.id}> for you", "direct", "mine"]
    assert bot.messages[0].attachments == []


async def test_the_http_api_hides_contents_too(ada: DiscordUser, general: DiscordChannel) -> None:
    async with FakeDiscord(message_content=False) as fake:
        channel, bob = fake.add_channel("a"), fake.add_user("Bob")
        message = await fake.say(channel, bob, "hidden")
        async with logged_in(fake, intents=discord.Intents.default()) as bot:
            found = await bot.fetch_channel(channel.id)
            assert isinstance(found, discord.TextChannel)
            assert (await found.fetch_message(message.id)).content == ""


async def test_threads_are_announced(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        starter = await fake.say(general, ada, "let us talk")
        thread = await fake.start_thread(general, ada, "talk", message=starter)
        await fake.say(thread, ada, "inside")
        await until(lambda: "inside" in bot.texts)
        assert isinstance(bot.messages[-1].channel, discord.Thread)
        assert [found.id for found in bot.threads] == [starter.id]
        await fake.start_thread(general, ada, "another")
        await until(lambda: len(bot.threads) == 2)


async def test_forwarded_and_spoken_messages(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    other = fake.add_channel("other")
    async with connected(fake) as bot:
        original = await fake.say(other, ada, "original")
        await fake.say(general, ada, forward=original)
        record = DiscordFile("voice-message.ogg", b"OggS", "audio/ogg", audio_seconds=2.5)
        await fake.say(general, ada, attachments=[record])
        reply = await fake.say(general, ada, "an answer", reply_to=original)
        await until(lambda: len(bot.messages) == 4)
    _, forward, spoken, answer = bot.messages
    assert (forward.content, forward.message_snapshots[0].content) == ("", "original")
    assert spoken.content == ""
    assert spoken.flags.voice
    assert spoken.attachments[0].is_voice_message()
    assert answer.id == reply.id
    assert answer.type is discord.MessageType.reply


async def test_a_preview_of_a_link_is_an_edit(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        message = await fake.say(general, ada, "https://example.com")
        await fake.add_preview(message)
        await until(lambda: bot.edits)
        assert bot.edits[0].message.content == "https://example.com"
        assert bot.edits[0].message.embeds
        assert bot.edits[0].message.edited_at is None


async def test_the_library_takes_any_event_for_a_sign_of_life() -> None:
    limits = DiscordLimits(heartbeat_interval=0.04, gateway_sends=10_000, identify_seconds=0)
    async with FakeDiscord(limits=limits) as fake:
        general, ada = fake.add_channel("general"), fake.add_user("Ada")
        async with connected(fake, heartbeat_timeout=1.0) as bot:
            fake.gateway.sends_acks = False
            (socket,) = fake.gateway.sockets
            for count in range(35):
                await fake.say(general, ada, "alive")
                await wait_for_heartbeats(socket, count)
            assert fake.gateway.sockets == [socket]
            fake.gateway.silence()
            await until(lambda: bot.resumes)


async def wait_for_heartbeats(socket: GatewaySocket, count: int) -> None:
    await until(lambda: sum(frame["op"] == 1 for frame in socket.received) >= count)


async def test_people_who_leave_and_a_bot_that_is_removed() -> None:
    async with FakeDiscord(limits=DiscordLimits.generous(), guild_members=True) as fake:
        fake.add_channel("general")
        intents = all_intents()
        intents.members = True
        async with connected(fake, intents=intents) as bot:
            (guild,) = bot.guilds
            ada = fake.add_user("Ada")
            await until(lambda: guild.get_member(ada.id))
            fake.leave(ada)
            await until(lambda: not guild.get_member(ada.id))
            fake.remove_bot()
            await until(lambda: not bot.guilds)


async def test_other_bots_and_webhooks_are_heard(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    helper = fake.add_user("Helper", is_bot=True)
    async with connected(fake) as bot:
        await fake.say(general, helper, "beep")
        await fake.say(general, ada, "by a webhook", webhook_id=99)
        await until(lambda: len(bot.messages) == 2)
    assert [message.author.bot for message in bot.messages] == [True, False]
    assert bot.messages[1].webhook_id == 99


async def test_permissions_of_the_bot_change(fake: FakeDiscord, general: DiscordChannel) -> None:
    async with connected(fake) as bot:
        channel = bot.get_channel(general.id)
        assert isinstance(channel, discord.TextChannel)
        assert channel.permissions_for(channel.guild.me).send_messages
        fake.restrict(general, may_post=False)
        await until(lambda: not channel.permissions_for(channel.guild.me).send_messages)
        assert channel.permissions_for(channel.guild.me).view_channel
        fake.restrict(general, may_view=False)
        await until(lambda: not channel.permissions_for(channel.guild.me).view_channel)


async def test_messages_that_the_bot_may_not_see(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    other = fake.add_channel("other")
    async with connected(fake) as bot:
        fake.restrict(general, may_view=False)
        thread = await fake.start_thread(general, ada, "secret")
        await fake.say(general, ada, "secret")
        await fake.say(thread, ada, "secret")
        await fake.say(other, ada, "public")
        await until(lambda: bot.texts == ["public"])


async def test_messages_that_moderators_delete_at_once(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        said = [await fake.say(general, ada, text) for text in ("a", "b")]
        await fake.delete_many(said)
        deleted = await bot.wait_for("raw_bulk_message_delete", timeout=5)
    assert deleted.message_ids == {message.id for message in said}
    assert fake.conversation(general) == []


async def test_reactions_of_people(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        message = await fake.say(general, ada, "Hello")
        await fake.react(message, ada, "👍")
        reaction = await bot.wait_for("raw_reaction_add", timeout=5)
    assert (reaction.message_id, reaction.emoji.name) == (message.id, "👍")


async def test_zlib_stream(fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser) -> None:
    fake.gateway.compresses = True
    async with connected(fake) as bot:
        await fake.say(general, ada, "compressed")
        await until(lambda: bot.texts == ["compressed"])


async def test_equal_shards_get_the_same_events(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as one, connected(fake) as two:
        await fake.say(general, ada, "to both")
        await until(lambda: one.messages and two.messages)
    assert one.texts == two.texts == ["to both"]


async def test_shards_divide_the_servers(fake: FakeDiscord, ada: DiscordUser) -> None:
    guilds = [fake.guild, *(fake.add_guild(str(number)) for number in range(3))]
    channels = [fake.add_channel("a", guild=guild) for guild in guilds]
    fake.gateway.shards = 2
    options: dict[str, Any] = {"shard_count": 2}
    async with (
        connected(fake, shard_id=0, **options) as first,
        connected(fake, shard_id=1, **options) as second,
    ):
        for channel in channels:
            await fake.say(channel, ada, channel.guild.name if channel.guild else "")
        await fake.say(fake.open_direct(ada), ada, "direct")
        await until(lambda: len(first.messages) + len(second.messages) == 5)
    for number, bot in enumerate((first, second)):
        expected = [guild.name for guild in guilds if (guild.id >> 22) % 2 == number]
        assert bot.texts == expected + ["direct"] * (number == 0)


async def test_an_automatically_sharded_client(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    fake.gateway.shards = 2
    got: list[str] = []

    class Sharded(discord.AutoShardedClient):
        async def on_message(self, message: discord.Message) -> None:
            got.append(message.content)

        async def before_identify_hook(self, shard_id: object, *, initial: bool = False) -> None:
            pass

    with addressed_to(fake):
        async with Sharded(intents=all_intents(), guild_ready_timeout=0.02) as bot:
            running = asyncio.create_task(bot.start(fake.token))
            await until(lambda: len(fake.gateway.connected) == 2)
            await fake.say(general, ada, "Hello")
            await until(lambda: got)
            await bot.close()
            await running
    assert got == ["Hello"]


# A bare WebSocket


class Socket:
    """Speaks with the gateway, frame by frame."""

    def __init__(self, fake: FakeDiscord, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self.fake = fake
        self.websocket = websocket

    async def send(self, operation: int, data: Any = None) -> None:
        await self.websocket.send_str(json.dumps({"op": operation, "d": data}))

    async def receive(self, operation: int, event: str | None = None) -> Any:
        """Return the data of the next frame of this kind."""
        async with asyncio.timeout(5):
            while True:
                frame = json.loads(await self.websocket.receive_str())
                if frame["op"] == operation and event in (None, frame["t"]):
                    return frame["d"]

    async def close_code(self) -> int | None:
        async with asyncio.timeout(5):
            while not self.websocket.closed:
                await self.websocket.receive()
        return self.websocket.close_code

    async def identify(self, **fields: Any) -> None:
        data = {"token": self.fake.token, "intents": 1 << 9, "properties": {}} | fields
        await self.send(2, data)


@contextlib.asynccontextmanager
async def opened(fake: FakeDiscord, query: str = "v=10&encoding=json") -> AsyncIterator[Socket]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{fake.gateway_url}/?{query}") as websocket,
    ):
        yield Socket(fake, websocket)


async def test_heartbeats_are_acknowledged_until_the_test_says_no(fake: FakeDiscord) -> None:
    async with opened(fake) as socket:
        assert (await socket.receive(10))["heartbeat_interval"] == 41_250
        await socket.send(1, None)
        await socket.receive(11)
        fake.gateway.sends_acks = False
        await socket.send(1, None)
        await socket.identify()
        await socket.receive(0, "READY")
        fake.gateway.request_heartbeat()
        await socket.receive(1)
        assert [frame["op"] for frame in fake.gateway.sockets[0].received] == [1, 1, 2]


async def test_a_silent_connection_stays_open(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with opened(fake) as socket:
        await socket.identify()
        await socket.receive(0, "READY")
        fake.gateway.silence()
        await fake.say(general, ada, "unheard")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await socket.receive(0)
        assert not socket.websocket.closed


@pytest.mark.parametrize(
    ("operation", "data", "code"),
    [
        (2, {"intents": 0}, 4004),
        (2, None, 4002),
        (3, {"status": "online"}, 4003),
        (6, {"token": "wrong", "session_id": "", "seq": 0}, 4004),
    ],
)
async def test_frames_that_close_the_connection(
    fake: FakeDiscord, operation: int, data: Any, code: int
) -> None:
    async with opened(fake) as socket:
        await socket.send(operation, data)
        assert await socket.close_code() == code


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"intents": 1 << 40}, 4013),
        ({"intents": 1 << 1}, 4014),
        ({"shard": [2, 2]}, 4010),
    ],
)
async def test_impossible_identifies(fake: FakeDiscord, fields: dict[str, Any], code: int) -> None:
    async with opened(fake) as socket:
        await socket.identify(**fields)
        assert await socket.close_code() == code


async def test_a_second_identify(fake: FakeDiscord) -> None:
    async with opened(fake) as socket:
        await socket.identify()
        await socket.identify()
        assert await socket.close_code() == 4005


async def test_what_the_gateway_does_not_know_is_a_violation(fake: FakeDiscord) -> None:
    async with opened(fake) as socket:
        await socket.send(77)
        assert await socket.close_code() == 4001
    async with opened(fake) as socket:
        await socket.identify(colour="red")
        assert await socket.close_code() == 4002
    assert fake.violations == [
        "gateway: unknown operation 77",
        "gateway: unknown fields ['colour']",
    ]
    fake.violations.clear()


async def test_another_version(fake: FakeDiscord) -> None:
    async with opened(fake, "v=9") as socket:
        assert await socket.close_code() == 4012


async def test_frames_without_json_or_too_long(fake: FakeDiscord) -> None:
    for text in ("{", "[]", json.dumps({"op": 1, "d": "x" * 4096})):
        async with opened(fake) as socket:
            await socket.websocket.send_str(text)
            assert await socket.close_code() == 4002


async def test_a_resume_with_an_impossible_sequence(fake: FakeDiscord) -> None:
    async with opened(fake) as socket:
        await socket.identify()
        session_id = (await socket.receive(0, "READY"))["session_id"]
        await socket.websocket.close(code=4000)
    resume = {"token": fake.token, "session_id": session_id, "seq": 99}
    async with opened(fake) as socket:
        await socket.send(6, resume)
        assert await socket.close_code() == 4007
    async with opened(fake) as socket:
        await socket.send(6, resume | {"seq": 1})
        assert await socket.receive(9) is False


@pytest.mark.parametrize(("code", "is_over"), [(1000, True), (1001, True), (4000, False)])
async def test_a_client_ends_its_session_by_the_code(
    fake: FakeDiscord, code: int, is_over: bool
) -> None:
    async with opened(fake) as socket:
        await socket.identify()
        await socket.receive(0, "READY")
        await socket.websocket.close(code=code)
    (session,) = fake.gateway.sessions
    await until(lambda: session.socket is None)
    assert session.is_over is is_over


async def test_a_session_is_forgotten_after_a_while(fake: FakeDiscord) -> None:
    async with opened(fake) as socket:
        await socket.identify()
        session_id = (await socket.receive(0, "READY"))["session_id"]
        await socket.websocket.close(code=4000)
    await until(lambda: not fake.gateway.connected)
    fake.clock.advance(181)
    async with opened(fake) as socket:
        await socket.send(6, {"token": fake.token, "session_id": session_id, "seq": 1})
        assert await socket.receive(9) is False


async def test_too_many_frames(fake: FakeDiscord) -> None:
    async with opened(fake) as socket:
        for _ in range(120):
            await socket.send(1)
        fake.clock.advance(60)
        for _ in range(121):
            await socket.send(1)
        assert await socket.close_code() == 4008


async def test_identifies_have_a_rate() -> None:
    async with FakeDiscord(clock=FakeClock(), limits=DiscordLimits()) as fake:
        async with opened(fake) as one, opened(fake) as two:
            await one.identify()
            await one.receive(0, "READY")
            await two.identify()
            assert await two.receive(9) is False
            fake.clock.advance(5)
            await two.identify()
            await two.receive(0, "READY")


async def test_too_many_starts_reset_the_token() -> None:
    limits = DiscordLimits(session_starts=2, identify_seconds=0)
    async with FakeDiscord(limits=limits) as fake:
        token = fake.token
        for _ in range(2):
            async with opened(fake) as socket:
                await socket.identify()
                await socket.receive(0, "READY")
        async with opened(fake) as socket:
            await socket.identify()
            assert await socket.close_code() == 4004
        assert fake.token != token


async def test_too_many_servers_need_shards() -> None:
    limits = DiscordLimits(guilds_per_shard=2, identify_seconds=0)
    async with FakeDiscord(limits=limits) as fake:
        fake.add_guild("second")
        async with opened(fake) as socket:
            await socket.identify()
            assert await socket.close_code() == 4011
