"""The fake Slack reads an app's manifest as Slack does."""

import copy
from typing import Any

import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from tests.server.testing.fakes.slack_support import error_of, receive

from palaver.testing.fakes.slack import FakeSlack

Json = dict[str, Any]
"""Any: JSON of Slack."""

URL = "https://app.example.com/slack/events"
MANIFEST: Json = {
    "display_information": {"name": "Helper", "description": "It helps."},
    "features": {
        "app_home": {"home_tab_enabled": True, "messages_tab_enabled": True},
        "bot_user": {"display_name": "Helper"},
        "slash_commands": [{"command": "/help-me", "description": "Ask", "url": URL}],
        "agent_view": {"agent_description": "It helps."},
    },
    "oauth_config": {
        "redirect_urls": ["https://app.example.com/slack/oauth_redirect"],
        "scopes": {"bot": ["chat:write", "commands", "im:history", "assistant:write"]},
    },
    "settings": {
        "event_subscriptions": {"request_url": URL, "bot_events": ["message.im"]},
        "interactivity": {"is_enabled": True, "request_url": URL},
        "socket_mode_enabled": False,
        "token_rotation_enabled": True,
    },
}


def changed(path: str, value: object) -> Json:
    """Return the manifest with another value at a path such as ``settings.interactivity``."""
    manifest = copy.deepcopy(MANIFEST)
    *parents, name = path.split(".")
    part = manifest
    for parent in parents:
        part = part[parent]
    part[name] = value
    return manifest


async def test_a_manifest_sets_what_the_app_may_do(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    slack.configure(MANIFEST)
    assert slack.app.rotates_tokens
    assert slack.app.redirect_urls == ["https://app.example.com/slack/oauth_redirect"]
    async with receive(slack) as app:
        await slack.say(slack.general, slack.ada, "not for the app")
        await slack.say(slack.direct(slack.ada), slack.ada, "for the app")
        await slack.wait_until_delivered()
    assert [event["text"] for event in app.of_type("message")] == ["for the app"]
    with pytest.raises(SlackApiError) as failure:
        await client.users_info(user=slack.ada)
    assert error_of(failure) == "missing_scope"
    await client.chat_postMessage(channel=slack.general, text="hi")
    assert slack.conversation(slack.general)[-1].author == "Helper"


async def test_only_its_commands_exist(slack: FakeSlack) -> None:
    slack.configure(MANIFEST)
    async with receive(slack) as app:
        await slack.command(slack.general, slack.ada, "/help-me", "a & b")
        with pytest.raises(LookupError, match="/help-me"):
            await slack.command(slack.general, slack.ada, "/other")
    assert b"text=a+%26amp%3B+b" in app.bodies[0]


async def test_without_interactivity_nothing_is_pressed(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    slack.configure(changed("settings.interactivity", {"is_enabled": False}))
    label = {"type": "plain_text", "text": "Yes"}
    button = {"type": "button", "action_id": "yes", "text": label}
    posted = await client.chat_postMessage(
        channel=slack.general, text="?", blocks=[{"type": "actions", "elements": [button]}]
    )
    with pytest.raises(LookupError, match="interactivity"):
        await slack.press(slack.general, posted["ts"], slack.ada, "yes")


async def test_without_its_tabs_the_app_has_no_home_and_no_direct_messages(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    slack.configure(changed("features.app_home", {"messages_tab_read_only_enabled": True}))
    channel = slack.direct(slack.ada)
    with pytest.raises(LookupError, match="messages tab"):
        await slack.say(channel, slack.ada, "hi")
    errors = []
    for call in (
        client.chat_postMessage(channel=channel, text="hi"),
        client.views_publish(user_id=slack.ada, view={"type": "home", "blocks": []}),
    ):
        with pytest.raises(SlackApiError) as failure:
            await call
        errors.append(error_of(failure))
    assert errors == ["messages_tab_disabled", "not_enabled"]


async def test_with_socket_mode_no_url_is_needed(slack: FakeSlack) -> None:
    manifest = changed("settings.socket_mode_enabled", True)
    del manifest["settings"]["event_subscriptions"]["request_url"]
    del manifest["settings"]["interactivity"]["request_url"]
    del manifest["features"]["slash_commands"][0]["url"]
    slack.configure(manifest)
    assert slack.app.uses_socket_mode


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("colour", "red", "unknown field `colour`"),
        ("settings.event_subscriptions.request_url", "", "event_subscriptions need a URL"),
        ("settings.interactivity.request_url", "", "interactivity need a URL"),
        ("features.slash_commands", [{"command": "/x", "description": "x"}], "slash_commands need"),
        ("settings.event_subscriptions.bot_events", ["app_mention"], "'app_mentions:read'"),
        ("features.slash_commands", [{"command": "x y", "description": "x", "url": URL}], "'x y'"),
        ("oauth_config.scopes.bot", ["chat:write", "im:history"], "scope 'commands'"),
        ("features.bot_user", None, "need a bot_user"),
        ("features.assistant_view", {"assistant_description": "x"}, "exclude each other"),
        ("display_information.name", "x" * 36, "name is too long"),
        ("display_information.description", "x" * 141, "description is too long"),
    ],
)
async def test_manifests_that_slack_refuses(
    slack: FakeSlack, path: str, value: object, problem: str
) -> None:
    with pytest.raises(ValueError, match="invalid_manifest") as failure:
        slack.configure(changed(path, value))
    assert problem in str(failure.value)
