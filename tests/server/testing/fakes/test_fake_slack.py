"""Posting to the fake Slack, and its limits and errors, by the unmodified slack_sdk."""

import contextlib
import warnings
from typing import Any

import aiohttp
import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from tests.server.testing.fakes.slack_support import error_of, make_client

from palaver.testing.fakes.slack import FakeSlack

pytestmark = pytest.mark.slow


def markdown(text: str) -> dict[str, Any]:
    return {"type": "markdown", "text": text}


def section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


async def test_a_post_is_found_by_its_metadata(slack: FakeSlack, client: AsyncWebClient) -> None:
    ts = await slack.say(slack.general, slack.ada, "hello")
    metadata = {"event_type": "delivery", "event_payload": {"id": "d1"}}
    posted = await client.chat_postMessage(
        channel=slack.general, thread_ts=ts, text="hi", metadata=metadata
    )
    answer = await client.conversations_replies(
        channel=slack.general, ts=ts, include_all_metadata=True
    )
    assert [each["ts"] for each in answer["messages"]] == [ts, posted["ts"]]
    assert answer["messages"][1]["metadata"] == metadata
    plain = await client.conversations_replies(channel=slack.general, ts=ts)
    assert "metadata" not in plain["messages"][1]


async def test_an_update_without_blocks_removes_them(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    posted = await client.chat_postMessage(
        channel=slack.general, text="…", blocks=[markdown("**thinking**")]
    )
    assert slack.conversation(slack.general)[0].text == "**thinking**"
    await client.chat_update(channel=slack.general, ts=posted["ts"], text="done")
    shown = slack.conversation(slack.general)[0]
    assert (shown.text, shown.blocks, shown.is_edited) == ("done", (), True)


async def test_the_ts_of_every_message_is_above_the_earlier_ones(slack: FakeSlack) -> None:
    ts = [await slack.say(slack.general, slack.ada, f"message {n}") for n in range(20)]
    assert ts == sorted(set(ts), key=float)
    assert ts == [message.ts for message in slack.conversation(slack.general)]


async def test_returned_text_is_not_the_text_that_was_sent(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    posted = await client.chat_postMessage(
        channel=slack.general,
        text=" R&D 👍 https://example.com \n",
        unfurl_links=False,
        unfurl_media=False,
    )
    assert posted["message"]["text"] == "R&amp;D :+1: <https://example.com>"


async def test_people_see_text_without_escapes(slack: FakeSlack, client: AsyncWebClient) -> None:
    await slack.say(slack.general, slack.ada, "a < b && c 名前 <@U1> https://x.org/?a&b :+1:")
    await client.chat_postMessage(channel=slack.general, text="1 &lt; 2 <https://x.org|there>")
    stored = (await client.conversations_history(channel=slack.general))["messages"]
    assert stored[1]["text"] == ("a &lt; b &amp;&amp; c 名前 <@U1> <https://x.org/?a&amp;b> :+1:")
    assert [message.text for message in slack.conversation(slack.general)] == [
        "a < b && c 名前 <@U1> https://x.org/?a&b 👍",
        "1 < 2 there",
    ]


async def test_an_unknown_field_is_a_violation(slack: FakeSlack, client: AsyncWebClient) -> None:
    with pytest.raises(SlackApiError) as failure:
        await client.chat_postMessage(channel=slack.general, text="hi", colour="red")
    assert error_of(failure) == "invalid_arguments"
    assert slack.conversation(slack.general) == []
    assert "colour" in slack.violations.pop()


async def test_an_unknown_method_is_a_violation(slack: FakeSlack, client: AsyncWebClient) -> None:
    with pytest.raises(SlackApiError) as failure:
        await client.admin_users_list()
    assert error_of(failure) == "unknown_method"
    assert slack.violations.pop() == "unknown method 'admin.users.list'"


async def test_a_body_that_is_no_json_is_a_violation(slack: FakeSlack) -> None:
    headers = {"Authorization": f"Bearer {slack.bot_token}", "Content-Type": "application/json"}
    url = f"{slack.api_url}chat.postMessage"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=b"{text:", headers=headers) as response,
    ):
        assert (await response.json())["error"] == "invalid_arguments"
    assert "cannot be read" in slack.violations[0]
    slack.violations.clear()


