"""Commands, buttons and menus: over the gateway and by signed requests."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from tests.plugins.channels.discord.support import (
    Does,
    QuickChannel,
    Replicas,
    guild_of_shard,
    labels,
    posted,
    repeat,
    serving,
    settings_for,
    texts,
    until,
    until_shown,
)
from tests.plugins.channels.paying import Pays

from palaver import Turn
from palaver.platforms.channel import NOT_YOURS
from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordMessage,
    DiscordUser,
    FakeDiscord,
)
from palaver_plugins.channels.discord.interaction_handler import (
    NOT_RUNNING,
    STOPPED,
    THANKS,
    UNKNOWN_COMMAND,
)
from palaver_plugins.channels.discord.webhook import PATH

pytestmark = pytest.mark.slow


@pytest.fixture(params=["gateway", "webhook"])
def interactions(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.asynccontextmanager
async def listening(
    fake: FakeDiscord, interactions: str = "gateway", **options: Any
) -> AsyncIterator[Replicas]:
    """Yield a server that gets interactions in one of both ways, and whose commands are known."""
    key = fake.endpoint.public_key if interactions == "webhook" else ""
    options = {"interactions": interactions, "public_key": key, **options}
    async with serving(fake, **options) as replicas:
        if interactions == "webhook":
            await fake.endpoint.set_url(replicas.address + PATH)
        await until(lambda: fake.commands.find("stop", fake.guild) is not None)
        yield replicas


def seen_by(fake: FakeDiscord, room: DiscordChannel, user: DiscordUser) -> list[str]:
    """Return the texts of the bot's ephemeral messages that a person sees."""
    messages = fake.conversation(room, seen_by=user)
    return [message.content for message in messages if message.visible_to is user]


async def ask(
    fake: FakeDiscord, room: DiscordChannel, user: DiscordUser, text: str
) -> DiscordMessage:
    """Ask the bot and return its first message, once it has buttons."""
    before = len(posted(fake, room))
    await fake.say(room, user, text, mentions_bot=True)
    await until(lambda: len(posted(fake, room)) > before and bool(labels(posted(fake, room)[-1])))
    return posted(fake, room)[-1]


# Commands


async def test_a_command_of_a_skill_is_answered(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str
) -> None:
    async with listening(fake, interactions, skill=Does(repeat)):
        used = await fake.command(room, ada, "does", text="a *big* 你好")
        await until_shown(fake, room, "**Ada:** a \\*big\\* 你好", "a *big* 你好")
        assert used.status == "answered"


async def test_a_command_is_deferred_before_the_ledger_is_asked(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str
) -> None:
    async with listening(fake, interactions, skill=Does(repeat)) as replicas:
        replicas.ledger.is_away = True
        used = await fake.command(room, ada, "does", text="hello")
        await until(lambda: used.status == "thinking")
        await until(lambda: replicas.ledger.refused > 0)
        replicas.ledger.is_away = False
        await until_shown(fake, room, "**Ada:** hello", "hello")


async def test_what_comes_after_the_tokens_end_is_a_message_of_the_channel(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str
) -> None:
    async with listening(fake, interactions, skill=Does(repeat)) as replicas:
        replicas.ledger.is_away = True
        used = await fake.command(room, ada, "does", text="hello")
        await until(lambda: used.status == "thinking")
        fake.clock.advance(901)
        replicas.ledger.is_away = False
        await until(lambda: sorted(texts(fake, room)[1:]) == ["**Ada:** hello", "hello"])
        assert used.status == "failed"


async def test_the_reply_to_a_command_is_edited_after_the_tokens_end(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str
) -> None:
    async with listening(fake, interactions) as replicas:
        await fake.command(room, ada, "obeys", text="hold")
        await until_shown(fake, room, "**Ada:** hold", "The first half.")
        fake.clock.advance(901)
        replicas.skill.may_continue.set()  # type: ignore[attr-defined]
        await until_shown(fake, room, "**Ada:** hold", "The first half. The second half.")


