"""Buttons, menus, commands, response URLs and the App Home of the fake Slack."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from slack_bolt.app.async_app import AsyncApp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient
from tests.server.testing.fakes.slack_support import error_of, make_app, receive, serve

from palaver.testing.fakes.slack import FakeSlack

pytestmark = pytest.mark.slow

Body = dict[str, Any]
"""Any: JSON of Slack."""


def label(text: str) -> dict[str, str]:
    return {"type": "plain_text", "text": text}


BUTTONS = {
    "type": "actions",
    "block_id": "choices",
    "elements": [
        {"type": "button", "action_id": "yes", "text": label("Yes"), "value": "1"},
        {"type": "button", "action_id": "no", "text": label("No"), "value": "2"},
        {
            "type": "static_select",
            "action_id": "colour",
            "options": [
                {"text": label("Red"), "value": "red"},
                {"text": label("Blue"), "value": "blue"},
            ],
        },
    ],
}


@pytest_asyncio.fixture
async def app(slack: FakeSlack) -> AsyncIterator[AsyncApp]:
    """Yield an app at the fake's request URL."""
    app = make_app(slack)
    async with serve(app) as url:
        slack.request_urls = [url]
        yield app


async def post_buttons(slack: FakeSlack, client: AsyncWebClient, thread: str = "") -> str:
    where: Body = {"thread_ts": thread} if thread else {}
    answer = await client.chat_postMessage(
        channel=slack.general, text="Choose", blocks=[BUTTONS], **where
    )
    return str(answer["ts"])


async def test_a_pressed_button_reaches_the_app_with_its_message(
    slack: FakeSlack, client: AsyncWebClient, app: AsyncApp
) -> None:
    bodies: list[Body] = []

    @app.action("no")
    async def on_no(ack: Any, body: Body) -> None:
        bodies.append(body)
        await ack()

    thread = await slack.say(slack.general, slack.ada, "root")
    ts = await post_buttons(slack, client, thread)
    attempt = await slack.press(slack.general, ts, slack.bob, "no")
    assert attempt.status == 200
    [body] = bodies
    assert body["actions"][0]["value"] == "2"
    assert body["actions"][0]["block_id"] == "choices"
    assert body["user"]["id"] == slack.bob
    assert body["container"] == {
        "type": "message",
        "message_ts": ts,
        "channel_id": slack.general,
        "is_ephemeral": False,
        "thread_ts": thread,
    }
    assert body["message"]["blocks"][0]["block_id"] == "choices"
    assert body["team"]["id"] == slack.team


async def test_an_option_of_a_menu_is_chosen(
    slack: FakeSlack, client: AsyncWebClient, app: AsyncApp
) -> None:
    chosen: list[str] = []

    @app.action("colour")
    async def on_colour(ack: Any, action: Body) -> None:
        chosen.append(action["selected_option"]["value"])
        await ack()

    ts = await post_buttons(slack, client)
    await slack.press(slack.general, ts, slack.bob, "colour", value="blue")
    assert chosen == ["blue"]


