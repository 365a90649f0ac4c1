"""Replies as posts of Slack: their form, their limits, each once."""

import dataclasses

import pytest
from tests.plugins.channels.slack.posting_bot import (
    SlackBot,
    Writes,
    conversation_of,
    fast,
    platform_of,
    post,
    posting,
)

from palaver import Turn
from palaver.knowledge import Passage
from palaver.platforms import RateLimits, Source, render
from palaver.testing import ScriptedEngine
from palaver.testing.fakes.slack import FakeSlack
from palaver_plugins.channels.slack.addresses import Thread, person_of
from palaver_plugins.channels.slack.pace import Pace
from palaver_plugins.channels.slack.slack_markdown import SlackDialect

pytestmark = pytest.mark.slow

TABLE = "| name | days |\n|---|---|\n| leave | 30 |\n| sick | 10 |"
PARAGRAPHS = "\n\n".join(f"{number} " + "words " * 60 for number in range(60))


def passage(title: str, section: str) -> Passage:
    return Passage(document="handbook.md", title=title, section=section, number=1, text="30 days")


# Form


async def test_a_post_carries_its_id_and_no_previews() -> None:
    async with posting() as bot:
        thread = await bot.answer("See https://example.org for more.")
        (shown,) = await bot.until_posted(thread)
        (call,) = bot.slack.calls("chat.postMessage")
        assert shown.metadata is not None
        assert shown.metadata["event_type"] == "palaver_reply"
        assert len(shown.metadata["event_payload"]["id"]) == 32
        assert (shown.thread_ts, shown.previews) == (thread.root, 0)
        assert call.arguments["unfurl_links"] is call.arguments["unfurl_media"] is False


async def test_a_direct_message_outside_of_threads_is_answered_there() -> None:
    async with posting() as bot:
        thread = await bot.ask_directly(agent=False)
        await bot.until_shown(thread, "Thinking…")
        bot.finish("Thirty days.")
        (shown,) = await bot.until_posted(thread)
        assert (shown.text, shown.thread_ts) == ("Thirty days.", "")
        assert not bot.slack.calls("agents.sessions.setStatus")
        assert all("thread_ts" not in call.arguments for call in bot.slack.requests)


async def test_text_of_the_model_mentions_nobody() -> None:
    async with posting() as bot:
        thread = await bot.answer(f"<!channel> <@{bot.slack.ada}> `<!here>` <#C1> & @channel")
        (shown,) = await bot.until_posted(thread)
        assert shown.mentions == ()
        (call,) = bot.slack.calls("chat.postMessage")
        assert "<" not in call.arguments["text"]
        assert "!channel&gt;" in call.arguments["text"]


async def test_notifications_have_the_text_without_marks() -> None:
    async with posting() as bot:
        thread = await bot.answer(
            f"# Leave\n\nIt is **30** [days](https://x.org).\n\n{'& ' * 3000}"
        )
        await bot.until_posted(thread)
        (call,) = bot.slack.calls("chat.postMessage")
        assert call.arguments["text"].startswith("Leave\n\nIt is 30 days.\n\n&amp; &amp;")
        assert 1_000 < len(call.arguments["text"]) <= 4_000
        assert call.arguments["text"].endswith("…")


async def test_sources_and_ratings_stand_below_a_reply() -> None:
    async def cite(turn: Turn) -> None:
        turn.cite(passage("Hand & Book", "Leave"), number=1)

    async with posting() as bot:
        thread = await bot.answer(cite, "Thirty days [1].")
        (shown,) = await bot.until_posted(thread)
        assert shown.context == ("[1] Hand & Book, Leave",)
        assert "Book" not in shown.text
        turn = (await bot.reply(thread)).turn
        buttons = [(each.kind, each.label, each.value) for each in shown.buttons]
        assert buttons == [
            ("feedback_buttons", "👍", f"up:{turn}"),
            ("feedback_buttons", "👎", f"down:{turn}"),
        ]
        assert shown.actions == ("palaver.rate", "palaver.rate")


