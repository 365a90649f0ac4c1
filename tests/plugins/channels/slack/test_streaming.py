"""Replies are streamed in threads where Slack shows its own stop button."""

import dataclasses

import pytest
from tests.plugins.channels.slack.posting_bot import (
    SlackBot,
    conversation_of,
    platform_of,
    post,
    posting,
)

from palaver.platforms import NotEditable, OutgoingPost, render
from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.slack import FakeSlack
from palaver_plugins.channels.slack.addresses import Thread
from palaver_plugins.channels.slack.platform import SlackPlatform
from palaver_plugins.channels.slack.slack_markdown import SlackDialect

pytestmark = pytest.mark.slow

LINES = [f"print({number})" for number in range(12)]
CODE = "Look:\n\n```python\n" + "\n".join(LINES) + "\n```\n\nThat is **all** of it."


async def stream(bot: SlackBot, *pieces: str) -> Thread:
    """Let the bot stream the first pieces of a reply."""
    thread = await bot.ask()
    await go_on(bot, thread, *pieces)
    return thread


async def go_on(bot: SlackBot, thread: Thread, *pieces: str) -> None:
    """Say pieces, each once Slack has got the one before."""
    for piece in pieces:
        async with bot.next_call():
            bot.do(piece)


async def whole_reply(bot: SlackBot, thread: Thread) -> str:
    """Wait until the reply is posted; check that it is the ledger's, and return it."""
    shown = await bot.until_posted(thread)
    assert not any(message.is_streaming for message in shown)
    assert not bot.slack.calls("chat.update")
    return "".join("".join(message.text.split()) for message in shown)


async def test_a_reply_is_streamed() -> None:
    async with posting() as bot:
        thread = await bot.ask()
        bot.do("Thirty ")
        await bot.until_shown(thread, "Thirty")
        bot.do("days ")
        await bot.until_shown(thread, "Thirty days")
        bot.finish("a year.")
        (shown,) = await bot.until_posted(thread)
        assert shown.text == "Thirty days a year."
        assert not shown.is_streaming
        assert not bot.slack.calls("chat.postMessage")
        assert not bot.slack.calls("chat.update")


async def test_in_a_channel_slack_is_told_who_reads() -> None:
    async with posting() as bot:
        thread = await stream(bot, "Thirty ")
        (start,) = bot.slack.calls("chat.startStream")
        assert start.arguments["thread_ts"] == thread.root
        assert start.arguments["recipient_user_id"] == bot.slack.ada
        assert start.arguments["recipient_team_id"] == bot.slack.team
        bot.finish()
        await bot.until_posted(thread)


@pytest.mark.parametrize("rule", ["either", "refused"])
async def test_in_a_thread_of_direct_messages_nobody_is_named(rule: str) -> None:
    async with posting() as bot:
        bot.slack.rules.direct_recipients = "refused" if rule == "refused" else "either"
        thread = await bot.ask_directly(agent=True)
        await go_on(bot, thread, "Thirty ")
        bot.finish("days.")
        assert [each.text for each in await bot.until_posted(thread)] == ["Thirty days."]
        assert len(bot.slack.calls("chat.startStream")) == 1


async def test_the_members_of_an_organization_are_named_with_their_workspace() -> None:
    async with posting() as bot:
        slack = bot.slack
        bot.team = slack.world.workspaces[slack.team].enterprise = "E0000000001"
        thread = await stream(bot, "Thirty ")
        (start,) = slack.calls("chat.startStream")
        assert start.arguments["recipient_team_id"] == slack.team
        bot.finish("days.")
        assert [each.text for each in await bot.until_posted(thread)] == ["Thirty days."]


# The session of the thread


async def test_the_session_is_processing_while_the_turn_runs() -> None:
    async with posting() as bot:
        thread = await bot.ask("How long is\n  the leave?")
        await bot.slack.wait_for("agents.sessions.setStatus")
        session = bot.slack.world.sessions[thread.channel, thread.root]
        assert (session.status, session.title) == ("processing", "How long is the leave?")
        await go_on(bot, thread, "Thirty ")
        assert session.status == "processing"
        bot.finish("days.")
        await bot.until_posted(thread)
        assert session.status == "active"
        assert len(bot.slack.calls("agents.sessions.setStatus")) == 1


async def test_a_stop_by_the_person_is_final() -> None:
    async with posting() as bot:
        thread = await stream(bot, "Thirty ", "days ")
        await bot.slack.stop(thread.channel, thread.root, bot.slack.ada)
        await go_on(bot, thread, "a ")
        await bot.server.stop(conversation_of(thread), None)
        bot.do("year.")
        (shown,) = await bot.until_posted(thread)
        assert shown.text == "Thirty days"
        assert (await bot.reply(thread)).outcome == "stopped"
        assert bot.slack.world.sessions[thread.channel, thread.root].status == "active"


async def test_a_stop_of_which_the_server_hears_nothing_loses_nothing() -> None:
    async with posting() as bot:
        thread = await stream(bot, "Thirty ", "days ")
        await bot.slack.stop(thread.channel, thread.root, bot.slack.ada)
        bot.finish("a year.")
        assert [each.text for each in await bot.until_posted(thread)] == ["Thirty days a year."]


