"""Messages of Slack: which of them are for the bot, and what it understands."""

from typing import Any, Literal

import pytest
from tests.plugins.channels.slack.slack_server import SlackServer, UnreliableLedger, serving, until

from palaver.testing.fakes.slack import FakeSlack
from palaver.testing.ledger import MemoryLedger
from palaver_plugins.channels.slack.events import read_change
from palaver_plugins.channels.slack.messages import NOTHING_SAID

pytestmark = pytest.mark.slow

MentionOrder = Literal["message first", "mention first"]


async def texts(bot: SlackServer, place: str, root: str = "") -> list[str]:
    """Return what the bot has received in a conversation, once Slack has delivered everything."""
    await bot.slack.wait_until_delivered()
    return [entry.text for entry in await bot.said(bot.conversation(place, root))]


@pytest.mark.parametrize("order", ["message first", "mention first"])
async def test_a_mention_is_one_message_although_slack_tells_it_twice(order: MentionOrder) -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        slack.rules.mention_order = order
        ts = await slack.mention(slack.general, slack.ada, "say hello")
        assert await texts(bot, slack.general, ts) == ["say hello"]
        kinds = [delivery.event["type"] for delivery in slack.deliveries]
        assert sorted(kinds) == ["app_mention", "message"]
        [entry] = await bot.said(bot.conversation(slack.general, ts))
        assert entry.person == f"slack.{slack.team}.{slack.ada}"
        await bot.until_answered(bot.conversation(slack.general, ts))
        assert bot.skill.answered == 1


async def test_a_message_is_accepted_once_however_often_it_is_delivered() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        slack.rules.copies = 5
        ts = await slack.mention(slack.general, slack.ada, "say hello")
        assert await texts(bot, slack.general, ts) == ["say hello"]
        assert len(slack.deliveries) == 10


async def test_a_gesture_with_two_ts_is_one_message() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        first = await slack.mention(slack.general, slack.ada, "say hello")
        await slack.wait_until_delivered()
        id = slack.world.channels[slack.general].messages[first].client_msg_id
        text = f"<@{slack.bot_user}> say hello"
        second = await slack.say(slack.general, slack.ada, text, client_msg_id=id)
        assert await texts(bot, slack.general, second) == []
        assert await texts(bot, slack.general, first) == ["say hello"]


async def test_messages_in_a_channel_are_not_for_the_bot_without_a_mention() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        first = await slack.say(slack.general, slack.ada, "say hello")
        second = await slack.say(slack.general, slack.ada, f"<@{slack.bob}> say hello")
        reply = await slack.say(slack.general, slack.bob, "say it", thread=first)
        for root in (first, second, reply):
            assert await texts(bot, slack.general, root) == []


async def test_a_thread_goes_on_without_a_mention_after_a_restart_too() -> None:
    ledger = MemoryLedger()
    async with FakeSlack() as slack:
        async with serving(slack, ledger=ledger) as bot:
            ts = await slack.mention(slack.general, slack.ada, "say one")
            await bot.until_answered(bot.conversation(slack.general, ts))
            await slack.say(slack.general, slack.bob, "say two", thread=ts)
            assert await texts(bot, slack.general, ts) == ["say one", "say two"]
        async with serving(slack, ledger=ledger) as bot:
            await slack.say(slack.general, slack.bob, "say three", thread=ts)
            assert await texts(bot, slack.general, ts) == ["say one", "say two", "say three"]


async def test_a_mention_in_the_thread_of_others_begins_the_conversation_of_that_thread() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        root = await slack.say(slack.general, slack.ada, "who knows?")
        await slack.mention(slack.general, slack.bob, "say it", thread=root)
        assert await texts(bot, slack.general, root) == ["say it"]


async def test_a_reply_that_arrives_before_the_mention_is_received_too() -> None:
    """The server that was to get the mention has died, and Slack delivers it again in a minute."""
    async with FakeSlack() as slack:
        slack.request_urls = ["http://127.0.0.1:9/"]  # nobody listens
        root = await slack.mention(slack.general, slack.ada, "say one")
        await slack.wait_until(lambda: all(len(each.attempts) == 2 for each in slack.deliveries))
        slack.request_urls = []
        async with serving(slack) as bot:
            await slack.say(slack.general, slack.ada, "say two", thread=root)
            await bot.until_answered(bot.conversation(slack.general, root))
            slack.clock.advance(60)
            assert sorted(await texts(bot, slack.general, root)) == ["say one", "say two"]