async def test_they_stand_below_a_stream_too() -> None:
    async def cite(turn: Turn) -> None:
        turn.cite(passage("Handbook", ""), number=1)

    async with posting() as bot:
        thread = await bot.ask()
        bot.do("Thirty ")
        await bot.until_shown(thread, "Thirty")
        bot.finish(cite, "days [1].")
        (shown,) = await bot.until_posted(thread)
        assert (shown.text, shown.context) == ("Thirty days \\[1\\].", ("[1] Handbook",))
        assert shown.actions == ("palaver.rate", "palaver.rate")


@pytest.mark.parametrize("count", [2, 25])
async def test_the_options_of_a_question_are_buttons(count: int) -> None:
    options = ["tea", *(f"coffee {'very ' * 20}{number}" for number in range(1, count))]

    async def ask(turn: Turn) -> None:
        await turn.ask("What do you drink?", options)

    async with posting() as bot:
        thread = await bot.answer(ask)
        (shown,) = await bot.until_posted(thread)
        turn = (await bot.reply(thread)).turn
        assert shown.actions == tuple(f"palaver.option.{number}" for number in range(count))
        assert shown.buttons[1].value == f"option:{turn}:1"
        assert shown.buttons[0].label == "tea"
        assert all(len(each.label) <= 75 for each in shown.buttons)


async def test_many_options_of_a_question_are_a_menu() -> None:
    async def ask(turn: Turn) -> None:
        await turn.ask("Which room?", [f"room {number}" for number in range(40)])

    async with posting() as bot:
        thread = await bot.answer(ask)
        (shown,) = await bot.until_posted(thread)
        turn = (await bot.reply(thread)).turn
        assert {each.kind for each in shown.buttons} == {"static_select"}
        assert [each.value for each in shown.buttons][39] == f"option:{turn}:39"


async def test_a_stopped_reply_says_so() -> None:
    async with posting() as bot:
        bot.slack.app.is_agent = False
        thread = await bot.ask()
        bot.do("Thirty ")
        await bot.until_shown(thread, "Thirty")
        await bot.server.stop(conversation_of(thread), None)
        (shown,) = await bot.until_posted(thread)
        assert (shown.text, shown.buttons) == ("Thirty\n\n*Stopped.*", ())


async def test_a_failed_turn_says_why() -> None:
    async def fail(turn: Turn) -> None:
        raise ValueError("secret")

    async with posting() as bot:
        thread = await bot.answer(fail)
        (shown,) = await bot.until_posted(thread)
        assert "could not finish" in shown.text
        assert "secret" not in shown.text


# What Slack does not take


async def test_a_long_reply_is_several_posts_within_the_limit() -> None:
    async with posting() as bot:
        thread = await bot.answer(PARAGRAPHS)
        shown = await bot.until_posted(thread)
        assert "\n\n".join(each.text for each in shown) == render(PARAGRAPHS, SlackDialect())
        assert [bool(each.buttons) for each in shown] == [False] * (len(shown) - 1) + [True]


@pytest.mark.parametrize("error", ["msg_blocks_too_long", "msg_too_long"])
async def test_a_limit_that_is_lower_than_known_is_found(error: str) -> None:
    async with posting() as bot:
        for nth in (1, 3):
            bot.slack.faults.refuse("chat.postMessage", error, nth=nth)
        thread = await bot.answer(PARAGRAPHS)
        shown = await bot.until_posted(thread)
        assert "\n\n".join(each.text for each in shown) == render(PARAGRAPHS, SlackDialect())
        assert len(shown) > 6


@pytest.mark.parametrize("method", ["postMessage", "update"])
@pytest.mark.parametrize("refusals", [1, 2, 3])
async def test_what_slack_does_not_take_is_said_more_simply(method: str, refusals: int) -> None:
    async with FakeSlack() as slack:
        await slack.mention(slack.general, slack.ada, "How long?")
        for nth in range(1, refusals + 1):
            slack.faults.refuse(f"chat.{method}", "invalid_blocks", nth=nth)
        platform = platform_of(slack)
        whole = post(slack, f"**Days**:\n\n{TABLE}")
        whole.reply.outcome = "done"
        ts = await platform.create(whole)
        await platform.edit(dataclasses.replace(whole, message=ts))
        shown = slack.conversation(slack.general)[1]
        for word in ("Days", "leave", "30", "sick", "10"):
            assert word in shown.text
        if method == "update":
            assert shown.blocks[0]["type"] == ("markdown" if refusals == 1 else "section")
            assert bool(shown.buttons) == (refusals < 3)