async def test_leaving_with_violations_fails() -> None:
    async def call_an_unknown_method() -> None:
        async with FakeSlack() as slack:
            with contextlib.suppress(SlackApiError):
                await make_client(slack).admin_users_list()

    with pytest.raises(AssertionError, match="unknown method"):
        await call_an_unknown_method()


async def test_every_call_is_recorded(slack: FakeSlack, client: AsyncWebClient) -> None:
    await client.auth_test()
    await client.chat_postMessage(channel=slack.general, text="hi")
    assert [call.method for call in slack.requests] == ["auth.test", "chat.postMessage"]
    assert slack.requests[1].arguments == {"channel": slack.general, "text": "hi"}
    assert slack.requests[1].token == slack.bot_token
    assert slack.requests[1].is_ok


async def test_a_channel_takes_one_post_a_second(slack: FakeSlack, client: AsyncWebClient) -> None:
    await client.chat_postMessage(channel=slack.general, text="1")
    with pytest.raises(SlackApiError) as failure:
        await client.chat_postMessage(channel=slack.general, text="2")
    assert failure.value.response.status_code == 429
    assert failure.value.response.headers["Retry-After"] == "1"
    assert error_of(failure) == "ratelimited"
    await client.chat_postMessage(channel=slack.direct(slack.ada), text="elsewhere")
    slack.clock.advance(1)
    await client.chat_postMessage(channel=slack.general, text="2")
    assert [message.text for message in slack.conversation(slack.general)] == ["1", "2"]


async def test_a_workspace_takes_some_hundred_posts_a_minute(slack: FakeSlack) -> None:
    client = make_client(slack)
    channels = [slack.add_channel(f"c{n}", [slack.bot_user]) for n in range(301)]
    for channel in channels[:300]:
        await client.chat_postMessage(channel=channel, text="hi")
    with pytest.raises(SlackApiError) as failure:
        await client.chat_postMessage(channel=channels[300], text="hi")
    assert failure.value.response.headers["Retry-After"] == "60"