async def test_a_reply_is_delivered_again_while_slack_cannot_tell_of_the_mention() -> None:
    async with FakeSlack() as slack:
        slack.request_urls = ["http://127.0.0.1:9/"]  # nobody listens
        root = await slack.mention(slack.general, slack.ada, "say one")
        await slack.wait_until(lambda: all(len(each.attempts) == 2 for each in slack.deliveries))
        slack.request_urls = []
        async with serving(slack) as bot:
            slack.faults.server_error("conversations.replies")
            await slack.say(slack.general, slack.ada, "say two", thread=root)
            await bot.until_answered(bot.conversation(slack.general, root))
            assert await bot.said(bot.conversation(slack.general, root))
            assert len(slack.calls("conversations.replies")) == 2


async def test_a_mention_by_a_bot_does_not_open_its_thread() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        other = slack.add_bot("Other")
        slack.world.channels[slack.general].members.add(other.user)
        root = await slack.mention(slack.general, other.user, "say hello")
        await slack.say(slack.general, slack.ada, "say it", thread=root)
        assert await texts(bot, slack.general, root) == []
        assert len(slack.calls("conversations.replies")) == 1


async def test_threads_of_others_are_looked_into_seldom() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        root = await slack.say(slack.general, slack.ada, "who knows?")
        for _ in range(5):
            await slack.say(slack.general, slack.bob, "say it", thread=root)
            await slack.wait_until_delivered()
        assert len(slack.calls("conversations.replies")) == 1
        slack.clock.advance(601)
        await slack.say(slack.general, slack.bob, "say it", thread=root)
        assert await texts(bot, slack.general, root) == []
        assert len(slack.calls("conversations.replies")) == 1
        slack.faults.rate_limit("conversations.replies")
        other = await slack.say(slack.general, slack.ada, "who knows?")
        await slack.say(slack.general, slack.bob, "say it", thread=other)
        assert await texts(bot, slack.general, other) == []


async def test_each_direct_message_to_an_agent_begins_a_conversation() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        direct = slack.direct(slack.ada)
        first = await slack.say(direct, slack.ada, "say one")
        await slack.say(direct, slack.ada, "say two", thread=first)
        other = await slack.say(direct, slack.ada, "say three")
        assert await texts(bot, direct, first) == ["say one", "say two"]
        assert await texts(bot, direct, other) == ["say three"]


async def test_direct_messages_to_an_app_that_is_no_agent_are_one_conversation() -> None:
    async with FakeSlack() as slack, serving(slack, agent=False) as bot:
        direct = slack.direct(slack.ada)
        first = await slack.say(direct, slack.ada, "say one")
        await slack.say(direct, slack.ada, "say two")
        await slack.say(direct, slack.ada, "say three", thread=first)
        assert await texts(bot, direct) == ["say one", "say two"]
        assert await texts(bot, direct, first) == ["say three"]


@pytest.mark.parametrize("nothing", ["", None])
async def test_an_empty_thread_ts_is_none(nothing: str | None) -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        direct, ts = slack.direct(slack.ada), slack.world.new_ts()
        event = {"type": "message", "channel": direct, "user": slack.ada, "text": "say it"}
        assert await bot.send_event({**event, "ts": ts, "thread_ts": nothing, "files": None}) == 200
        assert await texts(bot, direct, ts) == ["say it"]


async def test_a_group_s_direct_messages_need_a_mention() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        group = slack.add_channel("group", [slack.ada, slack.bob, slack.bot_user], kind="mpim")
        quiet = await slack.say(group, slack.ada, "say hello")
        ts = await slack.mention(group, slack.ada, "say hello")
        assert await texts(bot, group, quiet) == []
        assert await texts(bot, group, ts) == ["say hello"]


async def test_mentions_of_others_are_read_with_their_names() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        text = f"say <@{slack.bob}> &lt;3 <#{slack.general}|general> <https://a.example|this>"
        ts = await slack.say(slack.general, slack.ada, f"<@{slack.bot_user}>, {text}")
        read = await texts(bot, slack.general, ts)
        assert read[0].startswith("say @Bob ")
        await slack.mention(slack.general, slack.ada, f"say <@{slack.bob}> again", thread=ts)
        assert (await texts(bot, slack.general, ts))[1] == "say @Bob again"
        assert len(slack.calls("users.info")) == 1


