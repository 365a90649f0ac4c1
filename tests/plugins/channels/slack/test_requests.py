"""Requests of Slack: who may send them, and how they are acknowledged."""

import time
from collections.abc import AsyncIterator

import pytest
from tests.plugins.channels.slack.slack_server import (
    FORM,
    SlackServer,
    UnreliableLedger,
    secret,
    send,
    serving,
    slack_settings,
    until,
)
from tests.server.platforms.board import Board

from palaver.authentication import RouteAccess, route_access
from palaver.openapi import operation_of
from palaver.testing.fakes.slack import FakeSlack
from palaver_plugins.channels.slack.channel import SlackChannel

pytestmark = pytest.mark.slow


@pytest.fixture
async def bot() -> AsyncIterator[SlackServer]:
    async with FakeSlack() as slack, serving(slack) as opened:
        yield opened


async def test_every_route_is_described_and_checks_itself_who_calls() -> None:
    async with FakeSlack() as slack:
        client = {"client_id": "1.2", "client_secret": secret("CLIENT", "x")}
        settings = slack_settings(slack, token=None, **client)
        channel = SlackChannel(settings, lambda installations: Board())
        routes = {f"{route.method} {route.path}": route.handler for route in channel.routes()}
        assert list(routes) == [
            "POST /slack/events",
            "GET /slack/install",
            "GET /slack/oauth_redirect",
        ]
        for handler in routes.values():
            assert operation_of(handler) is not None
            assert route_access(handler) == RouteAccess(None)


async def test_slack_verifies_the_url(bot: SlackServer) -> None:
    assert await bot.slack.verify_url(bot.events_url)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Slack-Signature": "v0=0123456789abcdef"},
        {"X-Slack-Signature": ""},
        {"X-Slack-Signature": "v0=ü"},
        {"X-Slack-Request-Timestamp": "soon"},
        {"X-Slack-Request-Timestamp": ""},
        {"X-Slack-Request-Timestamp": "1_700_000_000"},
        {"X-Slack-Request-Timestamp": "-1700000000"},
        {"X-Slack-Request-Timestamp": "17e8"},
        {"X-Slack-Request-Timestamp": "٣٤٥"},
        {"X-Slack-Request-Timestamp": "9" * 5000},
        {"X-Slack-Request-Timestamp": "1" * 12},
    ],
)
async def test_a_request_with_junk_in_its_headers_is_refused(
    bot: SlackServer, headers: dict[str, str]
) -> None:
    status, _, _ = await send(bot, b'{"type":"url_verification","challenge":"x"}', headers)
    assert status == 401


@pytest.mark.parametrize(("seconds", "status"), [(-301, 401), (-290, 200), (290, 200), (301, 401)])
async def test_a_request_is_accepted_for_five_minutes(
    bot: SlackServer, seconds: int, status: int
) -> None:
    timestamp = str(int(time.time()) + seconds + (1 if seconds > 300 else 0))
    payload = {"type": "url_verification", "challenge": "x"}
    assert await bot.slack.send_forged(bot.events_url, payload, timestamp=timestamp) == status


async def test_a_request_signed_with_another_secret_is_refused(bot: SlackServer) -> None:
    payload = {"type": "url_verification", "challenge": "x"}
    assert await bot.slack.send_forged(bot.events_url, payload, secret="another") == 401


async def test_unsigned_bytes_that_are_no_text_are_refused(bot: SlackServer) -> None:
    status, _, _ = await send(bot, b"\xff\xfe")
    assert status == 401


@pytest.mark.parametrize("body", [b"[1]", b"{", b'"x"', b"null", b'{"event":"x","type":7}'])
async def test_a_signed_body_of_another_form_is_no_failure_of_the_server(
    bot: SlackServer, body: bytes
) -> None:
    status, _, _ = await send(bot, body)
    assert status in (200, 400)


async def test_text_of_every_script_is_signed_as_its_bytes(bot: SlackServer) -> None:
    slack = bot.slack
    ts = await slack.mention(slack.general, slack.ada, "say 你好 🙂")
    await slack.wait_until_delivered()
    [entry] = await bot.said(bot.conversation(slack.general, ts))
    assert entry.text == "say 你好 🙂"


async def test_slack_s_look_at_the_certificate_is_answered(bot: SlackServer) -> None:
    headers = {"X-Slack-Signature": "", "Content-Type": FORM}
    assert (await send(bot, b"token=x&ssl_check=1", headers))[0] == 200
    assert (await send(bot, b"token=x&ssl_check=2", headers))[0] == 401
    assert (await send(bot, b"ssl_check=1&x=" + b"y" * 5_000, headers))[0] == 401


@pytest.mark.parametrize("kind", ["team_join", "reaction_added", "no_such_event"])
async def test_events_that_nobody_asked_for_are_acknowledged(bot: SlackServer, kind: str) -> None:
    assert await bot.send_event({"type": kind, "user": bot.slack.ada}) == 200


async def test_a_warning_of_slack_s_rate_limit_is_acknowledged_and_logged(
    bot: SlackServer, caplog: pytest.LogCaptureFixture
) -> None:
    payload = {
        "type": "app_rate_limited",
        "team_id": bot.slack.team,
        "minute_rate_limited": 1,
        "api_app_id": bot.slack.app.id,
    }
    assert await bot.slack.send_forged(bot.events_url, payload) == 200
    assert f"Slack drops events of {bot.slack.team}" in caplog.text


