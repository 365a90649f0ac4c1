"""Native streaming and the agent's surface of the fake Slack, by the unmodified slack_sdk."""

from typing import Any

import pytest
import pytest_asyncio
from slack_sdk.errors import SlackApiError
from slack_sdk.models.messages.chunk import MarkdownTextChunk, PlanUpdateChunk, TaskUpdateChunk
from slack_sdk.web.async_client import AsyncWebClient
from tests.server.testing.fakes.slack_support import error_of, make_client, receive

from palaver.testing.fakes.slack import FakeSlack

pytestmark = pytest.mark.slow

FEEDBACK = {
    "type": "context_actions",
    "elements": [
        {
            "type": "feedback_buttons",
            "action_id": "rate",
            "positive_button": {"text": {"type": "plain_text", "text": "Good"}, "value": "up"},
            "negative_button": {"text": {"type": "plain_text", "text": "Bad"}, "value": "down"},
        }
    ],
}


@pytest_asyncio.fixture
async def thread(slack: FakeSlack) -> str:
    return await slack.mention(slack.general, slack.ada, "tell me")


def recipient(slack: FakeSlack) -> dict[str, Any]:
    return {"recipient_team_id": slack.team, "recipient_user_id": slack.ada}


async def start(slack: FakeSlack, thread: str, **content: Any) -> str:
    """Start a stream and return its ts (Any: arguments of the SDK)."""
    answer = await make_client(slack).chat_startStream(
        channel=slack.general, thread_ts=thread, **recipient(slack), **content
    )
    return str(answer["ts"])