async def test_a_name_that_slack_does_not_tell_is_an_id() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        slack.faults.refuse("users.info", "user_not_found")
        ts = await slack.mention(slack.general, slack.ada, f"say <@{slack.bob}>")
        assert await texts(bot, slack.general, ts) == [f"say @{slack.bob}"]


async def test_a_mention_without_a_word_is_answered_once() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        slack.rules.copies = 3
        ts = await slack.mention(slack.general, slack.ada, "")
        assert await texts(bot, slack.general, ts) == []
        assert bot.board.notices == [(f"slack.{slack.team}.{slack.ada}", NOTHING_SAID)]


async def test_an_emoji_alone_is_a_message() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        ts = await slack.mention(slack.general, slack.ada, ":thumbsup:")
        assert await texts(bot, slack.general, ts) == ["👍"]


@pytest.mark.parametrize("subtype", ["me_message", "thread_broadcast"])
async def test_every_way_to_write_is_read(subtype: str) -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        root = await slack.mention(slack.general, slack.ada, "say one")
        await slack.wait_until_delivered()
        await slack.say(slack.general, slack.bob, "say two", thread=root, subtype=subtype)
        assert await texts(bot, slack.general, root) == ["say one", "say two"]


async def test_what_happens_in_a_channel_is_no_message() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        ts = slack.world.new_ts()
        event = {
            "type": "message",
            "subtype": "channel_topic",
            "channel": slack.general,
            "user": slack.ada,
            "text": f"<@{slack.bot_user}> set the topic",
            "ts": ts,
        }
        assert await bot.send_event(event) == 200
        assert await texts(bot, slack.general, ts) == []


async def test_an_unreadable_event_is_acknowledged() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        event = {"type": "message", "channel": slack.general, "user": slack.ada, "ts": "soon"}
        assert await bot.send_event(event) == 200


# Bots


async def test_other_bots_are_not_answered() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        other = slack.add_bot("Other")
        slack.world.channels[slack.general].members.add(other.user)
        ts = await slack.mention(slack.general, other.user, "say hello")
        assert await texts(bot, slack.general, ts) == []


async def test_bots_that_may_write_are_answered_a_few_times() -> None:
    async with FakeSlack() as slack, serving(slack, bots="answer", bot_turns=2) as bot:
        other = slack.add_bot("Other")
        slack.world.channels[slack.general].members.add(other.user)
        root = await slack.mention(slack.general, slack.ada, "say one")
        await slack.wait_until_delivered()
        for _ in range(4):
            await slack.say(slack.general, other.user, "say more", thread=root)
            await slack.wait_until_delivered()
        assert await texts(bot, slack.general, root) == ["say one", "say more", "say more"]


@pytest.mark.parametrize("kind", ["user", "bot_id", "app_id", "bot_profile", "slackbot"])
async def test_the_bot_does_not_answer_itself(kind: str) -> None:
    """Its posts come back as events, also those by a response URL, which have no user."""
    async with FakeSlack() as slack, serving(slack, bots="answer") as bot:
        root = await slack.mention(slack.general, slack.ada, "say one")
        await slack.wait_until_delivered()
        own = slack.world.users[slack.bot_user]
        authors: dict[str, dict[str, Any]] = {
            "user": {"user": slack.bot_user},
            "bot_id": {"subtype": "bot_message", "bot_id": own.bot},
            "app_id": {"bot_id": "B9", "app_id": slack.app.id},
            "bot_profile": {"bot_id": "B9", "bot_profile": {"app_id": slack.app.id}},
            "slackbot": {"user": "USLACKBOT"},
        }
        author = authors[kind]
        event = {"type": "message", "channel": slack.general, "text": "say two", **author}
        event |= {"ts": slack.world.new_ts(), "thread_ts": root}
        assert await bot.send_event(event) == 200
        assert await texts(bot, slack.general, root) == ["say one"]


# Changes


async def test_the_preview_of_a_link_is_no_message() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        ts = await slack.mention(slack.general, slack.ada, "say https://a.example")
        await slack.wait_until_delivered()
        await slack.unfurl(slack.general, ts)
        assert await texts(bot, slack.general, ts) == ["say https://a.example"]