async def test_a_command_that_arrives_late_is_answered(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with listening(fake, skill=Does(repeat)):
        held = fake.faults.hang("POST */callback")
        used = await fake.command(room, ada, "does", text="hello")
        await until(lambda: held.waiting == 1)
        fake.clock.advance(4)
        held.release()
        await until(lambda: sorted(texts(fake, room)) == ["**Ada:** hello", "hello"])
        assert used.status == "failed"


async def test_a_command_that_two_servers_get_is_answered_once(
    fake: FakeDiscord, ada: DiscordUser
) -> None:
    room = fake.add_channel("sharded", guild=guild_of_shard(fake, 1, of=2))
    async with listening(fake, skill=Does(repeat)) as replicas:
        await replicas.start(QuickChannel(settings_for(fake, shards=2)))
        await until(lambda: len(fake.gateway.connected) == 2)
        shown: list[str] = []
        for number in range(4):
            await fake.command(room, ada, "does", text=f"message {number}")
            shown += [f"**Ada:** message {number}", f"message {number}"]
            await until_shown(fake, room, *shown)
        await replicas.until_settled()
        assert texts(fake, room) == shown


async def test_the_reply_to_a_command_in_a_thread_and_in_direct_messages(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str
) -> None:
    thread, direct = await fake.start_thread(room, ada, "A thread"), fake.open_direct(ada)
    settings = {"groups": "allowlist", "rooms": (str(room.id),), "direct_messages": "open"}
    async with listening(fake, interactions, skill=Does(repeat), **settings):
        for place in (thread, direct):
            await fake.command(place, ada, "does", text="hello")
            await until_shown(fake, place, "**Ada:** hello", "hello")


async def test_a_command_where_the_bot_does_not_answer_is_refused_privately(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str
) -> None:
    async with listening(fake, interactions, skill=Does(repeat), groups="disabled"):
        await fake.command(room, ada, "does", text="hello")
        await until(lambda: seen_by(fake, room, ada) == ["I do not answer here."])
        assert texts(fake, room) == []


async def test_a_command_of_a_stranger_in_direct_messages_gets_a_code(
    fake: FakeDiscord, ada: DiscordUser, interactions: str
) -> None:
    direct = fake.open_direct(ada)
    async with listening(fake, interactions, skill=Does(repeat)):
        await fake.command(direct, ada, "does", text="hello")
        await until(lambda: "with this code" in "".join(texts(fake, direct)))


async def test_a_command_that_no_longer_exists(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with listening(fake, skill=Does(repeat)) as replicas:
        await replicas.stop()
        await replicas.start(QuickChannel(settings_for(fake)))
        await replicas.until_connected()
        fake.commands.find("does", None)["name"] = "other"  # type: ignore[index]
        used = fake.commands.find("does", None)
        assert used is not None
        data = {"id": "1", "name": "other", "type": 1, "options": []}
        interaction = fake.interactions.open(2, ada, room, data)
        await fake._deliver(interaction)
        await until(lambda: seen_by(fake, room, ada) == [UNKNOWN_COMMAND])


async def test_commands_are_registered_only_when_they_change(fake: FakeDiscord) -> None:
    async with listening(fake, skill=Does(repeat)) as replicas:
        assert writes(fake) == 1
        await replicas.stop()
        await replicas.start(QuickChannel(settings_for(fake)))
        await until(lambda: reads(fake) == 2)
        await replicas.until_connected()
    assert writes(fake) == 1
    async with listening(fake):
        await until(lambda: fake.commands.find("obeys", None) is not None)
    assert writes(fake) == 2
    assert fake.commands.find("does", None) is None


def writes(fake: FakeDiscord) -> int:
    return sum(each.method == "PUT" and each.path.endswith("/commands") for each in fake.requests)


def reads(fake: FakeDiscord) -> int:
    return sum(each.method == "GET" and each.path.endswith("/commands") for each in fake.requests)


# Stop


@pytest.mark.parametrize("way", ["button", "command"])
async def test_a_reply_is_stopped(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str, way: str
) -> None:
    async with listening(fake, interactions) as replicas:
        message = await ask(fake, room, ada, "hold")
        assert labels(message) == ["Stop"]
        if way == "button":
            await fake.press(message, ada, "Stop")
        else:
            await fake.command(room, ada, "stop")
            await until(lambda: seen_by(fake, room, ada) == [STOPPED])
        await until_shown(fake, room, "The first half.\n\n*Stopped.*")
        await replicas.until_settled()
        assert labels(message) == []


async def test_there_is_nothing_to_stop(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str
) -> None:
    async with listening(fake, interactions):
        await fake.command(room, ada, "stop")
        await until(lambda: seen_by(fake, room, ada) == [NOT_RUNNING])


async def test_the_stop_button_works_after_a_restart(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with listening(fake) as replicas:
        message = await ask(fake, room, ada, "hold")
        await replicas.stop()
        await replicas.start(QuickChannel(settings_for(fake)))
        await replicas.until_connected()
        await fake.press(message, ada, "Stop")
        await until_shown(fake, room, "The first half.\n\n*Stopped.*")


# Questions


async def test_an_option_is_chosen_by_a_button(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str
) -> None:
    async with listening(fake, interactions):
        message = await ask(fake, room, ada, "ask me")
        await until(lambda: labels(message) == ["tea", "coffee"])
        await fake.press(message, ada, "coffee")
        await until(lambda: texts(fake, room)[-1] == "One coffee, please.")
        await until(lambda: all(each["disabled"] for each in controls(message)))
        assert [each["style"] for each in controls(message)] == [2, 1]


async def test_a_call_is_approved_by_a_button(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str
) -> None:
    skill = Pays()
    async with listening(fake, interactions, skill=skill) as replicas:
        message = await ask(fake, room, ada, "pay Bob")
        await until(lambda: labels(message) == ["Approve", "Deny"])
        assert '"to": "Bob"' in message.content
        bob = fake.add_user("Bob")
        await fake.press(message, bob, "Approve")
        await until(lambda: seen_by(fake, room, bob) == [NOT_YOURS])
        assert skill.paid == []
        await fake.press(message, ada, "Approve")
        await until(lambda: texts(fake, room)[-1] == "Paid Bob.")
        await replicas.until_settled()
        assert skill.paid == ["Bob"]


async def test_the_button_of_an_old_approval_only_says_so(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    skill = Pays()
    async with listening(fake, skill=skill) as replicas:
        old = await ask(fake, room, ada, "pay Bob")
        await until(lambda: labels(old) == ["Approve", "Deny"])
        row = old.components[0]["components"][0]
        await fake.say(room, ada, "no", mentions_bot=True)
        await until(lambda: texts(fake, room)[-1] == "Not paid.")
        new = await ask(fake, room, ada, "pay Carol")
        await until(lambda: labels(new) == ["Approve", "Deny"])
        row["disabled"] = False
        await fake.press(old, ada, "Approve")
        await until(lambda: seen_by(fake, room, ada) == ["This question is no longer open."])
        await replicas.until_settled()
        assert skill.paid == []
        await fake.press(new, ada, "Approve")
        await until(lambda: texts(fake, room)[-1] == "Paid Carol.")
        assert skill.paid == ["Carol"]


async def test_an_option_of_many_is_chosen_in_a_menu(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str
) -> None:
    options = [f"option {number}{'x' * number * 10}" for number in range(12)]

    async def choose(turn: Turn) -> None:
        await turn.say(await turn.ask("Which?", options))

    async with listening(fake, interactions, skill=Does(choose)):
        message = await ask(fake, room, ada, "ask me")
        (menu,) = controls(message)
        shown = [option["label"] for option in menu["options"]]
        assert shown[:3] == options[:3]
        assert len(shown[11]) == 100
        await fake.choose(message, ada, menu["placeholder"], shown[11])
        await until(lambda: texts(fake, room)[-1] == options[11])
        await until(lambda: controls(message)[0]["disabled"] is True)
        defaults = [option.get("default", False) for option in controls(message)[0]["options"]]
        assert defaults == [False] * 11 + [True]


async def test_a_question_that_is_no_longer_open(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with listening(fake) as replicas:
        message = await ask(fake, room, ada, "ask me")
        row = message.components[0]["components"][0]
        row["custom_id"] = row["custom_id"].replace("option:", "option:0")
        await fake.press(message, ada, "tea")
        await until(lambda: seen_by(fake, room, ada) == ["This question is no longer open."])
        await replicas.until_settled()


def controls(message: DiscordMessage) -> list[dict[str, Any]]:
    return [each for row in message.components for each in row["components"]]


# Feedback


async def test_a_reply_is_rated(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser, interactions: str
) -> None:
    bob = fake.add_user("Bob")
    async with listening(fake, interactions) as replicas:
        message = await ask(fake, room, ada, "say it")
        await until(lambda: labels(message) == ["👍", "👎"])
        await fake.press(message, ada, "👎")
        await until(lambda: seen_by(fake, room, ada) == [THANKS])
        exposition = replicas.server.metrics.exposition
        assert b'palaver_feedback_total{rating="down",skill="obeys"} 1.0' in exposition()
        await fake.press(message, bob, "👍")
        await until(
            lambda: "Only people who have written here" in "".join(seen_by(fake, room, bob))
        )


async def test_a_button_where_the_bot_does_not_answer_does_nothing(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with listening(fake) as replicas:
        message = await ask(fake, room, ada, "say it")
        await until(lambda: labels(message) == ["👍", "👎"])
        await replicas.stop()
        replica = await replicas.start(QuickChannel(settings_for(fake, groups="disabled")))
        await replicas.until_connected()
        used = await fake.press(message, ada, "👎")
        await until(lambda: used.status == "answered")
        await fake.command(room, ada, "stop")
        await until(lambda: seen_by(fake, room, ada) == [NOT_RUNNING])
        assert b"palaver_feedback_total{" not in replica.server.metrics.exposition()


async def test_a_button_of_somebody_else(
    fake: FakeDiscord, room: DiscordChannel, ada: DiscordUser
) -> None:
    async with listening(fake):
        message = await ask(fake, room, ada, "say it")
        await until(lambda: labels(message) == ["👍", "👎"])
        controls(message)[0]["custom_id"] = "another program"
        await fake.press(message, ada, "👍")
        await until(lambda: seen_by(fake, room, ada) == ["This button no longer works."])


# The endpoint


async def test_a_request_with_a_bad_signature_is_refused(fake: FakeDiscord) -> None:
    async with listening(fake, "webhook") as replicas:
        url = replicas.address + PATH
        for signature in ("wrong", "malformed", "missing"):
            status, _ = await fake.endpoint.ping(url, signature=signature)
            assert status == 401
        assert await fake.endpoint.ping(url) == (200, {"type": 1})


@pytest.mark.parametrize(
    "payload", [{"type": 2}, {"type": 99}, {"id": "x"}, {"type": 2, "id": "x", "channel": 5}]
)
async def test_a_request_that_is_no_interaction_is_refused(
    fake: FakeDiscord, payload: dict[str, Any]
) -> None:
    async with listening(fake, "webhook") as replicas:
        status, _ = await fake.endpoint.post(replicas.address + PATH, payload)
        assert status == 400


async def test_without_the_setting_there_is_no_endpoint(fake: FakeDiscord) -> None:
    async with serving(fake) as replicas, aiohttp.ClientSession() as session:
        async with session.post(replicas.address + PATH) as response:
            assert response.status == 404