@pytest.mark.parametrize(
    "error",
    [
        "account_inactive",
        "cannot_reply_to_message",
        "channel_not_found",
        "is_archived",
        "missing_scope",
        "not_in_channel",
        "restricted_action",
        "restricted_action_thread_only_channel",
        "token_revoked",
    ],
)
async def test_a_refusal_for_good_parks_the_conversation(error: str) -> None:
    async with posting() as bot:
        bot.slack.faults.refuse("chat.postMessage", error)
        thread = await bot.answer("Thirty days.")
        await bot.until(thread, lambda record: error.encode() in record.value)
        other = await bot.answer("Thirty days.")
        assert [each.text for each in await bot.until_posted(other)] == ["Thirty days."]
        assert bot.messages(thread) == []
        assert len(bot.slack.calls("chat.postMessage")) == 2


async def test_an_uninstalled_app_parks_the_conversation() -> None:
    async with posting() as bot:
        bot.installations.is_installed = False
        thread = await bot.answer("Thirty days.")
        await bot.until(thread, lambda record: b"not installed" in record.value)
        assert not bot.slack.requests


# Once each


@pytest.mark.parametrize("fault", ["lose_response", "lose_request", "server_error", "rate_limit"])
@pytest.mark.parametrize("is_direct", [True, False])
async def test_a_fault_neither_loses_nor_doubles(fault: str, is_direct: bool) -> None:
    async with posting() as bot:
        bot.slack.app.is_agent = False
        order = getattr(bot.slack.faults, fault)
        limits = {"retry_after": 0} if fault == "rate_limit" else {}
        for method in ("postMessage", "update"):
            for nth in (1, 3):
                order(f"chat.{method}", nth=nth, **limits)
        thread = await (bot.ask_directly(agent=False) if is_direct else bot.ask())
        await bot.until_shown(thread, "Thinking…")
        bot.do("Thirty ")
        await bot.until_shown(thread, "Thirty")
        bot.finish("days.")
        assert [each.text for each in await bot.until_posted(thread)] == ["Thirty days."]
        assert bot.slack.calls("chat.update")


@pytest.mark.parametrize("is_committed", [True, False])
async def test_another_server_finds_what_was_posted(is_committed: bool) -> None:
    async with posting() as bot:
        bot.slack.faults.hang("chat.postMessage", is_committed=is_committed)
        thread = await bot.answer("Thirty days.")
        await bot.slack.wait_until(lambda: bot.slack.calls("chat.postMessage"))
        await bot.restart()
        assert [each.text for each in await bot.until_posted(thread)] == ["Thirty days."]


async def test_an_app_that_may_seldom_read_finds_its_post_in_one_call() -> None:
    """It gets 15 messages in a minute, so only those since the question are read."""
    async with posting() as bot:
        bot.slack.app.is_limited = True
        thread = await bot.answer("Ten days.")
        await bot.until_posted(thread)
        for number in range(40):
            await bot.slack.say(thread.channel, bot.slack.bob, f"{number}", thread=thread.root)
        bot.slack.faults.lose_response("chat.postMessage")
        await bot.answer("Thirty days.", thread=thread)
        shown = await bot.until_posted(thread, 2)
        assert [each.text for each in shown] == ["Ten days.", "Thirty days."]
        assert len(bot.slack.calls("conversations.replies")) == 1