async def test_a_button_that_is_not_shown_cannot_be_pressed(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    ts = await post_buttons(slack, client)
    with pytest.raises(LookupError, match="'perhaps'"):
        await slack.press(slack.general, ts, slack.bob, "perhaps")


async def test_a_press_is_tried_once(slack: FakeSlack, client: AsyncWebClient) -> None:
    ts = await post_buttons(slack, client)
    async with receive(slack, status=500) as app:
        attempt = await slack.press(slack.general, ts, slack.bob, "yes")
    assert (attempt.failure, len(app.bodies)) == ("http_error", 1)
    [delivery] = [each for each in slack.deliveries if each.kind == "interaction"]
    assert delivery.is_over


async def test_the_answer_to_a_command_is_seen_by_one(slack: FakeSlack, app: AsyncApp) -> None:
    @app.command("/palaver")
    async def on_command(ack: Any, command: Body) -> None:
        await ack(f"You want {command['text']}")

    attempt = await slack.command(slack.general, slack.ada, "/palaver", "tea & 茶")
    assert not attempt.failure
    [shown] = slack.conversation(slack.general)
    assert (shown.text, shown.ephemeral_to) == ("You want tea & 茶", slack.ada)


async def test_the_answer_to_a_command_can_be_for_all(slack: FakeSlack, app: AsyncApp) -> None:
    @app.command("/palaver")
    async def on_command(ack: Any) -> None:
        await ack(text="for all", response_type="in_channel")

    await slack.command(slack.general, slack.ada, "/palaver")
    [shown] = slack.conversation(slack.general)
    assert (shown.text, shown.ephemeral_to) == ("for all", "")


async def test_interactions_and_commands_may_have_urls_of_their_own(slack: FakeSlack) -> None:
    async with receive(slack) as events, receive(slack) as commands:
        slack.request_urls = [events.url]
        slack.command_urls = [commands.url]
        await slack.command(slack.general, slack.ada, "/palaver", "x")
    assert events.bodies == []
    assert b"command=%2Fpalaver" in commands.bodies[0]


async def test_a_command_fails_after_three_seconds(slack: FakeSlack) -> None:
    async with receive(slack, status=0) as app:
        command = asyncio.ensure_future(slack.command(slack.general, slack.ada, "/palaver"))
        await app.received.wait()
        slack.clock.advance(2.9)
        assert not command.done()
        slack.clock.advance(0.1)
        assert (await command).failure == "http_timeout"
    assert len(app.bodies) == 1


async def response_url(slack: FakeSlack, client: AsyncWebClient) -> tuple[str, AsyncWebhookClient]:
    """Press a button; return the ts of its message, and a client of the response URL."""
    ts = await post_buttons(slack, client)
    await slack.press(slack.general, ts, slack.bob, "yes")
    [delivery] = [each for each in slack.deliveries if each.kind == "interaction"]
    return ts, AsyncWebhookClient(delivery.payload["response_url"])


async def test_a_response_url_works_five_times(slack: FakeSlack, client: AsyncWebClient) -> None:
    _, webhook = await response_url(slack, client)
    for number in range(5):
        assert (await webhook.send(text=str(number))).status_code == 200
    sixth = await webhook.send(text="5")
    assert (sixth.status_code, json.loads(sixth.body)["error"]) == (404, "used_url")
    assert len(slack.conversation(slack.general)) == 6


async def test_a_response_url_works_for_half_an_hour(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    _, webhook = await response_url(slack, client)
    slack.clock.advance(1_799)
    assert (await webhook.send(text="in time")).status_code == 200
    slack.clock.advance(1)
    late = await webhook.send(text="late")
    assert (late.status_code, json.loads(late.body)["error"]) == (404, "expired_url")


async def test_a_response_replaces_or_deletes_the_message(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    ts, webhook = await response_url(slack, client)
    await webhook.send(text="chosen", replace_original=True)
    [shown] = slack.conversation(slack.general)
    assert (shown.ts, shown.text, shown.buttons) == (ts, "chosen", ())
    await webhook.send(delete_original=True)
    assert slack.conversation(slack.general) == []


async def test_a_response_for_all_is_an_event_without_a_user(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    async with receive(slack) as app:
        _, webhook = await response_url(slack, client)
        await webhook.send(text="hello all", response_type="in_channel")
        await slack.wait_until_delivered()
    [event] = [event for event in app.of_type("message") if event["text"] == "hello all"]
    assert event["subtype"] == "bot_message"
    assert "user" not in event
    assert event["bot_id"]


async def test_an_unknown_field_of_a_response_is_a_violation(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    _, webhook = await response_url(slack, client)
    assert (await webhook.send_dict({"text": "x", "colour": "red"})).status_code == 400
    assert "colour" in slack.violations.pop()


async def test_the_home_is_published_and_pressed(
    slack: FakeSlack, client: AsyncWebClient, app: AsyncApp
) -> None:
    pressed: list[Body] = []

    @app.event("app_home_opened")
    async def on_home(event: Body) -> None:
        await client.views_publish(
            user_id=event["user"], view={"type": "home", "blocks": [BUTTONS]}
        )

    @app.action("yes")
    async def on_yes(ack: Any, body: Body) -> None:
        pressed.append(body)
        await ack()

    await slack.open_home(slack.ada)
    await slack.wait_for("views.publish")
    await slack.press_home(slack.ada, "yes")
    assert pressed[0]["container"]["type"] == "view"
    assert pressed[0]["view"]["blocks"] == [BUTTONS]
    with pytest.raises(SlackApiError) as failure:
        await client.views_publish(
            user_id=slack.ada, view={"type": "home", "blocks": []}, hash="old"
        )
    assert error_of(failure) == "hash_conflict"


async def test_opening_the_messages_tab_is_told(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        await slack.open_home(slack.ada, "messages")
        await slack.wait_until_delivered()
    [event] = app.of_type("app_home_opened")
    assert (event["tab"], event["channel"]) == ("messages", slack.direct(slack.ada))


async def test_an_app_of_an_organization_gets_no_workspace(slack: FakeSlack) -> None:
    team = slack.add_workspace("Initech", enterprise="E1")
    slack.install(team, org_wide=True)
    mona = slack.add_user("Mona", team=team)
    async with receive(slack) as app:
        await slack.command(slack.direct(mona), mona, "/palaver")
    assert b"is_enterprise_install=true" in app.bodies[0]
    assert b"enterprise_id=E1" in app.bodies[0]