def test_only_a_change_of_the_text_is_a_change() -> None:
    """Unfurled links change a message too; a deleted one with a thread becomes a tombstone."""
    before = {"ts": "1700000000.000100", "user": "U1", "text": "a", "edited": None}
    event: dict[str, Any] = {"type": "message", "subtype": "message_changed", "channel": "C1"}
    event["previous_message"] = before
    assert read_change({**event, "message": {**before, "attachments": [{}]}}) is None
    edited = read_change({**event, "message": {**before, "text": "b"}})
    assert edited is not None
    assert edited.after is not None
    assert (edited.before.text, edited.after.text, edited.after.channel) == ("a", "b", "C1")
    tombstone = read_change({**event, "message": {**before, "subtype": "tombstone"}})
    assert tombstone is not None
    assert tombstone.after is None
    deleted = read_change({**event, "subtype": "message_deleted"})
    assert deleted is not None
    assert deleted.after is None
    assert read_change({**event, "previous_message": None}) is None


async def test_an_edit_of_a_message_that_nobody_remembers_is_no_message() -> None:
    """A ledger knows the id of a message for a day."""
    async with FakeSlack() as slack:
        direct = slack.direct(slack.ada)
        async with serving(slack) as bot:
            ts = await slack.say(direct, slack.ada, "say one")
            assert await texts(bot, direct, ts) == ["say one"]
        async with serving(slack) as bot:
            await slack.edit(direct, ts, "say two")
            assert await texts(bot, direct, ts) == []


async def test_a_change_of_the_bot_s_own_post_is_no_message() -> None:
    """Also one by a response URL, which has no user."""
    async with FakeSlack() as slack, serving(slack, bots="answer") as bot:
        ts, own = slack.world.new_ts(), slack.world.users[slack.bot_user]
        post = {"ts": ts, "subtype": "bot_message", "bot_id": own.bot, "text": "a"}
        event = {"type": "message", "subtype": "message_changed", "channel": slack.general}
        changed = {**post, "text": f"<@{slack.bot_user}> say it"}
        content = {"previous_message": post, "message": changed}
        assert await bot.send_event({**event, **content, "ts": slack.world.new_ts()}) == 200
        assert await texts(bot, slack.general, ts) == []


async def test_a_message_that_is_for_the_bot_after_an_edit_is_received() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        ts = await slack.say(slack.general, slack.ada, "say hello")
        assert await texts(bot, slack.general, ts) == []
        await slack.edit(slack.general, ts, f"<@{slack.bot_user}> say hello")
        assert await texts(bot, slack.general, ts) == ["say hello"]


async def test_edits_of_bots_are_not_answered() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        other = slack.add_bot("Other")
        slack.world.channels[slack.general].members.add(other.user)
        ts = await slack.say(slack.general, other.user, "hello")
        await slack.edit(slack.general, ts, f"<@{slack.bot_user}> say hello")
        assert await texts(bot, slack.general, ts) == []


async def test_deletions_and_edits_do_not_repeat_a_message() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        ts = await slack.mention(slack.general, slack.ada, "say one")
        await bot.until_answered(bot.conversation(slack.general, ts))
        await slack.edit(slack.general, ts, f"<@{slack.bot_user}> say two")
        await slack.delete(slack.general, ts)
        assert await texts(bot, slack.general, ts) == ["say one"]
        assert bot.skill.answered == 1


async def hold(bot: SlackServer) -> str:
    """Let a turn run in a thread, until `Obeys.may_continue`; return the thread."""
    root = await bot.slack.mention(bot.slack.general, bot.slack.ada, "hold")
    await bot.until_answered(bot.conversation(bot.slack.general, root))
    return root


async def answers(bot: SlackServer, root: str, count: int) -> list[str]:
    """Let the turn go on; return what is answered after it."""
    bot.skill.may_continue.set()
    conversation = bot.conversation(bot.slack.general, root)
    await until(lambda: bot.skill.answered == count)
    return (await bot.until_answered(conversation, count))[1:]


async def test_a_message_that_waits_is_edited() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        root = await hold(bot)
        mention, everybody = f"<@{slack.bot_user}>", f"<@{slack.bob}> & all"
        ts = await slack.mention(slack.general, slack.ada, "say helo", thread=root)
        await slack.wait_until_delivered()
        await slack.edit(slack.general, ts, f"{mention} say hello {everybody}")
        await slack.wait_until_delivered()
        (answer,) = await answers(bot, root, 2)
        assert "hello" in answer
        name = slack.world.users[slack.bob].name
        said = await texts(bot, slack.general, root)
        assert said[0] == "hold"
        assert said[1].lower() == f"say hello @{name.lower()} & all"


