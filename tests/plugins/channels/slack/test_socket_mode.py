"""Socket Mode: Slack's events over a connection of the server."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.plugins.channels.slack.slack_server import (
    SlackServer,
    UnreliableLedger,
    secret,
    serving,
    until,
)

from palaver.ledger import Ledger
from palaver.testing.fakes.slack import FakeSlack
from palaver.testing.ledger import MemoryLedger
from palaver_plugins.channels.slack.socket_mode import ENDINGS

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def connected(
    slack: FakeSlack, *, ledger: Ledger | None = None, **changes: Any
) -> AsyncIterator[SlackServer]:
    """Run a server that is connected to Slack."""
    slack.app.uses_socket_mode = True
    count = len(slack.sockets)
    async with serving(slack, ledger=ledger, mode="socket", ping_seconds=0.1, **changes) as bot:
        await slack.wait_until(lambda: len(slack.sockets) > count)
        yield bot
    assert len(slack.sockets) == count


async def received(bot: SlackServer, place: str, root: str) -> list[str]:
    return [entry.text for entry in await bot.said(bot.conversation(place, root))]


async def test_messages_commands_and_buttons_arrive_by_the_socket() -> None:
    async with FakeSlack() as slack, connected(slack, signing_secret=None) as bot:
        ts = await slack.mention(slack.general, slack.ada, "say it")
        await bot.until_answered(bot.conversation(slack.general, ts))
        help = await slack.command(slack.general, slack.ada, "/palaver", "help")
        assert b"/palaver your question" in help.body
        assert (await slack.command(slack.general, slack.ada, "/palaver", "say it")).body == b""
        assert bot.channel.problem == ""
        assert not any(route.path == "/slack/events" for route in bot.channel.routes())


async def test_an_envelope_is_acknowledged_only_when_its_message_is_stored() -> None:
    ledger = UnreliableLedger()
    async with FakeSlack() as slack, connected(slack, ledger=ledger) as bot:
        ledger.failures = 1
        direct = slack.direct(slack.ada)
        ts = await slack.say(direct, slack.ada, "say it")
        await until(lambda: ledger.failures == 0)
        assert slack.deliveries[0].attempts == []
        slack.clock.advance(3)
        await slack.wait_until_delivered()
        assert [attempt.failure for attempt in slack.deliveries[0].attempts] == ["timeout", ""]
        assert await received(bot, direct, ts) == ["say it"]


async def test_events_of_other_workspaces_are_acknowledged_without_content() -> None:
    async with FakeSlack() as slack, connected(slack):
        team = slack.add_workspace("Other")
        eve = slack.add_user("Eve", team=team)
        slack.install(team)
        await slack.say(slack.direct(eve), eve, "say it")
        await slack.wait_until_delivered()
        assert slack.deliveries[0].is_acknowledged


async def test_the_messages_of_a_conversation_keep_their_order() -> None:
    async with FakeSlack() as slack, connected(slack) as bot:
        root = await slack.mention(slack.general, slack.ada, "hold")
        conversation = bot.conversation(slack.general, root)
        await bot.until_answered(conversation)
        file = slack.file(slack.ada, "slow.txt", b"x" * 1_000_000)
        await slack.say(slack.general, slack.ada, "say 0", thread=root, files=[file])
        for number in range(1, 10):
            await slack.say(slack.general, slack.ada, f"say {number}", thread=root)
        await slack.wait_until_delivered()
        bot.skill.may_continue.set()
        await bot.until_answered(conversation, 11)
        texts = ["hold", *(f"say {number}" for number in range(10))]
        assert await received(bot, slack.general, root) == texts


@pytest.mark.parametrize("reason", ["refresh_requested", "warning"])
async def test_slack_may_ask_for_another_connection_at_any_time(reason: str) -> None:
    """The old socket closes before the new one is open: what comes in between is redelivered."""
    async with FakeSlack() as slack, connected(slack) as bot:
        direct = slack.direct(slack.ada)
        roots = []
        for _ in range(3):
            old = slack.sockets[0]
            roots.append(await slack.say(direct, slack.ada, "say it"))
            await old.disconnect(reason)
            roots.append(await slack.say(direct, slack.ada, "say it"))
            await slack.wait_until(lambda: slack.sockets and slack.sockets[0] is not old)  # noqa: B023
        while not all(delivery.is_over for delivery in slack.deliveries):
            slack.clock.advance(60)
            await asyncio.sleep(0.01)
        for root in roots:
            assert await received(bot, direct, root) == ["say it"]


@pytest.mark.parametrize("is_silent", [True, False])
async def test_a_lost_connection_is_replaced(is_silent: bool) -> None:
    async with FakeSlack() as slack, connected(slack) as bot:
        old = slack.sockets[0]
        if is_silent:
            old.silence()
        else:
            await old.close()
        await slack.wait_until(lambda: any(socket is not old for socket in slack.sockets))
        direct = slack.direct(slack.ada)
        ts = await slack.say(direct, slack.ada, "say it")
        await bot.until_answered(bot.conversation(direct, ts))


async def test_an_app_without_events_keeps_its_connection() -> None:
    async with FakeSlack() as slack, connected(slack):
        socket = slack.sockets[0]
        end = time.monotonic() + 1.0  # ten pings
        await until(lambda: time.monotonic() > end)
        assert slack.sockets == [socket]
        assert len(slack.calls("apps.connections.open")) == 1


async def test_several_servers_share_the_events() -> None:
    ledger = MemoryLedger()
    async with (
        FakeSlack() as slack,
        connected(slack, ledger=ledger) as first,
        connected(slack, ledger=ledger) as second,
    ):
        slack.rules.copies = 3
        direct = slack.direct(slack.ada)
        roots = [await slack.say(direct, slack.ada, f"say {number}") for number in range(10)]
        await slack.wait_until_delivered()
        assert all(socket.envelopes for socket in slack.sockets)
        for number, root in enumerate(roots):
            assert await received(first, direct, root) == [f"say {number}"]
        await until(lambda: first.skill.answered + second.skill.answered == 10)


@pytest.mark.parametrize("reason", ["too_many_websockets", "link_disabled"])
async def test_a_server_that_slack_does_not_want_waits(reason: str) -> None:
    """The library alone would connect again at once, for ever."""
    async with FakeSlack() as slack, connected(slack) as bot:
        if reason == "link_disabled":
            slack.app.uses_socket_mode = False
        await slack.sockets[0].disconnect(reason)
        await until(lambda: ENDINGS[reason] in bot.channel.problem)
        slack.app.uses_socket_mode = True
        await until(lambda: not bot.channel.problem)
        assert len(slack.calls("apps.connections.open")) <= 3


async def test_a_wrong_app_token_is_one_sentence() -> None:
    async with FakeSlack() as slack:
        slack.app.uses_socket_mode = True
        token = secret("WRONG", "xapp-1-wrong")
        async with serving(slack, mode="socket", app_token=token) as bot:
            await until(lambda: bot.channel.problem)
            assert "Slack refuses channels.slack.app_token: invalid_auth" in bot.channel.problem
            assert bot.server.closed_channels == {}


async def test_slack_may_be_away_at_the_start() -> None:
    async with FakeSlack() as slack:
        slack.faults.lose_request("auth.test")
        slack.faults.lose_request("apps.connections.open")
        async with connected(slack) as bot:
            direct = slack.direct(slack.ada)
            ts = await slack.say(direct, slack.ada, "say it")
            await bot.until_answered(bot.conversation(direct, ts))
            await until(lambda: not bot.channel.problem)