# The life of a stream


async def test_a_stream_is_followed_by_another_before_slack_ends_it() -> None:
    async with posting(clock=FakeClock()) as bot:
        thread = await stream(bot, CODE[:30], CODE[30:60])
        bot.slack.clock.advance(241)
        await go_on(bot, thread, CODE[60:90], CODE[90:100])
        bot.slack.clock.advance(241)
        await go_on(bot, thread, CODE[100:130])
        bot.finish(CODE[130:])
        shown = await bot.until_posted(thread)
        assert len(shown) == 3
        assert not bot.slack.calls("chat.update")
        assert all(message.text.count("```") % 2 == 0 for message in shown)
        assert shown[1].text.startswith("```python\nprint(")
        found = [line for each in shown for line in each.text.split("\n") if "print" in line]
        assert found == LINES
        stops = [call.arguments["session_status"] for call in bot.slack.calls("chat.stopStream")]
        assert stops == ["processing", "processing", "active"]


async def test_a_stream_that_slack_has_ended_loses_nothing() -> None:
    async with posting(clock=FakeClock()) as bot:
        thread = await stream(bot, "One two ", "three four ")
        bot.slack.clock.advance(301)
        await go_on(bot, thread, "five six ", "seven eight ")
        bot.finish("nine.")
        assert await whole_reply(bot, thread) == "Onetwothreefourfivesixseveneightnine."
        assert len(bot.messages(thread)) == 2


async def test_a_stream_that_slack_has_ended_at_the_end_of_the_reply() -> None:
    async with posting(clock=FakeClock()) as bot:
        thread = await stream(bot, "One two ")
        bot.slack.clock.advance(301)
        bot.finish("three.")
        assert [each.text for each in await bot.until_posted(thread)] == ["One two three."]


async def test_a_long_reply_is_several_streams() -> None:
    pieces = [f"{number} " + "word " * 150 + "\n\n" for number in range(30)]
    async with posting() as bot:
        thread = await stream(bot, *pieces)
        bot.finish()
        text = await whole_reply(bot, thread)
        assert text == "".join("".join(pieces).split())
        assert len(bot.slack.calls("chat.startStream")) >= 3
        assert all(len(message.text) <= 10_000 for message in bot.messages(thread))


async def edit(platform: SlackPlatform, first: OutgoingPost, *texts: str) -> None:
    """Let a post show one text after the other."""
    for text in texts:
        changed = dataclasses.replace(first.reply, text=text)
        await platform.edit(
            dataclasses.replace(first, text=render(text, SlackDialect()), reply=changed)
        )


async def test_what_was_read_wrongly_for_a_while_is_no_reason_to_end_a_stream() -> None:
    """A line of dashes below a text makes a heading of it, until it is an item of a list."""
    async with FakeSlack() as slack:
        await slack.mention(slack.general, slack.ada, "How long?")
        platform = platform_of(slack)
        first = post(slack, "You need:")
        first = dataclasses.replace(first, message=await platform.create(first))
        await edit(
            platform, first, "You need:\n-", "You need:\n- time\n-", "You need:\n- time\n- ink"
        )
        assert slack.conversation(slack.general)[1].text == "You need:\n\n- time\n- ink"


async def test_a_stream_whose_text_is_withdrawn_is_given_up() -> None:
    async with FakeSlack() as slack:
        await slack.mention(slack.general, slack.ada, "How long?")
        platform = platform_of(slack)
        first = post(slack, "Thirty years, I think.")
        first = dataclasses.replace(first, message=await platform.create(first))
        await edit(platform, first, "Thirty days.", "Thirty days, or.")
        with pytest.raises(NotEditable):
            await edit(platform, first, "Thirty days, or so.")
        assert not slack.conversation(slack.general)[1].is_streaming


async def test_text_that_is_withdrawn_at_the_end_is_given_up_at_once() -> None:
    async with FakeSlack() as slack:
        await slack.mention(slack.general, slack.ada, "How long?")
        platform = platform_of(slack)
        first = post(slack, "Thirty years, I think.")
        first = dataclasses.replace(first, message=await platform.create(first))
        first.reply.outcome = "done"
        with pytest.raises(NotEditable):
            await edit(platform, first, "Thirty days.")


# Where streams are not possible


@pytest.mark.parametrize("error", ["missing_scope", "unknown_method", "team_not_found"])
async def test_a_reply_that_cannot_be_streamed_is_a_post_that_is_changed(error: str) -> None:
    async with posting() as bot:
        bot.slack.faults.refuse("chat.startStream", error)
        thread = await stream(bot, "Thirty ")
        await bot.until_shown(thread, "Thirty")
        bot.do("days ")
        await bot.until_shown(thread, "Thirty days")
        bot.finish("a year.")
        (shown,) = await bot.until_posted(thread)
        assert shown.text == "Thirty days a year."
        await bot.ask("Again?", thread=thread)
        await go_on(bot, thread, "Thirty-one ")
        bot.finish("days.")
        assert (await bot.until_posted(thread, 2))[1].text == "Thirty-one days."
        again = 1 if error == "team_not_found" else 0
        assert len(bot.slack.calls("chat.startStream")) == 1 + again