async def test_interactions_that_nobody_asked_for_are_acknowledged(bot: SlackServer) -> None:
    body = b"payload=%7B%22type%22%3A%22shortcut%22%2C%22team%22%3A%7B%22id%22%3A%22"
    body += bot.slack.team.encode() + b"%22%7D%2C%22user%22%3A%7B%22id%22%3A%22U1%22%7D%7D"
    assert (await send(bot, body, {"Content-Type": FORM}))[0] == 200


async def test_events_of_other_workspaces_are_acknowledged_and_not_stored(bot: SlackServer) -> None:
    slack = bot.slack
    event = {
        "type": "message",
        "channel": "D1",
        "channel_type": "im",
        "user": "U1",
        "text": "hello",
        "ts": "1700000000.000100",
    }
    payload = {
        "type": "event_callback",
        "team_id": "T9",
        "authorizations": [{"team_id": "T9", "user_id": "U9", "is_bot": True}],
        "event": event,
    }
    assert await slack.send_forged(bot.events_url, payload) == 200
    assert await bot.said(bot.conversation("D1", "1700000000.000100")) == []
    assert await bot.server.ledger.list_records("slack") == ()


async def test_the_headers_of_a_request_cannot_switch_the_listeners_off(bot: SlackServer) -> None:
    """Bolt believes a header that Slack does not sign."""
    slack = bot.slack
    ts = slack.world.new_ts()
    body = (
        f'{{"type":"event_callback","team_id":"{slack.team}","api_app_id":"A1","event":'
        f'{{"type":"message","channel":"D1","user":"{slack.ada}","text":"say it","ts":"{ts}"}}}}'
    ).encode()
    status, _, _ = await send(bot, body, {"X-Slack-Bolt-Lazy-Only": "1"})
    assert status == 200
    assert len(await bot.said(bot.conversation("D1", ts))) == 1


async def test_slack_delivers_again_what_the_server_could_not_store() -> None:
    ledger = UnreliableLedger()
    async with FakeSlack() as slack, serving(slack, ledger=ledger) as bot:
        ledger.failures = 2
        direct = slack.direct(slack.ada)
        ts = await slack.say(direct, slack.ada, "say it")
        await slack.wait_until(lambda: len(slack.deliveries[0].attempts) == 2)
        assert [attempt.status for attempt in slack.deliveries[0].attempts] == [503, 503]
        slack.clock.advance(60)
        await slack.wait_until_delivered()
        assert [attempt.status for attempt in slack.deliveries[0].attempts] == [503, 503, 200]
        assert len(await bot.said(bot.conversation(direct, ts))) == 1


async def test_the_answer_says_when_to_deliver_again() -> None:
    ledger = UnreliableLedger()
    async with FakeSlack() as slack, serving(slack, ledger=ledger) as bot:
        ledger.failures = 1
        ts, place = slack.world.new_ts(), slack.direct(slack.ada)
        body = (
            f'{{"type":"event_callback","team_id":"{slack.team}","api_app_id":"A1","event":'
            f'{{"type":"message","channel":"{place}","user":"{slack.ada}","text":"x","ts":"{ts}"}}}}'
        ).encode()
        status, _, headers = await send(bot, body)
        assert status == 503
        assert headers["Retry-After"] == "7"


async def test_nothing_is_acknowledged_before_it_is_stored() -> None:
    ledger = UnreliableLedger()
    async with FakeSlack() as slack, serving(slack, ledger=ledger) as bot:
        ledger.failures = 1
        ts = await slack.mention(slack.general, slack.ada, "say it")
        await slack.wait_until(lambda: slack.deliveries[0].attempts)
        assert slack.deliveries[0].attempts[0].status == 503
        await until(lambda: bot.board.shown(bot.conversation(slack.general, ts)))
        assert len(await bot.said(bot.conversation(slack.general, ts))) == 1


async def test_a_bot_whose_token_is_not_known_yet_has_its_events_delivered_again() -> None:
    async with FakeSlack() as slack:
        slack.faults.lose_request("auth.test")
        async with serving(slack) as bot:
            slack.faults.lose_request("auth.test")
            direct = slack.direct(slack.ada)
            ts = await slack.say(direct, slack.ada, "say it")
            await slack.wait_until_delivered()
            assert [attempt.status for attempt in slack.deliveries[0].attempts] == [503, 200]
            assert len(await bot.said(bot.conversation(direct, ts))) == 1


async def test_slack_is_asked_once_whose_token_it_is() -> None:
    async with FakeSlack() as slack:
        slack.faults.lose_request("auth.test")
        async with serving(slack):
            for _ in range(5):
                await slack.say(slack.direct(slack.ada), slack.ada, "say it")
            await slack.wait_until_delivered()
            assert len(slack.calls("auth.test")) == 2


async def test_what_cannot_be_stored_is_told_the_last_time() -> None:
    ledger = UnreliableLedger()
    async with FakeSlack() as slack, serving(slack, ledger=ledger) as bot:
        ledger.failures = 4
        await slack.say(slack.direct(slack.ada), slack.ada, "say it")
        for count, seconds in ((2, 60), (3, 300)):
            await slack.wait_until(lambda: len(slack.deliveries[0].attempts) == count)  # noqa: B023
            slack.clock.advance(seconds)
        await slack.wait_until_delivered()
        assert [attempt.status for attempt in slack.deliveries[0].attempts] == [503, 503, 503, 200]
        sentence = "Messages cannot be stored right now. Please try again in a moment."
        assert [text for _, text in bot.board.notices] == [sentence]