async def test_a_stream_is_shown_as_it_grows(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    ts = await start(slack, thread, markdown_text="**Hel")
    assert slack.conversation(slack.general, thread)[1].is_streaming
    await client.chat_appendStream(channel=slack.general, ts=ts, markdown_text="lo** ")
    metadata = {"event_type": "delivery", "event_payload": {"id": "d1"}}
    await client.chat_stopStream(
        channel=slack.general, ts=ts, markdown_text="Ada", blocks=[FEEDBACK], metadata=metadata
    )
    shown = slack.conversation(slack.general, thread)[1]
    assert (shown.text, shown.is_streaming) == ("**Hello** Ada", False)
    assert [(button.action_id, button.value) for button in shown.buttons] == [
        ("rate", "up"),
        ("rate", "down"),
    ]
    found = await client.conversations_replies(
        channel=slack.general, ts=thread, include_all_metadata=True
    )
    assert found["messages"][1]["metadata"] == metadata


async def test_the_helper_of_the_sdk_streams(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    stream = await client.chat_stream(
        channel=slack.general, thread_ts=thread, buffer_size=4, **recipient(slack)
    )
    await stream.append(markdown_text="Hello ")
    await stream.append(markdown_text="dear ")
    await stream.stop(markdown_text="Ada")
    assert slack.conversation(slack.general, thread)[1].text == "Hello dear Ada"
    assert [call.method for call in slack.requests] == [
        "chat.startStream",
        "chat.appendStream",
        "chat.stopStream",
    ]


async def test_tasks_and_plans_are_shown(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    task = TaskUpdateChunk(id="1", title="Searching", status="in_progress", details="a")
    ts = await start(slack, thread, chunks=[PlanUpdateChunk(title="Plan"), task])
    done = TaskUpdateChunk(id="1", title="Searched", status="complete", details="b")
    await client.chat_appendStream(
        channel=slack.general, ts=ts, chunks=[done, MarkdownTextChunk(text="Found.")]
    )
    shown = slack.conversation(slack.general, thread)[1]
    assert (shown.tasks, shown.text) == ((("Searched", "complete"),), "Found.")
    message = slack.world.channels[slack.general].messages[ts]
    assert message.stream is not None
    assert message.stream.tasks["1"]["details"] == "ab"
    assert message.stream.plan_title == "Plan"


async def test_only_the_recipient_sees_live_text_in_a_channel(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    ts = await start(slack, thread, markdown_text="secret so far")
    texts = {
        user: slack.conversation(slack.general, thread, seen_by=user)[1].text
        for user in (slack.ada, slack.bob)
    }
    assert texts == {slack.ada: "secret so far", slack.bob: ""}
    await client.chat_stopStream(channel=slack.general, ts=ts)
    assert slack.conversation(slack.general, thread, seen_by=slack.bob)[1].text == "secret so far"


async def test_a_stream_ends_five_minutes_after_its_start(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    ts = await start(slack, thread, markdown_text="a")
    slack.clock.advance(299)
    await client.chat_appendStream(channel=slack.general, ts=ts, markdown_text="b")
    slack.clock.advance(1)
    errors = []
    for call in (
        client.chat_appendStream(channel=slack.general, ts=ts, markdown_text="c"),
        client.chat_stopStream(channel=slack.general, ts=ts),
    ):
        with pytest.raises(SlackApiError) as failure:
            await call
        errors.append(error_of(failure))
    assert errors == ["message_not_in_streaming_state"] * 2
    assert slack.conversation(slack.general, thread)[1].text == "ab"


async def test_streams_are_refused(slack: FakeSlack, client: AsyncWebClient, thread: str) -> None:
    chunk = {"type": "markdown_text", "text": "x"}
    live = await start(slack, thread, markdown_text="a")
    stopped = await start(slack, thread, markdown_text="a")
    plain = await client.chat_postMessage(channel=slack.general, thread_ts=thread, text="x")
    await client.chat_stopStream(channel=slack.general, ts=stopped)
    other = slack.add_bot("Other")
    slack.world.channels[slack.general].members.add(other.user)
    theirs = make_client(slack, other.value)

    def append(ts: str, client: AsyncWebClient = client, **content: Any) -> Any:
        return client.chat_appendStream(channel=slack.general, ts=ts, **content)

    errors = []
    for call in (
        append(live, chunks=[chunk]),
        append(live, markdown_text="x" * 12_001),
        append(live, markdown_text=""),
        append(live, theirs, markdown_text="x"),
        append(stopped, markdown_text="x"),
        append(plain["ts"], markdown_text="x"),
        append("1.1", markdown_text="x"),
        client.chat_update(channel=slack.general, ts=live, text="x"),
        client.chat_stopStream(channel=slack.general, ts=live, blocks=[FEEDBACK] * 51),
        client.chat_startStream(channel=slack.general, thread_ts=thread, markdown_text="x"),
        client.chat_startStream(
            channel=slack.general, thread_ts=thread, recipient_team_id=slack.team
        ),
        client.chat_startStream(
            channel=slack.general,
            thread_ts=thread,
            markdown_text="x",
            chunks=[chunk],
            **recipient(slack),
        ),
    ):
        with pytest.raises(SlackApiError) as failure:
            await call
        errors.append(error_of(failure))
    assert errors == [
        "streaming_mode_mismatch",
        "msg_too_long",
        "no_text",
        "message_not_owned_by_app",
        "message_not_in_streaming_state",
        "message_not_in_streaming_state",
        "message_not_found",
        "streaming_state_conflict",
        "invalid_blocks",
        "missing_recipient_team_id",
        "missing_recipient_user_id",
        "cannot_provide_both_markdown_text_and_chunks",
    ]
    assert slack.conversation(slack.general, thread)[1].text == "a"


@pytest.mark.parametrize(
    "chunk",
    [
        {"type": "song", "text": "x"},
        {"type": "markdown_text"},
        {"type": "task_update", "id": "1", "title": "x", "status": "lazy"},
        {"type": "task_update", "id": "1", "title": "x", "status": "pending", "colour": "red"},
    ],
)
async def test_chunks_are_checked(slack: FakeSlack, thread: str, chunk: dict[str, str]) -> None:
    with pytest.raises(SlackApiError) as failure:
        await start(slack, thread, chunks=[chunk])
    assert error_of(failure) == "invalid_chunks"
    assert len(slack.conversation(slack.general, thread)) == 1


async def test_a_stopped_stream_may_be_updated_or_not(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    ts = await start(slack, thread, markdown_text="a")
    await client.chat_stopStream(channel=slack.general, ts=ts)
    await client.chat_update(channel=slack.general, ts=ts, text="b")
    slack.rules.refuses_update_of_stream = True
    with pytest.raises(SlackApiError) as failure:
        await client.chat_update(channel=slack.general, ts=ts, text="c")
    assert error_of(failure) == "block_mismatch"


@pytest.mark.parametrize(
    ("rule", "with_recipient", "error"),
    [
        ("either", True, ""),
        ("either", False, ""),
        ("required", False, "missing_recipient_team_id"),
        ("refused", True, "invalid_arguments"),
    ],
)
async def test_recipients_in_direct_messages_follow_a_rule(
    slack: FakeSlack, client: AsyncWebClient, rule: Any, with_recipient: bool, error: str
) -> None:
    slack.rules.direct_recipients = rule
    channel = slack.direct(slack.ada)
    ts = await slack.say(channel, slack.ada, "hi")
    call = client.chat_startStream(
        channel=channel,
        thread_ts=ts,
        markdown_text="x",
        **(recipient(slack) if with_recipient else {}),
    )
    if error:
        with pytest.raises(SlackApiError) as failure:
            await call
        assert error_of(failure) == error
    else:
        await call
        assert slack.conversation(channel, ts, seen_by=slack.bob)[1].text == "x"


async def test_starts_are_limited_to_twenty_a_minute_and_appends_to_a_hundred(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    streams = [await start(slack, thread, markdown_text="x") for _ in range(20)]
    for _ in range(100):
        await client.chat_appendStream(channel=slack.general, ts=streams[0], markdown_text="x")
    for call in (
        start(slack, thread, markdown_text="x"),
        client.chat_appendStream(channel=slack.general, ts=streams[0], markdown_text="x"),
    ):
        with pytest.raises(SlackApiError) as failure:
            await call
        assert failure.value.response.status_code == 429


async def test_slacks_stop_button_ends_the_stream(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    with pytest.raises(LookupError):
        await slack.stop(slack.general, thread, slack.ada)
    await client.agents_sessions_setStatus(
        channel_id=slack.general, thread_ts=thread, status="processing", title="A question"
    )
    ts = await start(slack, thread, markdown_text="a")
    async with receive(slack) as app:
        await slack.stop(slack.general, thread, slack.ada)
        await slack.wait_until_delivered()
    [event] = app.of_type("agent_session_stopped")
    assert event["streaming_message_ts"] == [ts]
    assert (event["channel"], event["thread_ts"]) == (slack.general, thread)
    for call in (
        client.chat_appendStream(channel=slack.general, ts=ts, markdown_text="b"),
        client.chat_stopStream(channel=slack.general, ts=ts),
    ):
        with pytest.raises(SlackApiError) as failure:
            await call
        assert error_of(failure) == "stopped_by_user"
    assert slack.can_stop(slack.general, thread)
    await client.agents_sessions_setStatus(
        channel_id=slack.general, thread_ts=thread, status="active"
    )
    assert not slack.can_stop(slack.general, thread)


async def test_stopping_a_stream_can_end_the_session(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    await client.agents_sessions_setStatus(
        channel_id=slack.general, thread_ts=thread, status="processing"
    )
    ts = await start(slack, thread, markdown_text="a")
    await client.chat_stopStream(channel=slack.general, ts=ts, session_status="active")
    assert not slack.can_stop(slack.general, thread)


async def test_an_app_without_the_event_gets_a_warning_and_no_button(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    slack.app.events.remove("agent_session_stopped")
    answer = await client.agents_sessions_setStatus(
        channel_id=slack.general, thread_ts=thread, status="processing"
    )
    assert answer["warning"] == "missing_agent_session_stopped_event_subscription"
    assert not slack.can_stop(slack.general, thread)
    slack.app.is_agent = False
    with pytest.raises(SlackApiError) as failure:
        await client.agents_sessions_setStatus(
            channel_id=slack.general, thread_ts=thread, status="processing"
        )
    assert error_of(failure) == "feature_disabled"


async def test_a_session_is_renamed_once_it_exists(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    where = {"channel_id": slack.general, "thread_ts": thread}
    with pytest.raises(SlackApiError) as failure:
        await client.agents_sessions_rename(title="x", **where)
    assert error_of(failure) == "not_authorized"
    await client.agents_sessions_setStatus(status="active", title="first", **where)
    await client.agents_sessions_rename(title="second", **where)
    assert slack.world.sessions[slack.general, thread].title == "second"


async def test_a_status_ends_after_two_minutes_or_with_a_post(
    slack: FakeSlack, client: AsyncWebClient, thread: str
) -> None:
    async def think() -> None:
        await client.assistant_threads_setStatus(
            channel_id=slack.general, thread_ts=thread, status="is thinking…"
        )

    await think()
    slack.clock.advance(119)
    assert slack.status(slack.general, thread) == "is thinking…"
    slack.clock.advance(1)
    assert slack.status(slack.general, thread) == ""
    await think()
    await client.chat_postMessage(channel=slack.general, thread_ts=thread, text="done")
    assert slack.status(slack.general, thread) == ""
    with pytest.raises(SlackApiError) as failure:
        await client.assistant_threads_setStatus(
            channel_id=slack.general, thread_ts=thread, status="x", loading_messages=["x"] * 11
        )
    assert error_of(failure) == "too_many_loading_messages"


async def test_an_assistant_thread_has_a_title_and_prompts(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    async with receive(slack) as app:
        channel, thread = await slack.open_assistant(slack.ada)
        await slack.wait_until_delivered()
    [event] = app.of_type("assistant_thread_started")
    assert event["assistant_thread"]["thread_ts"] == thread
    await client.assistant_threads_setTitle(channel_id=channel, thread_ts=thread, title="Rain")
    prompts = [{"title": "Weather", "message": "Will it rain?"}]
    await client.assistant_threads_setSuggestedPrompts(channel_id=channel, prompts=prompts)
    assert slack.world.titles[channel, thread] == "Rain"
    assert slack.world.prompts[channel, ""] == prompts
    slack.app.is_agent = False
    with pytest.raises(SlackApiError) as failure:
        await client.assistant_threads_setSuggestedPrompts(channel_id=channel, prompts=prompts)
    assert error_of(failure) == "invalid_thread_ts"