async def test_no_stream_is_started_where_too_many_are() -> None:
    async with posting() as bot:
        bot.slack.faults.rate_limit("chat.startStream", retry_after=60)
        thread = await stream(bot, "Thirty ")
        await bot.until_shown(thread, "Thirty")
        bot.finish("days.")
        assert [each.text for each in await bot.until_posted(thread)] == ["Thirty days."]
        other = await stream(bot, "More ")
        bot.finish("text.")
        await bot.until_posted(other)
        assert len(bot.slack.calls("chat.startStream")) == 1


async def test_an_app_that_is_no_agent_has_a_stop_button_of_its_own() -> None:
    async with posting() as bot:
        bot.slack.app.is_agent = False
        thread = await bot.ask()
        await bot.until_shown(thread, "Thinking…")
        assert bot.messages(thread)[0].actions == ("palaver.stop",)
        bot.do("Thirty ")
        await bot.until_shown(thread, "Thirty")
        (button,) = bot.messages(thread)[0].buttons
        assert (button.label, button.value) == ("Stop", f"stop:{await bot.turn(thread)}")
        bot.finish("days.")
        (shown,) = await bot.until_posted(thread)
        assert "palaver.stop" not in shown.actions
        assert not bot.slack.calls("chat.startStream")


async def test_an_app_that_does_not_hear_of_stops_has_a_stop_button_of_its_own() -> None:
    async with posting() as bot:
        bot.slack.app.events.remove("agent_session_stopped")
        thread = await stream(bot, "Thirty ")
        await bot.until_shown(thread, "Thirty")
        assert bot.messages(thread)[0].actions == ("palaver.stop",)
        bot.finish("days.")
        await bot.until_posted(thread)
        assert bot.slack.world.sessions[thread.channel, thread.root].status == "active"


# Faults


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("method", ["startStream", "appendStream", "stopStream"])
@pytest.mark.parametrize("fault", ["lose_response", "lose_request", "server_error", "rate_limit"])
async def test_a_fault_neither_loses_nor_doubles(method: str, fault: str, nth: int) -> None:
    async with posting() as bot:
        if fault == "rate_limit":
            bot.slack.faults.rate_limit(f"chat.{method}", nth=nth, retry_after=0)
        else:
            getattr(bot.slack.faults, fault)(f"chat.{method}", nth=nth)
        thread = await stream(bot, "One ", "two ", "three ", "four ")
        bot.finish("five.")
        assert [each.text for each in await bot.until_posted(thread)] == [
            "One two three four five."
        ]


@pytest.mark.parametrize("is_committed", [True, False])
@pytest.mark.parametrize("method", ["startStream", "appendStream", "stopStream"])
async def test_another_server_goes_on(method: str, is_committed: bool) -> None:
    """The first server dies while it waits for an answer."""
    async with posting() as bot:
        bot.slack.faults.hang(f"chat.{method}", is_committed=is_committed)
        thread = await bot.ask()
        bot.do("One ")
        if method != "startStream":
            await bot.until_shown(thread, "One")
        bot.do("two ")
        if method == "stopStream":
            await bot.until_shown(thread, "One two")
            bot.finish("three.")
        await bot.slack.wait_until(lambda: bot.slack.calls(f"chat.{method}"))
        await bot.restart()
        if method != "stopStream":
            await go_on(bot, thread, "two and a half ")
            bot.finish("three.")
        (shown,) = await bot.until_posted(thread)
        assert shown.text == render((await bot.reply(thread)).text, SlackDialect())
        assert bot.slack.world.sessions[thread.channel, thread.root].status == "active"


async def test_another_server_stops_the_stream_first() -> None:
    async with posting() as bot:
        thread = await stream(bot, "One ", "two ")
        (first,) = bot.messages(thread)
        await bot.restart()
        await go_on(bot, thread, "three ")
        await bot.until_shown(thread, "One two three")
        bot.finish("four.")
        assert [each.text for each in await bot.until_posted(thread)] == ["One two three four."]
        calls = [call.method for call in bot.slack.requests if call.arguments.get("ts") == first.ts]
        assert calls[-2:] == ["chat.stopStream", "chat.delete"]


async def test_an_append_that_slack_refuses_ends_the_stream() -> None:
    async with posting() as bot:
        bot.slack.faults.refuse("chat.appendStream", "streaming_mode_mismatch")
        thread = await stream(bot, "One ", "two ", "three ")
        bot.finish("four.")
        assert [each.text for each in await bot.until_posted(thread)] == ["One two three four."]


async def test_a_message_that_people_have_deleted_ends_the_posting_of_it() -> None:
    async with posting() as bot:
        thread = await stream(bot, "One ")
        await bot.slack.delete(thread.channel, bot.messages(thread)[0].ts)
        bot.finish("two.")
        assert await bot.until_posted(thread) == []
