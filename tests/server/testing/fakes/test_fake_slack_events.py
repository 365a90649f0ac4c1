"""Events of the fake Slack, received by the unmodified slack_bolt."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from tests.server.testing.fakes.slack_support import make_app, make_client, receive, serve

from palaver.testing.fakes.slack import FakeSlack
from palaver.testing.fakes.slack.deliveries import Delivery

pytestmark = pytest.mark.slow

Event = dict[str, Any]
"""Any: JSON of Slack."""


async def test_an_app_answers_a_message_in_its_thread(slack: FakeSlack) -> None:
    app = make_app(slack)

    @app.event("message")
    async def answer(event: Event) -> None:
        await app.client.chat_postMessage(
            channel=event["channel"],
            thread_ts=event.get("thread_ts", event["ts"]),
            text=f"You said: {event['text']}",
        )

    async with serve(app) as url:
        slack.request_urls = [url]
        ts = await slack.say(slack.general, slack.ada, "2 < 3 & 名前")
        await slack.wait_for("chat.postMessage")
        thread = slack.conversation(slack.general, ts)
    assert [(each.author, each.text) for each in thread] == [
        ("Ada", "2 < 3 & 名前"),
        ("Palaver", "You said: 2 < 3 & 名前"),
    ]


async def test_bolt_verifies_the_request_url(slack: FakeSlack) -> None:
    async with serve(make_app(slack)) as url, receive(slack) as deaf:
        assert await slack.verify_url(url)
        assert not await slack.verify_url(deaf.url)


async def test_bolt_refuses_signatures_that_are_wrong_or_old(slack: FakeSlack) -> None:
    event = {"type": "event_callback", "event": {"type": "message"}, "team_id": slack.team}
    now = int(time.time())
    app = make_app(slack)

    @app.event("message")
    async def on_message() -> None: ...

    async with serve(app) as url:
        statuses = [
            await slack.send_forged(url, event, timestamp=str(now - 240)),
            await slack.send_forged(url, event, secret="another"),
            await slack.send_forged(url, event, timestamp=str(now - 301)),
            await slack.send_forged(url, event, timestamp="soon"),
        ]
    assert statuses == [200, 401, 401, 500]  # Bolt fails on a time that is no number


async def test_the_envelope_names_the_installation(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        ts = await slack.say(slack.general, slack.ada, "hi")
        await slack.wait_until_delivered()
    [body] = app.events
    assert body["authorizations"][0] == {
        "enterprise_id": None,
        "team_id": slack.team,
        "user_id": slack.bot_user,
        "is_bot": True,
        "is_enterprise_install": False,
    }
    assert body["event"]["client_msg_id"]
    assert (body["event"]["ts"], body["event"]["channel_type"]) == (ts, "channel")
    assert (body["team_id"], body["api_app_id"]) == (slack.team, slack.app.id)


async def attempts_of(slack: FakeSlack, delivery: Delivery, count: int) -> None:
    await slack.wait_until(lambda: len(delivery.attempts) == count)


async def test_a_failed_delivery_is_repeated_at_once_and_after_one_and_five_minutes(
    slack: FakeSlack,
) -> None:
    async with receive(slack, status=500) as app:
        await slack.say(slack.general, slack.ada, "hi")
        [delivery] = slack.deliveries
        await attempts_of(slack, delivery, 2)
        slack.clock.advance(59.9)
        assert len(app.bodies) == 2
        slack.clock.advance(0.1)
        await attempts_of(slack, delivery, 3)
        slack.clock.advance(300)
        await attempts_of(slack, delivery, 4)
        await slack.wait_until_delivered()
    assert len(set(app.bodies)) == 1
    assert [headers.get("x-slack-retry-num") for headers in app.headers] == [None, "1", "2", "3"]
    assert app.headers[3]["x-slack-retry-reason"] == "http_error"
    assert not delivery.is_acknowledged


async def test_an_app_can_refuse_retries(slack: FakeSlack) -> None:
    async with receive(slack, status=500) as app:
        app.answer_headers = {"x-slack-no-retry": "1"}
        await slack.say(slack.general, slack.ada, "hi")
        await slack.wait_until_delivered()
    assert len(app.bodies) == 1


async def test_each_attempt_goes_to_a_random_replica(slack: FakeSlack) -> None:
    async with receive(slack) as gone:
        pass
    async with receive(slack) as living:
        for _ in range(20):
            await slack.say(slack.general, slack.ada, "hi")
        await slack.wait_until(lambda: all(is_tried_twice(each) for each in slack.deliveries))
    assert gone.bodies == []
    reasons = Counter(headers.get("x-slack-retry-reason") for headers in living.headers)
    assert set(reasons) == {None, "connection_failed"}


def is_tried_twice(delivery: Delivery) -> bool:
    return delivery.is_acknowledged or len(delivery.attempts) == 2


async def test_an_app_has_three_seconds(slack: FakeSlack) -> None:
    async with receive(slack, status=0) as app:
        await slack.say(slack.general, slack.ada, "hi")
        [delivery] = slack.deliveries
        await app.received.wait()
        slack.clock.advance(2.9)
        assert not delivery.attempts
        app.status = 200
        slack.clock.advance(0.2)
        await slack.wait_until_delivered()
    assert [attempt.failure for attempt in delivery.attempts] == ["http_timeout", ""]
    assert app.headers[1]["x-slack-retry-reason"] == "http_timeout"


async def test_bolt_answers_404_to_events_without_a_listener(slack: FakeSlack) -> None:
    async with serve(make_app(slack)) as url:
        slack.request_urls = [url]
        await slack.say(slack.general, slack.ada, "hi")
        [delivery] = slack.deliveries
        await attempts_of(slack, delivery, 1)
    assert delivery.attempts[0].status == 404


async def test_copies_have_another_event_id_and_the_same_ts(slack: FakeSlack) -> None:
    slack.rules.copies = 4
    async with receive(slack) as app:
        ts = await slack.say(slack.general, slack.ada, "hi")
        await slack.wait_until_delivered()
    assert [body["event"]["ts"] for body in app.events] == [ts] * 4
    assert len({body["event_id"] for body in app.events}) == 4


async def test_spread_copies_arrive_in_another_order(slack: FakeSlack) -> None:
    slack.rules.copies, slack.rules.spread_seconds = 3, 20
    async with receive(slack) as app:
        for number in range(10):
            await slack.say(slack.general, slack.ada, str(number))
        await asyncio.sleep(0)  # the copies begin to wait
        assert app.events == []
        slack.clock.advance(20)
        await slack.wait_until_delivered()
    texts = [body["event"]["text"] for body in app.events]
    assert Counter(texts) == {str(number): 3 for number in range(10)}
    assert texts != sorted(texts)


@pytest.mark.parametrize("order", ["message first", "mention first"])
async def test_a_mention_is_two_events_in_either_order(slack: FakeSlack, order: str) -> None:
    slack.rules.mention_order = "message first" if order == "message first" else "mention first"
    async with receive(slack) as app:
        ts = await slack.mention(slack.general, slack.ada, "hi")
        await slack.wait_until(lambda: len(app.events) == 2)
        await slack.wait_until_delivered()
    types = [body["event"]["type"] for body in app.events]
    assert types == ["message", "app_mention"][:: 1 if order == "message first" else -1]
    assert {body["event"]["ts"] for body in app.events} == {ts}
    assert app.events[0]["event_id"] != app.events[1]["event_id"]


async def test_the_order_of_mention_and_message_is_random(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        for _ in range(20):
            await slack.mention(slack.general, slack.ada, "hi")
        await slack.wait_until_delivered()
    firsts: dict[str, str] = {}
    for body in app.events:
        firsts.setdefault(body["event"]["ts"], body["event"]["type"])
    assert set(firsts.values()) == {"message", "app_mention"}


async def test_a_direct_message_is_one_event(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        await slack.mention(slack.direct(slack.ada), slack.ada, "hi")
        await slack.wait_until_delivered()
    assert [(body["event"]["type"], body["event"]["channel_type"]) for body in app.events] == [
        ("message", "im")
    ]


async def test_the_app_hears_its_own_posts(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        await make_client(slack).chat_postMessage(channel=slack.general, text="from the app")
        await slack.wait_until_delivered()
    [event] = app.of_type("message")
    assert (event["user"], event["app_id"]) == (slack.bot_user, slack.app.id)
    assert event["bot_id"]


async def test_another_bot_is_told_by_its_bot_id(slack: FakeSlack) -> None:
    other = slack.add_bot("Other")
    slack.world.channels[slack.general].members.add(other.user)
    async with receive(slack) as app:
        await slack.say(slack.general, other.user, "from a bot")
        await slack.wait_until_delivered()
    [event] = app.of_type("message")
    assert (event["bot_id"], event["app_id"]) == (other.bot, other.app)
    assert "client_msg_id" not in event


async def test_edits_and_deletions_are_hidden_messages_with_their_own_ts(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        ts = await slack.say(slack.general, slack.ada, "helo")
        await slack.edit(slack.general, ts, "hello")
        await slack.delete(slack.general, ts)
        await slack.wait_until_delivered()
    events = {event.get("subtype"): event for event in app.of_type("message")}
    changed, deleted = events["message_changed"], events["message_deleted"]
    assert changed["message"]["text"] == "hello"
    assert changed["message"]["edited"]["user"] == slack.ada
    assert changed["previous_message"]["text"] == "helo"
    assert changed["hidden"]
    assert changed["ts"] != changed["message"]["ts"] == ts
    assert deleted["deleted_ts"] == ts != deleted["ts"]


async def test_a_deleted_root_with_replies_becomes_a_tombstone(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        root = await slack.say(slack.general, slack.ada, "root")
        await slack.say(slack.general, slack.bob, "reply", thread=root)
        await slack.delete(slack.general, root)
        await slack.wait_until_delivered()
    [event] = [event for event in app.of_type("message") if event.get("hidden")]
    assert event["subtype"] == "message_changed"
    assert event["message"]["subtype"] == "tombstone"
    assert event["previous_message"]["text"] == "root"


async def test_a_link_is_unfurled_unless_the_app_forbids_it(slack: FakeSlack) -> None:
    client = make_client(slack)
    async with receive(slack) as app:
        await client.chat_postMessage(channel=slack.general, text="see https://example.com")
        slack.clock.advance(1)
        await client.chat_postMessage(
            channel=slack.general,
            text="see https://example.com",
            unfurl_links=False,
            unfurl_media=False,
        )
        await slack.wait_until_delivered()
    [event] = [event for event in app.of_type("message") if event.get("hidden")]
    assert event["message"]["text"] == event["previous_message"]["text"]
    assert event["message"]["attachments"]
    assert [message.previews for message in slack.conversation(slack.general)] == [1, 0]


async def test_a_persons_link_is_unfurled_as_well(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        ts = await slack.say(slack.general, slack.ada, "https://example.com")
        await slack.unfurl(slack.general, ts)
        await slack.wait_until_delivered()
    [event] = [event for event in app.of_type("message") if event.get("hidden")]
    assert event["message"]["text"] == event["previous_message"]["text"]
    assert "edited" not in event["message"]


async def send_some(slack: FakeSlack) -> None:
    private = slack.add_channel("private", [slack.ada, slack.bot_user], kind="group")
    absent = slack.add_channel("absent", [slack.ada])
    for channel in (slack.general, private, absent, slack.direct(slack.ada)):
        await slack.say(channel, slack.ada, "hi")
    await slack.wait_until_delivered()


def channel_types(events: Sequence[Event]) -> set[str]:
    return {event["channel_type"] for event in events}


async def test_it_gets_what_it_subscribes_to_where_it_is_a_member(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        await send_some(slack)
        assert channel_types(app.of_type("message")) == {"channel", "group", "im"}
        app.events.clear()
        slack.app.events.remove("message.channels")
        slack.app.scopes.remove("groups:history")
        await send_some(slack)
        assert channel_types(app.of_type("message")) == {"im"}


async def test_reactions_are_events(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        ts = await slack.say(slack.general, slack.ada, "hi")
        await slack.react(slack.general, ts, slack.bob, "+1")
        await slack.unreact(slack.general, ts, slack.bob, "+1")
        await slack.wait_until_delivered()
    [added] = app.of_type("reaction_added")
    assert (added["reaction"], added["item"]["ts"], added["item_user"]) == ("+1", ts, slack.ada)
    assert app.of_type("reaction_removed")


async def test_one_gesture_can_be_two_messages(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        for _ in range(2):
            await slack.say(slack.general, slack.ada, "hi", client_msg_id="one")
        await slack.wait_until_delivered()
    assert {event["client_msg_id"] for event in app.of_type("message")} == {"one"}
    assert len({event["ts"] for event in app.of_type("message")}) == 2


async def test_too_many_events_are_dropped_with_a_notice_a_minute(slack: FakeSlack) -> None:
    slack.rules.events_per_hour = 3
    async with receive(slack) as app:
        for _ in range(6):
            await slack.say(slack.general, slack.ada, "hi")
        await slack.wait_until_delivered()
        slack.clock.advance(3600)
        await slack.say(slack.general, slack.ada, "later")
        await slack.wait_until_delivered()
    kinds = Counter(body["type"] for body in app.events)
    assert kinds == {"event_callback": 4, "app_rate_limited": 1}
    [notice] = [body for body in app.events if body["type"] == "app_rate_limited"]
    assert notice["team_id"] == slack.team
    assert "event" not in notice


async def test_an_app_that_acknowledges_almost_nothing_gets_no_more_events(
    slack: FakeSlack,
) -> None:
    for _ in range(1_001):
        slack.throttle.record_attempt(False)
    assert slack.throttle.is_disabled
    async with receive(slack) as app:
        await slack.say(slack.general, slack.ada, "hi")
        assert slack.deliveries == []
        slack.throttle.is_disabled = False
        await slack.say(slack.general, slack.ada, "again")
        await slack.wait_until_delivered()
    assert len(app.events) == 1


async def test_several_workspaces_are_apart(slack: FakeSlack) -> None:
    team = slack.add_workspace("Globex")
    token = slack.install(team)
    eve = slack.add_user("Eve", team=team)
    channel = slack.add_channel("lab", [eve, token.user], team=team)
    async with receive(slack) as app:
        await slack.say(channel, eve, "hi")
        await slack.wait_until_delivered()
        await make_client(slack, token.value).chat_postMessage(channel=channel, text="hi Eve")
        with pytest.raises(Exception, match="channel_not_found"):
            await make_client(slack).chat_postMessage(channel=channel, text="hi Eve")
    assert app.events[0]["team_id"] == team
    assert app.events[0]["authorizations"][0]["user_id"] == token.user != slack.bot_user


async def test_an_installation_in_an_organization_has_no_workspace(slack: FakeSlack) -> None:
    team = slack.add_workspace("Initech", enterprise="E0000000001")
    token = slack.install(team, org_wide=True)
    mona = slack.add_user("Mona", team=team)
    assert mona.startswith("W")
    async with receive(slack) as app:
        await slack.say(slack.direct(mona), mona, "hi")
        await slack.wait_until_delivered()
    [body] = app.events
    assert body["authorizations"][0] == {
        "enterprise_id": "E0000000001",
        "team_id": None,
        "user_id": token.user,
        "is_bot": True,
        "is_enterprise_install": True,
    }
    me = await make_client(slack, token.value).auth_test()
    assert me["is_enterprise_install"]
    assert me["enterprise_id"] == "E0000000001"
