"""Faults of the fake Slack, seen by the unmodified slack_sdk."""

import asyncio

import aiohttp
import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from tests.server.testing.fakes.slack_support import error_of, make_client

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.slack import FakeSlack
from palaver.testing.fakes.slack.api import ApiRequest

pytestmark = pytest.mark.slow


def texts(slack: FakeSlack) -> list[str]:
    return [message.text for message in slack.conversation(slack.general)]


async def test_a_response_is_lost_after_the_post(slack: FakeSlack, client: AsyncWebClient) -> None:
    slack.faults.lose_response("chat.postMessage", nth=2)
    await client.chat_postMessage(channel=slack.general, text="1")
    slack.clock.advance(1)
    with pytest.raises(aiohttp.ClientError):
        await client.chat_postMessage(channel=slack.general, text="2")
    assert texts(slack) == ["1", "2"]
    assert [call.is_lost for call in slack.calls("chat.postMessage")] == [False, True]


async def test_the_sdks_own_retry_posts_twice(slack: FakeSlack) -> None:
    slack.rules.rate_limits = False
    slack.faults.lose_response("chat.postMessage")
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
    await client.chat_postMessage(channel=slack.general, text="once?")
    assert texts(slack) == ["once?", "once?"]


async def test_client_msg_id_makes_no_post_unique(slack: FakeSlack, client: AsyncWebClient) -> None:
    for _ in range(2):
        await client.chat_postMessage(channel=slack.general, text="x", client_msg_id="same")
        slack.clock.advance(1)
    assert texts(slack) == ["x", "x"]


async def test_a_request_is_lost_before_the_post(slack: FakeSlack, client: AsyncWebClient) -> None:
    slack.faults.lose_request("chat.postMessage")
    with pytest.raises(aiohttp.ClientError):
        await client.chat_postMessage(channel=slack.general, text="1")
    assert texts(slack) == []
    assert slack.requests[0].answer is None


async def test_responses_are_lost_at_random(slack: FakeSlack) -> None:
    slack.rules.rate_limits = False
    slack.faults.lose_responses(0.3, "chat.postMessage")
    client = make_client(slack)
    lost = 0
    for number in range(100):
        await client.auth_test()
        try:
            await client.chat_postMessage(channel=slack.general, text=str(number))
        except aiohttp.ClientError:
            lost += 1
    assert 10 < lost < 60
    assert texts(slack) == [str(number) for number in range(100)]


@pytest.mark.parametrize("is_committed", [True, False])
async def test_slack_is_down(slack: FakeSlack, client: AsyncWebClient, is_committed: bool) -> None:
    slack.faults.server_error("chat.postMessage", status=503, is_committed=is_committed)
    with pytest.raises((SlackApiError, AttributeError)):  # the SDK expects an answer in JSON
        await client.chat_postMessage(channel=slack.general, text="1")
    assert texts(slack) == (["1"] if is_committed else [])


async def test_slack_hangs(slack: FakeSlack, client: AsyncWebClient) -> None:
    slack.faults.hang("chat.postMessage", is_committed=True)
    posting = asyncio.ensure_future(client.chat_postMessage(channel=slack.general, text="1"))
    call = await slack.wait_for("chat.postMessage")
    assert call.is_lost
    assert not posting.done()
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    assert texts(slack) == ["1"]


async def test_limits_and_errors_are_ordered(slack: FakeSlack, client: AsyncWebClient) -> None:
    slack.faults.rate_limit("chat.postMessage", retry_after=7)
    slack.faults.refuse("chat.postMessage", "is_archived", nth=2)
    with pytest.raises(SlackApiError) as failure:
        await client.chat_postMessage(channel=slack.general, text="1")
    assert failure.value.response.headers["Retry-After"] == "7"
    with pytest.raises(SlackApiError) as failure:
        await client.chat_postMessage(channel=slack.general, text="2")
    assert error_of(failure) == "is_archived"
    await client.chat_postMessage(channel=slack.general, text="3")
    assert texts(slack) == ["3"]


async def test_a_test_acts_between_effect_and_answer(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    seen: list[tuple[str, int]] = []

    async def before(call: ApiRequest) -> None:
        seen.append((f"before {call.method}", len(texts(slack))))

    async def after(call: ApiRequest) -> None:
        seen.append((f"after {call.method}", len(texts(slack))))

    slack.before_call(before)
    slack.after_call(after)
    await client.chat_postMessage(channel=slack.general, text="1")
    assert seen == [("before chat.postMessage", 0), ("after chat.postMessage", 1)]


async def test_a_test_waits_for_calls(slack: FakeSlack, client: AsyncWebClient) -> None:
    waiting = asyncio.ensure_future(slack.wait_for("chat.postMessage", 2))
    await client.chat_postMessage(channel=slack.general, text="1")
    slack.clock.advance(1)
    assert not waiting.done()
    await client.chat_postMessage(channel=slack.general, text="2")
    assert (await waiting).arguments["text"] == "2"
    with pytest.raises(TimeoutError):
        await slack.wait_for("chat.postMessage", 3, within=0.01)


async def test_the_same_seed_makes_the_same_choices() -> None:
    async def lost_calls(seed: int) -> list[bool]:
        async with FakeSlack(clock=FakeClock(), seed=seed) as slack:
            slack.faults.lose_responses(0.5)
            for _ in range(12):
                await asyncio.gather(make_client(slack).auth_test(), return_exceptions=True)
            return [call.is_lost for call in slack.requests]

    assert await lost_calls(1) == await lost_calls(1)
    assert await lost_calls(1) != await lost_calls(2)