async def test_a_pause_in_reading_does_not_begin_again() -> None:
    async with posting() as bot:
        bot.slack.faults.hang("chat.postMessage", is_committed=True)
        bot.slack.faults.rate_limit("conversations.replies", nth=2, retry_after=0)
        thread = await bot.ask()
        for number in range(150):
            await bot.slack.say(thread.channel, bot.slack.bob, f"{number}", thread=thread.root)
        bot.finish("Thirty days.")
        await bot.slack.wait_until(lambda: bot.slack.calls("chat.postMessage"))
        await bot.restart()
        assert [each.text for each in await bot.until_posted(thread)] == ["Thirty days."]
        assert len(bot.slack.calls("conversations.replies")) == 3


async def test_a_channel_gets_one_post_in_a_second() -> None:
    async with posting(pace=Pace()) as bot:
        bot.slack.rules.rate_limits = True
        threads = [await bot.answer("Thirty days.") for _ in range(3)]
        for thread in threads:
            assert [each.text for each in await bot.until_posted(thread)] == ["Thirty days."]
        assert all(call.is_ok for call in bot.slack.calls("chat.postMessage"))


async def test_edits_of_a_reply_that_goes_on_leave_room_for_the_last_one() -> None:
    pace = fast()
    async with posting(pace=dataclasses.replace(pace, updates=RateLimits(0.01, burst=2))) as bot:
        bot.slack.app.is_agent = False
        thread = await bot.ask()
        await bot.until_shown(thread, "Thinking…")
        for number in range(3):
            bot.do(f"{number} ")
            if number < 2:
                await bot.until_shown(thread, " ".join(map(str, range(number + 1))))
        bot.finish("3.")
        assert [each.text for each in await bot.until_posted(thread)] == ["0 1 2 3."]
        assert len(bot.slack.calls("chat.update")) == 3


async def test_the_pace_is_that_of_slack() -> None:
    """Eight replies are streamed at once, in a Slack that counts."""
    engine = ScriptedEngine(lambda request: "word " * 60, seconds_per_token=0.03)
    async with posting(Writes(), engine=engine, pace=Pace(), edit_interval=0.2) as bot:
        bot.slack.rules.rate_limits = True
        channels = [
            bot.slack.add_channel(f"c{number}", [bot.slack.ada, bot.slack.bot_user])
            for number in range(8)
        ]
        threads = [await bot.ask_in(channel) for channel in channels]
        for thread in threads:
            await bot.until_posted(thread)
        refused = [call for call in bot.slack.requests if call.status == 429]
        assert not refused
        assert len(bot.slack.calls("chat.startStream")) == 8
        assert len(bot.slack.calls("chat.appendStream")) > 16


# Notices


async def notify(bot: SlackBot, thread: Thread, text: str) -> None:
    person = person_of(thread.team, bot.slack.ada)
    source = Source(tenant="default", thread=str(thread), person=person, user=bot.slack.ada)
    await bot.platform.notify(source, text)


async def test_a_notice_in_a_channel_is_for_one_person() -> None:
    async with posting() as bot:
        thread = await bot.answer("Hello.")
        await bot.until_posted(thread)
        await notify(bot, thread, "Ask <ops> & wait")
        shown = bot.slack.conversation(thread.channel)[-1]
        assert (shown.text, shown.ephemeral_to) == ("Ask <ops> & wait", bot.slack.ada)


async def test_a_notice_in_direct_messages_is_a_message() -> None:
    async with posting() as bot:
        thread = Thread(bot.slack.team, bot.slack.direct(bot.slack.ada))
        await notify(bot, thread, "Ask <ops> & wait")
        (shown,) = bot.slack.conversation(thread.channel)
        assert (shown.text, shown.ephemeral_to) == ("Ask <ops> & wait", "")


async def test_a_notice_is_not_taken_for_a_stream_whose_answer_was_lost() -> None:
    async with posting() as bot:
        bot.slack.faults.hang("chat.startStream")
        thread = await bot.ask_directly(agent=True)
        bot.do("Thirty ")
        await bot.slack.wait_until(lambda: bot.slack.calls("chat.startStream"))
        await notify(bot, thread, "One notice")
        await bot.restart()
        bot.finish("days.")
        shown = await bot.until_posted(thread)
        assert [each.text for each in shown] == ["One notice", "Thirty days."]