async def test_updates_are_limited_to_fifty_a_minute(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    posted = await client.chat_postMessage(channel=slack.general, text="0")
    for number in range(50):
        await client.chat_update(channel=slack.general, ts=posted["ts"], text=str(number))
    slack.clock.advance(20)
    with pytest.raises(SlackApiError) as failure:
        await client.chat_update(channel=slack.general, ts=posted["ts"], text="too many")
    assert failure.value.response.headers["Retry-After"] == "40"


async def test_limits_can_be_switched_off(slack: FakeSlack, client: AsyncWebClient) -> None:
    slack.rules.rate_limits = False
    for number in range(5):
        await client.chat_postMessage(channel=slack.general, text=str(number))
    assert len(slack.conversation(slack.general)) == 5


async def test_new_text_is_cut_and_updated_text_refused(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    posted = await client.chat_postMessage(channel=slack.general, text="x" * 40_001)
    assert posted["warning"] == "message_truncated"
    assert len(slack.conversation(slack.general)[0].text) == 40_000
    await client.chat_update(channel=slack.general, ts=posted["ts"], text="y" * 4_000)
    with pytest.raises(SlackApiError) as failure:
        await client.chat_update(channel=slack.general, ts=posted["ts"], text="y" * 4_001)
    assert error_of(failure) == "msg_too_long"


LABEL = {"type": "plain_text", "text": "Go"}


def table(rows: int, columns: int, text: str = "x") -> dict[str, Any]:
    cell = {"type": "raw_text", "text": text}
    return {"type": "table", "rows": [[cell] * columns] * rows}


@pytest.mark.parametrize(
    ("blocks", "error"),
    [
        ([markdown("x" * 12_001)], "invalid_blocks"),
        ([section("x" * 3_001)], "invalid_blocks"),
        ([section("x")] * 51, "invalid_blocks"),
        ([markdown("x" * 11_000), section("x" * 2_201)], "msg_blocks_too_long"),
        ([{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}], "invalid_blocks"),
        ([{"type": "carnival", "text": "x"}], "invalid_blocks"),
        ([{"type": "actions", "elements": []}], "invalid_blocks"),
        (
            [{"type": "actions", "elements": [{"type": "button", "text": LABEL}] * 26}],
            "invalid_blocks",
        ),
        (
            [
                {
                    "type": "actions",
                    "elements": [{"type": "button", "text": LABEL, "value": "x" * 2_001}],
                }
            ],
            "invalid_blocks",
        ),
        (
            [
                {
                    "type": "actions",
                    "elements": [{"type": "button", "text": LABEL, "action_id": "same"}] * 2,
                }
            ],
            "invalid_blocks",
        ),
        (
            [
                {
                    "type": "actions",
                    "elements": [
                        {"type": "static_select", "options": [{"text": LABEL, "value": "x" * 151}]}
                    ],
                }
            ],
            "invalid_blocks",
        ),
        (
            [{"type": "context", "elements": [{"type": "mrkdwn", "text": "x"}] * 11}],
            "invalid_blocks",
        ),
        ([table(101, 1)], "invalid_blocks"),
        ([table(1, 1), table(1, 1)], "invalid_blocks"),
        ([table(1, 21)], "invalid_blocks"),
        ([table(100, 20, "x" * 6)], "invalid_blocks"),
        ([section("x") | {"block_id": "same"}] * 2, "invalid_blocks"),
    ],
)
async def test_blocks_above_a_limit_are_refused(
    slack: FakeSlack, client: AsyncWebClient, blocks: list[dict[str, Any]], error: str
) -> None:
    with pytest.raises(SlackApiError) as failure:
        await client.chat_postMessage(channel=slack.general, text="fallback", blocks=blocks)
    assert error_of(failure) == error
    assert slack.conversation(slack.general) == []


async def test_blocks_at_the_limits_are_taken(slack: FakeSlack, client: AsyncWebClient) -> None:
    button = {"type": "button", "text": LABEL, "value": "x" * 2_000}
    blocks = [markdown("x" * 9_000), section("x" * 3_000)]
    blocks += [{"type": "actions", "elements": [button | {"action_id": f"{n}"} for n in range(25)]}]
    blocks += [table(10, 20)]
    await client.chat_postMessage(channel=slack.general, text="fallback", blocks=blocks)
    assert len(slack.conversation(slack.general)[0].actions) == 25


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"text": " "}, "no_text"),
        ({"text": "a", "markdown_text": "b"}, "markdown_text_conflict"),
        ({"markdown_text": "x" * 12_001}, "msg_too_long"),
        ({"text": "a", "metadata": {"event_type": "x"}}, "invalid_metadata_format"),
        (
            {"text": "a", "metadata": {"event_type": "x", "event_payload": {"x": "y" * 8_000}}},
            "metadata_too_large",
        ),
        ({"text": "a", "thread_ts": "1.000001"}, "cannot_reply_to_message"),
    ],
)
async def test_content_that_slack_refuses(
    slack: FakeSlack, client: AsyncWebClient, content: dict[str, Any], error: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the SDK, about an empty text
        with pytest.raises(SlackApiError) as failure:
            await client.chat_postMessage(channel=slack.general, **content)
    assert error_of(failure) == error


@pytest.mark.parametrize("is_empty", [True, False])
async def test_an_empty_thread_ts_or_that_of_a_reply_is_a_violation(
    slack: FakeSlack, client: AsyncWebClient, is_empty: bool
) -> None:
    root = await slack.say(slack.general, slack.ada, "root")
    reply = await slack.say(slack.general, slack.ada, "reply", thread=root)
    with pytest.raises(SlackApiError):
        await client.chat_postMessage(
            channel=slack.general, text="x", thread_ts="" if is_empty else reply
        )
    assert "thread_ts" in slack.violations.pop()


async def test_channels_in_which_the_app_may_not_post(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    errors = []
    others = slack.add_channel("others", [slack.ada])
    private = slack.add_channel("private", [slack.ada], kind="group")
    archived = slack.add_channel("archived", [slack.bot_user])
    read_only = slack.add_channel("read-only", [slack.bot_user])
    slack.world.channels[archived].is_archived = True
    slack.world.channels[read_only].refusal = "restricted_action_read_only_channel"
    for channel in (others, private, archived, read_only, "C404"):
        with pytest.raises(SlackApiError) as failure:
            await client.chat_postMessage(channel=channel, text="hi")
        errors.append(error_of(failure))
    assert errors == [
        "not_in_channel",
        "channel_not_found",
        "is_archived",
        "restricted_action_read_only_channel",
        "channel_not_found",
    ]


async def test_tokens_that_slack_refuses(slack: FakeSlack) -> None:
    few = slack.install(slack.team, scopes=["channels:history"])
    ended = slack.install(slack.team)
    slack.world.tokens[ended.value].error = "account_inactive"
    errors = {}
    for name, token in {
        "unknown": "xoxb-unknown",
        "few scopes": few.value,
        "ended": ended.value,
        "of the app": slack.app_token,
    }.items():
        with pytest.raises(SlackApiError) as failure:
            await make_client(slack, token).chat_postMessage(channel=slack.general, text="x")
        errors[name] = error_of(failure)
    assert errors == {
        "unknown": "invalid_auth",
        "few scopes": "missing_scope",
        "ended": "account_inactive",
        "of the app": "not_allowed_token_type",
    }
    with pytest.raises(SlackApiError) as failure:
        await AsyncWebClient(base_url=slack.api_url).auth_test()
    assert error_of(failure) == "not_authed"


async def test_a_missing_scope_is_named(slack: FakeSlack) -> None:
    token = slack.install(slack.team, scopes=["chat:write"])
    with pytest.raises(SlackApiError) as failure:
        await make_client(slack, token.value).conversations_replies(channel=slack.general, ts="1.1")
    answer = failure.value.response
    assert answer["needed"] == "channels:history"
    assert answer["provided"] == "chat:write"
    assert answer.headers["x-oauth-scopes"] == "chat:write"


async def test_posting_to_a_user_posts_to_their_direct_messages(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    posted = await client.chat_postMessage(channel=slack.ada, text="hi")
    assert posted["channel"] == slack.direct(slack.ada)
    opened = await client.conversations_open(users=[slack.ada])
    assert opened["channel"]["id"] == posted["channel"]


async def test_only_the_author_changes_a_message(slack: FakeSlack, client: AsyncWebClient) -> None:
    ts = await slack.say(slack.general, slack.ada, "mine")
    other = slack.add_bot("Other")
    slack.world.channels[slack.general].members.add(other.user)
    posted = await client.chat_postMessage(channel=slack.general, text="the app's")
    errors = []
    for call in (
        client.chat_update(channel=slack.general, ts=ts, text="x"),
        client.chat_delete(channel=slack.general, ts=ts),
        make_client(slack, other.value).chat_update(
            channel=slack.general, ts=posted["ts"], text="x"
        ),
        client.chat_update(channel=slack.general, ts="1.1", text="x"),
    ):
        with pytest.raises(SlackApiError) as failure:
            await call
        errors.append(error_of(failure))
    assert errors == [
        "cant_update_message",
        "cant_delete_message",
        "cant_update_message",
        "message_not_found",
    ]


async def test_a_deleted_message_is_gone_but_a_root_leaves_its_place(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    root = await client.chat_postMessage(channel=slack.general, text="root")
    reply = await slack.say(slack.general, slack.ada, "reply", thread=root["ts"])
    await client.chat_delete(channel=slack.general, ts=root["ts"])
    assert [message.text for message in slack.conversation(slack.general)] == [
        "This message was deleted.",
        "reply",
    ]
    await slack.delete(slack.general, reply)
    assert len(slack.conversation(slack.general)) == 1


async def test_an_ephemeral_message_is_seen_by_one_and_never_updated(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    posted = await client.chat_postEphemeral(channel=slack.general, user=slack.ada, text="psst")
    seen = {
        user: [message.text for message in slack.conversation(slack.general, seen_by=user)]
        for user in (slack.ada, slack.bob)
    }
    assert seen == {slack.ada: ["psst"], slack.bob: []}
    with pytest.raises(SlackApiError) as failure:
        await client.chat_update(channel=slack.general, ts=posted["message_ts"], text="x")
    assert error_of(failure) == "message_not_found"
    history = await client.conversations_history(channel=slack.general)
    assert history["messages"] == []


async def test_history_is_newest_first_and_leaves_replies_out(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    first = await slack.say(slack.general, slack.ada, "first")
    await slack.say(slack.general, slack.bob, "reply", thread=first)
    await slack.say(slack.general, slack.bob, "for all", thread=first, subtype="thread_broadcast")
    last = await slack.say(slack.general, slack.ada, "last")
    history = (await client.conversations_history(channel=slack.general))["messages"]
    assert [message["text"] for message in history] == ["last", "for all", "first"]
    assert history[2]["reply_count"] == 2
    newer = await client.conversations_history(channel=slack.general, oldest=first)
    assert [message["text"] for message in newer["messages"]] == ["last", "for all"]
    one = await client.conversations_history(
        channel=slack.general, oldest=last, latest=last, inclusive=True
    )
    assert [message["text"] for message in one["messages"]] == ["last"]


async def test_replies_come_in_pages(slack: FakeSlack, client: AsyncWebClient) -> None:
    root = await slack.say(slack.general, slack.ada, "0")
    for number in range(1, 5):
        await slack.say(slack.general, slack.ada, str(number), thread=root)
    texts: list[str] = []
    async for page in await client.conversations_replies(channel=slack.general, ts=root, limit=2):
        texts += [message["text"] for message in page["messages"]]
    assert texts == ["0", "1", "2", "3", "4"]
    with pytest.raises(SlackApiError) as failure:
        await client.conversations_replies(channel=slack.general, ts="1.1")
    assert error_of(failure) == "thread_not_found"


async def test_an_app_outside_of_the_marketplace_reads_once_a_minute(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    slack.app.is_limited = True
    root = await slack.say(slack.general, slack.ada, "root")
    for number in range(20):
        await slack.say(slack.general, slack.ada, str(number), thread=root)
    page = await client.conversations_replies(channel=slack.general, ts=root)
    assert (len(page["messages"]), page["has_more"]) == (15, True)
    with pytest.raises(SlackApiError) as failure:
        await client.conversations_replies(channel=slack.general, ts=root)
    assert failure.value.response.headers["Retry-After"] == "60"


async def test_it_tells_who_and_where(slack: FakeSlack, client: AsyncWebClient) -> None:
    me = await client.auth_test()
    assert (me["team_id"], me["user_id"]) == (slack.team, slack.bot_user)
    assert (await client.users_info(user=slack.ada))["user"]["real_name"] == "Ada"
    assert (await client.bots_info(bot=me["bot_id"]))["bot"]["user_id"] == slack.bot_user
    info = await client.conversations_info(channel=slack.general, include_num_members=True)
    assert (info["channel"]["name"], info["channel"]["num_members"]) == ("general", 3)


async def test_reactions_are_names_and_not_emoji(slack: FakeSlack, client: AsyncWebClient) -> None:
    ts = await slack.say(slack.general, slack.ada, "hi")
    await client.reactions_add(channel=slack.general, timestamp=ts, name="eyes")
    errors = []
    for name in ("eyes", "👀"):
        with pytest.raises(SlackApiError) as failure:
            await client.reactions_add(channel=slack.general, timestamp=ts, name=name)
        errors.append(error_of(failure))
    assert errors == ["already_reacted", "invalid_name"]
    got = await client.reactions_get(channel=slack.general, timestamp=ts)
    assert got["message"]["reactions"][0]["users"] == [slack.bot_user]
    await client.reactions_remove(channel=slack.general, timestamp=ts, name="eyes")
    assert slack.conversation(slack.general)[0].reactions == ()
