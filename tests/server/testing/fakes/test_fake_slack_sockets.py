"""Socket Mode of the fake Slack, by the unmodified slack_sdk and slack_bolt."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.app.async_app import AsyncApp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from tests.server.testing.fakes.slack_support import error_of, make_app, make_client

from palaver.testing.fakes.slack import FakeSlack

pytestmark = pytest.mark.slow

Event = dict[str, Any]
"""Any: JSON of Slack."""


@pytest.fixture(autouse=True)
def socket_mode(slack: FakeSlack) -> None:
    slack.app.uses_socket_mode = True


@contextlib.asynccontextmanager
async def connect(slack: FakeSlack, app: AsyncApp) -> AsyncIterator[AsyncSocketModeHandler]:
    """Connect an app by Socket Mode."""
    handler = AsyncSocketModeHandler(app, slack.app_token, ping_interval=0.2)
    count = len(slack.sockets)
    await handler.connect_async()  # type: ignore[no-untyped-call]
    try:
        await slack.wait_until(lambda: len(slack.sockets) == count + 1)
        yield handler
    finally:
        await handler.close_async()  # type: ignore[no-untyped-call]


class Echo:
    """An app that keeps the texts of messages. ``is_deaf``: it never acknowledges."""

    def __init__(self, slack: FakeSlack) -> None:
        self.texts: list[str] = []
        self.is_deaf = False
        self.received = asyncio.Event()
        self.app = make_app(slack)
        self.app.event("message")(self.on_message)

    async def on_message(self, event: Event) -> None:
        self.texts.append(event.get("text", ""))
        self.received.set()
        if self.is_deaf:
            await asyncio.Event().wait()


async def open_url(slack: FakeSlack) -> str:
    answer = await AsyncWebClient(base_url=slack.api_url).apps_connections_open(
        app_token=slack.app_token
    )
    return str(answer["url"])


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_bolt_receives_events_and_acknowledges_them(slack: FakeSlack) -> None:
    echo = Echo(slack)
    async with connect(slack, echo.app):
        await slack.say(slack.general, slack.ada, "hi 名前")
        await slack.wait_until_delivered()
        assert slack.sockets[0].envelopes[0]["retry_attempt"] == 0
    assert echo.texts == ["hi 名前"]
    assert slack.deliveries[0].is_acknowledged


async def test_commands_and_buttons_come_by_the_socket(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    app = make_app(slack)
    pressed: list[str] = []

    @app.command("/palaver")
    async def on_command(ack: Any) -> None:
        await ack("for you alone")

    @app.action("yes")
    async def on_yes(ack: Any, action: Event) -> None:
        pressed.append(action["value"])
        await ack()

    label = {"type": "plain_text", "text": "Yes"}
    button = {"type": "button", "action_id": "yes", "text": label, "value": "1"}
    async with connect(slack, app):
        await slack.command(slack.general, slack.ada, "/palaver")
        posted = await client.chat_postMessage(
            channel=slack.general,
            text="?",
            blocks=[{"type": "actions", "elements": [button]}],
        )
        await slack.press(slack.general, posted["ts"], slack.ada, "yes")
    assert slack.conversation(slack.general)[0].text == "for you alone"
    assert pressed == ["1"]


async def test_each_event_goes_to_one_of_the_sockets(slack: FakeSlack) -> None:
    first, second = Echo(slack), Echo(slack)
    async with connect(slack, first.app), connect(slack, second.app):
        for number in range(20):
            await slack.say(slack.general, slack.ada, str(number))
        await slack.wait_until_delivered()
    assert first.texts
    assert second.texts
    assert sorted(first.texts + second.texts) == sorted(str(number) for number in range(20))


async def test_an_unacknowledged_envelope_is_sent_elsewhere_after_three_seconds(
    slack: FakeSlack,
) -> None:
    echoes = [Echo(slack), Echo(slack)]
    for echo in echoes:
        echo.is_deaf = True
    async with connect(slack, echoes[0].app), connect(slack, echoes[1].app):
        await slack.say(slack.general, slack.ada, "hi")
        await slack.wait_until(lambda: sum(len(each.envelopes) for each in slack.sockets))
        slack.clock.advance(3)
        await slack.wait_until(lambda: all(each.envelopes for each in slack.sockets))
        retried = [each.envelopes[0]["retry_attempt"] for each in slack.sockets]
        assert sorted(retried) == [0, 1]
        [second] = [
            each.envelopes[0] for each in slack.sockets if each.envelopes[0]["retry_attempt"]
        ]
        assert second["retry_reason"] == "timeout"


async def test_an_envelope_on_a_closed_socket_is_sent_again(slack: FakeSlack) -> None:
    deaf, echo = Echo(slack), Echo(slack)
    deaf.is_deaf = True
    async with connect(slack, deaf.app):
        await slack.say(slack.general, slack.ada, "hi")
        await slack.wait_until(lambda: slack.sockets[0].envelopes)
        async with connect(slack, echo.app):
            await slack.sockets[0].close()
            await slack.wait_until_delivered()
    assert echo.texts == ["hi"]
    assert [attempt.failure for attempt in slack.deliveries[0].attempts] == [
        "connection_failed",
        "",
    ]


async def test_without_a_socket_an_event_is_lost_until_the_retry(slack: FakeSlack) -> None:
    echo = Echo(slack)
    await slack.say(slack.general, slack.ada, "hi")
    [delivery] = slack.deliveries
    await slack.wait_until(lambda: len(delivery.attempts) == 2)
    async with connect(slack, echo.app):
        assert echo.texts == []
        slack.clock.advance(60)
        await slack.wait_until_delivered()
    assert echo.texts == ["hi"]


async def test_bolt_connects_again_when_slack_refreshes(slack: FakeSlack) -> None:
    echo = Echo(slack)
    async with connect(slack, echo.app):
        [old] = slack.sockets
        await old.disconnect("refresh_requested")
        await slack.wait_until(lambda: slack.sockets and slack.sockets != [old])
        await slack.say(slack.general, slack.ada, "hi")
        await slack.wait_until_delivered()
    assert echo.texts == ["hi"]
    assert old.envelopes == []


async def test_an_event_during_a_refresh_is_sent_again(slack: FakeSlack) -> None:
    echo = Echo(slack)
    echo.is_deaf = True
    async with connect(slack, echo.app):
        [old] = slack.sockets
        await slack.say(slack.general, slack.ada, "hi")
        await echo.received.wait()
        echo.is_deaf = False
        await old.disconnect("refresh_requested")
        await slack.wait_until(lambda: slack.deliveries[0].attempts)
        await slack.wait_until(lambda: slack.sockets and slack.sockets != [old])
        slack.clock.advance(60)
        await slack.wait_until_delivered()
    assert set(echo.texts) == {"hi"}
    assert slack.deliveries[0].attempts[0].failure == "connection_failed"


async def test_after_a_warning_events_still_come(
    slack: FakeSlack, session: aiohttp.ClientSession
) -> None:
    async with session.ws_connect(await open_url(slack)) as websocket:
        await websocket.receive_json()
        await slack.sockets[0].disconnect("warning")
        assert (await websocket.receive_json())["reason"] == "warning"
        await slack.say(slack.general, slack.ada, "hi")
        envelope = await websocket.receive_json()
        await websocket.send_json({"envelope_id": envelope["envelope_id"]})
        await slack.wait_until_delivered()


async def test_bolt_notices_a_silent_connection_by_its_pongs(slack: FakeSlack) -> None:
    echo = Echo(slack)
    async with connect(slack, echo.app):
        [silent] = slack.sockets
        silent.silence()
        await slack.wait_until(lambda: slack.sockets and silent not in slack.sockets, within=10)


async def test_hello_tells_the_number_of_connections(
    slack: FakeSlack, session: aiohttp.ClientSession
) -> None:
    async with (
        session.ws_connect(await open_url(slack)) as first,
        session.ws_connect(await open_url(slack)) as second,
    ):
        assert (await first.receive_json())["num_connections"] == 1
        hello = await second.receive_json()
    assert (hello["type"], hello["num_connections"]) == ("hello", 2)
    assert hello["debug_info"]["approximate_connection_time"] > 0


async def test_the_eleventh_socket_is_one_too_many(
    slack: FakeSlack, session: aiohttp.ClientSession
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            url = await open_url(slack)
            websocket = await stack.enter_async_context(session.ws_connect(url))
            assert (await websocket.receive_json())["type"] == "hello"
        async with session.ws_connect(await open_url(slack)) as eleventh:
            refusal = await eleventh.receive_json()
            assert (refusal["type"], refusal["reason"]) == ("disconnect", "too_many_websockets")
            assert (await eleventh.receive()).type in CLOSED
        assert len(slack.sockets) == 10


CLOSED = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_an_app_without_socket_mode_is_disconnected(
    slack: FakeSlack, session: aiohttp.ClientSession
) -> None:
    slack.app.uses_socket_mode = False
    async with session.ws_connect(await open_url(slack)) as websocket:
        assert (await websocket.receive_json())["reason"] == "link_disabled"


async def test_a_ticket_is_used_once_and_expires(
    slack: FakeSlack, session: aiohttp.ClientSession
) -> None:
    url = await open_url(slack)
    async with session.ws_connect(url):
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url)
    late = await open_url(slack)
    slack.clock.advance(30)
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(late)


async def test_a_connection_needs_the_apps_own_token(slack: FakeSlack) -> None:
    with pytest.raises(SlackApiError) as failure:
        await make_client(slack).apps_connections_open(app_token=slack.bot_token)
    assert error_of(failure) == "not_allowed_token_type"


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"envelope_id": "x", "colour": "red"}'])
async def test_an_acknowledgement_that_is_none_is_a_violation(
    slack: FakeSlack, session: aiohttp.ClientSession, text: str
) -> None:
    async with session.ws_connect(await open_url(slack)) as websocket:
        await websocket.send_str(text)
        await slack.wait_until(lambda: slack.violations)
    assert "acknowledgement" in slack.violations.pop()


async def test_an_event_is_acknowledged_without_a_payload(
    slack: FakeSlack, session: aiohttp.ClientSession
) -> None:
    async with session.ws_connect(await open_url(slack)) as websocket:
        await websocket.receive_json()
        await slack.say(slack.general, slack.ada, "hi")
        envelope = await websocket.receive_json()
        answer = {"envelope_id": envelope["envelope_id"], "payload": {"text": "x"}}
        await websocket.send_json(answer)
        await slack.wait_until_delivered()
    assert "payload" in slack.violations.pop()
