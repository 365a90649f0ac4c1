"""What Slack shows while nothing of a reply is posted ends in every case."""

import dataclasses

import pytest
from tests.plugins.channels.slack.posting_bot import (
    SlackBot,
    conversation_of,
    platform_of,
    post,
    posting,
)

from palaver import Turn
from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.slack import FakeSlack
from palaver_plugins.channels.slack.addresses import Thread

pytestmark = pytest.mark.slow


def status(bot: SlackBot, thread: Thread) -> str:
    return bot.slack.status(thread.channel, thread.root)


def session(bot: SlackBot, thread: Thread) -> str:
    return bot.slack.world.sessions[thread.channel, thread.root].status


async def test_a_thread_shows_that_the_bot_thinks() -> None:
    async with posting() as bot:
        thread = await bot.ask()
        await bot.slack.wait_until(lambda: status(bot, thread) == "is thinking…")
        assert session(bot, thread) == "processing"
        bot.do("Thirty ")
        await bot.until_shown(thread, "Thirty")
        assert status(bot, thread) == ""
        bot.finish("days.")
        await bot.until_posted(thread)
        assert (status(bot, thread), session(bot, thread)) == ("", "active")


STATUSES = [("", "is thinking…"), ("search", "is using search…"), ("", "is thinking…")]


async def test_it_names_the_tool_that_runs() -> None:
    async with FakeSlack() as slack:
        await slack.mention(slack.general, slack.ada, "How long?")
        platform, shown = platform_of(slack), post(slack, "")
        reply = shown.reply
        root = next(iter(slack.world.channels[slack.general].messages))
        for tool, text in (
            ("", "is thinking…"),
            ("search", "is using search…"),
            ("", "is thinking…"),
        ):
            reply = dataclasses.replace(reply, status=tool)
            for _ in range(3):
                await platform.show_progress(shown.conversation, reply)
            assert slack.status(slack.general, root) == text
        assert len(slack.calls("assistant.threads.setStatus")) == 3
        assert len(slack.calls("agents.sessions.setStatus")) == 1


async def test_a_status_is_set_again_before_slack_removes_it() -> None:
    async with FakeSlack(clock=FakeClock()) as slack:
        root = await slack.mention(slack.general, slack.ada, "How long?")
        platform, shown = platform_of(slack), post(slack, "")
        for _ in range(60):
            await platform.show_progress(shown.conversation, shown.reply)
            assert slack.status(slack.general, root) == "is thinking…"
            slack.clock.advance(5)
        assert len(slack.calls("assistant.threads.setStatus")) <= 4


async def fail(turn: Turn) -> None:
    raise ValueError("broken")


async def nothing(turn: Turn) -> None:
    pass


async def think(turn: Turn) -> None:
    await turn.say("<think>Hm.</think>")


@pytest.mark.parametrize("step", [fail, nothing, think])
async def test_it_ends_however_the_turn_ends(step: object) -> None:
    async with posting() as bot:
        thread = await bot.ask()
        await bot.slack.wait_until(lambda: status(bot, thread) == "is thinking…")
        bot.finish(step)  # type: ignore[arg-type]
        await bot.until_posted(thread)
        assert (status(bot, thread), session(bot, thread)) == ("", "active")


async def test_it_ends_where_a_person_stops_the_turn() -> None:
    async with posting() as bot:
        thread = await bot.ask()
        await bot.slack.wait_until(lambda: status(bot, thread) == "is thinking…")
        await bot.slack.stop(thread.channel, thread.root, bot.slack.ada)
        await bot.server.stop(conversation_of(thread), None)
        assert await bot.until_posted(thread) == []
        assert (status(bot, thread), session(bot, thread)) == ("", "active")


async def test_it_ends_where_slack_refuses_the_reply() -> None:
    async with posting() as bot:
        thread = await bot.ask()
        await bot.slack.wait_until(lambda: status(bot, thread) == "is thinking…")
        bot.slack.faults.refuse("chat.startStream", "restricted_action")
        bot.slack.faults.refuse("chat.postMessage", "restricted_action")
        bot.do("Thirty ")
        await bot.until(thread, lambda record: b"restricted_action" in record.value)
        assert (status(bot, thread), session(bot, thread)) == ("", "active")
        bot.finish()


async def test_it_ends_where_another_server_posts_the_reply() -> None:
    async with posting(clock=FakeClock()) as bot:
        thread = await bot.ask()
        await bot.slack.wait_until(lambda: status(bot, thread) == "is thinking…")
        await bot.poster.close()
        bot.finish(nothing)
        bot.slack.clock.advance(121)
        await bot.restart()
        await bot.until_posted(thread)
        assert (status(bot, thread), session(bot, thread)) == ("", "active")


@pytest.mark.parametrize("fault", ["lose_request", "lose_response", "rate_limit", "server_error"])
async def test_its_end_is_repeated_until_slack_takes_it(fault: str) -> None:
    async with posting() as bot:
        thread = await bot.ask()
        await bot.slack.wait_until(lambda: status(bot, thread) == "is thinking…")
        for method in ("agents.sessions.setStatus", "assistant.threads.setStatus"):
            limits = {"retry_after": 0} if fault == "rate_limit" else {}
            getattr(bot.slack.faults, fault)(method, **limits)
        bot.finish(nothing)
        await bot.until_posted(thread)
        assert (status(bot, thread), session(bot, thread)) == ("", "active")


@pytest.mark.parametrize("fault", ["lose_request", "rate_limit", "refuse"])
async def test_a_reply_is_posted_where_progress_cannot_be_shown(fault: str) -> None:
    async with posting() as bot:
        if fault == "refuse":
            bot.slack.faults.refuse("agents.sessions.setStatus", "user_not_in_channel")
        else:
            getattr(bot.slack.faults, fault)("agents.sessions.setStatus")
        thread = await bot.ask()
        await bot.slack.wait_until(lambda: bot.slack.calls("agents.sessions.setStatus"))
        bot.do("Thirty ")
        await bot.until_shown(thread, "Thirty")
        bot.finish("days.")
        assert [each.text for each in await bot.until_posted(thread)] == ["Thirty days."]
        assert session(bot, thread) == "active"


async def test_a_reply_is_posted_where_slack_refuses_a_status() -> None:
    async with posting() as bot:
        for nth in (1, 2, 3):
            bot.slack.faults.refuse("assistant.threads.setStatus", "missing_scope", nth=nth)
        thread = await bot.ask()
        await bot.slack.wait_until(lambda: bot.slack.calls("assistant.threads.setStatus"))
        bot.finish(nothing)
        assert await bot.until_posted(thread) == []
        assert session(bot, thread) == "active"


async def test_a_workspace_without_agents_is_not_asked_for_every_reply() -> None:
    async with posting() as bot:
        bot.slack.app.is_agent = False
        thread = await bot.answer("Thirty days.")
        await bot.until_posted(thread)
        await bot.ask(thread=thread)
        await bot.until_shown(thread, "Thirty days.", "Thinking…")
        bot.finish("Ten days.")
        await bot.until_posted(thread, 2)
        assert len(bot.slack.calls("agents.sessions.setStatus")) == 1


async def test_the_session_has_the_question_as_its_title() -> None:
    async with posting() as bot:
        thread = await bot.answer("Thirty days.")
        await bot.until_posted(thread)
        title = bot.slack.world.sessions[thread.channel, thread.root].title
        assert title == "How long?"
        bot.finish("Ten days.")
        await bot.ask("x" * 300, thread=thread)
        await bot.until_posted(thread, 2)
        assert bot.slack.world.sessions[thread.channel, thread.root].title == title