@pytest.mark.parametrize("change", ["delete", "empty"])
async def test_a_message_that_waits_is_withdrawn(change: str) -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        root = await hold(bot)
        ts = await slack.mention(slack.general, slack.ada, "say one", thread=root)
        await slack.mention(slack.general, slack.ada, "say two", thread=root)
        await slack.wait_until_delivered()
        if change == "delete":
            await slack.delete(slack.general, ts)
        else:
            await slack.edit(slack.general, ts, f"<@{slack.bot_user}>")
        await slack.wait_until_delivered()
        assert await answers(bot, root, 2) == ["You said two\\."]
        assert await texts(bot, slack.general, root) == ["hold", "say two"]


async def test_an_edit_of_a_message_whose_turn_has_begun_changes_nothing() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        root = await hold(bot)
        await slack.edit(slack.general, root, f"<@{slack.bot_user}> say hello")
        await slack.wait_until_delivered()
        assert await answers(bot, root, 1) == []
        assert await texts(bot, slack.general, root) == ["hold"]


async def test_a_change_is_delivered_again_while_the_store_is_away() -> None:
    ledger = UnreliableLedger()
    async with FakeSlack() as slack, serving(slack, ledger=ledger) as bot:
        root = await hold(bot)
        ts = await slack.mention(slack.general, slack.ada, "say one", thread=root)
        await slack.wait_until_delivered()
        ledger.failures = 1
        await slack.delete(slack.general, ts)
        await slack.wait_until_delivered()
        assert ledger.failures == 0
        assert await answers(bot, root, 1) == []


# Who may write, and where


async def test_a_stranger_gets_a_code_for_direct_messages() -> None:
    async with FakeSlack() as slack, serving(slack, direct_messages="pairing") as bot:
        direct = slack.direct(slack.ada)
        first = await slack.say(direct, slack.ada, "say one")
        assert await texts(bot, direct, first) == []
        [request] = await bot.channel.policy.pairings.requests()
        [(person, notice)] = bot.board.notices
        assert person == f"slack.{slack.team}.{slack.ada}"
        assert request.code in notice
        await bot.channel.policy.pairings.approve(request.code)
        second = await slack.say(direct, slack.ada, "say two")
        assert await texts(bot, direct, second) == ["say two"]


async def test_only_listed_people_may_write_direct_messages() -> None:
    async with FakeSlack() as slack:
        policy: dict[str, Any] = {"direct_messages": "allowlist", "people": (slack.ada,)}
        async with serving(slack, **policy) as bot:
            for person, expected in ((slack.ada, ["say it"]), (slack.bob, [])):
                direct = slack.direct(person)
                ts = await slack.say(direct, person, "say it")
                assert await texts(bot, direct, ts) == expected


async def test_the_tenant_is_that_of_the_settings() -> None:
    async with FakeSlack() as slack, serving(slack, tenant="acme") as bot:
        ts = await slack.mention(slack.general, slack.ada, "say it")
        await slack.wait_until_delivered()
        assert await bot.said(bot.conversation(slack.general, ts, tenant="acme"))


async def test_a_thread_of_a_listed_channel_is_listed_too() -> None:
    async with FakeSlack() as slack:
        other = slack.add_channel("other", [slack.ada, slack.bot_user])
        async with serving(slack, groups="allowlist", rooms=(slack.general,)) as bot:
            root = await slack.say(slack.general, slack.ada, "hello")
            await slack.mention(slack.general, slack.ada, "say it", thread=root)
            elsewhere = await slack.mention(other, slack.ada, "say it")
            assert await texts(bot, slack.general, root) == ["say it"]
            assert await texts(bot, other, elsewhere) == []


async def test_a_thread_is_answered_in_the_order_of_slack_however_it_arrives() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        root = await slack.mention(slack.general, slack.ada, "hold")
        conversation = bot.conversation(slack.general, root)
        await bot.until_answered(conversation)
        times = [slack.world.new_ts() for _ in range(5)]
        for number in (3, 1, 4, 0, 2):
            event = {"type": "message", "channel": slack.general, "user": slack.ada}
            event |= {"text": f"say {number}", "ts": times[number], "thread_ts": root}
            assert await bot.send_event(event) == 200
        bot.skill.may_continue.set()
        await bot.until_answered(conversation, 6)
        said = await texts(bot, slack.general, root)
        assert said == ["hold", *(f"say {number}" for number in range(5))]
