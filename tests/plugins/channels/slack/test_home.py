"""What people see who open the bot: the home tab, and prompts to begin with."""

import logging
from collections.abc import AsyncIterator

import pytest
from tests.plugins.channels.slack.slack_server import SlackServer, serving

from palaver.testing.channels import Obeys
from palaver.testing.fakes.slack import FakeSlack
from palaver_plugins.channels.slack.home import MAX_TITLE, NOT_ALLOWED

PROMPTS = ("say hello", "ask", f"say {'more ' * 30}", "say four", "say five")


class Prompting(Obeys):
    """Do what a message <says> & more."""

    prompts = PROMPTS


@pytest.fixture
async def bot() -> AsyncIterator[SlackServer]:
    async with FakeSlack() as slack, serving(slack, skill=Prompting()) as opened:
        yield opened


async def home_text(bot: SlackServer) -> str:
    await bot.slack.open_home(bot.slack.ada)
    await bot.slack.wait_until_delivered()
    blocks = bot.slack.world.homes[bot.slack.ada]["blocks"]
    return "\n".join(block["text"]["text"] for block in blocks)


async def test_the_library_does_not_silence_the_log_of_the_server() -> None:
    async with FakeSlack() as slack, serving(slack):
        assert logging.getLogger("palaver").isEnabledFor(logging.WARNING)


async def test_the_home_tab_shows_the_skills_and_how_to_use_them(bot: SlackServer) -> None:
    text = await home_text(bot)
    assert "`/palaver your question`" in text
    assert "*obeys*  `/palaver obeys`\nDo what a message &lt;says&gt; &amp; more." in text
    assert "&gt; say hello" not in text
    assert "> say hello\n> ask" in text


async def test_a_stranger_s_home_tab_says_how_to_get_access() -> None:
    async with (
        FakeSlack() as slack,
        serving(slack, skill=Prompting(), direct_messages="pairing") as bot,
    ):
        assert await home_text(bot) == NOT_ALLOWED
        await slack.open_home(slack.ada, tab="messages")
        await slack.wait_until_delivered()
        assert slack.calls("assistant.threads.setSuggestedPrompts") == []
        assert bot.board.notices == []


async def test_the_tab_of_messages_suggests_prompts(bot: SlackServer) -> None:
    slack = bot.slack
    await slack.open_home(slack.ada, tab="messages")
    call = await slack.wait_for("assistant.threads.setSuggestedPrompts")
    prompts = call.arguments["prompts"]
    assert [prompt["message"] for prompt in prompts] == list(PROMPTS[:4])
    assert all(len(prompt["title"]) <= MAX_TITLE for prompt in prompts)
    assert "thread_ts" not in call.arguments  # Slack fails for an agent without a word about it
    assert call.is_ok


async def test_a_thread_of_the_assistant_suggests_prompts(bot: SlackServer) -> None:
    slack = bot.slack
    slack.app.is_agent = False
    channel, thread = await slack.open_assistant(slack.ada)
    call = await slack.wait_for("assistant.threads.setSuggestedPrompts")
    assert (call.arguments["channel_id"], call.arguments["thread_ts"]) == (channel, thread)
    assert call.is_ok
    await slack.say(channel, slack.ada, "say it", thread=thread)
    await slack.wait_until_delivered()
    assert len(await bot.said(bot.conversation(channel, thread))) == 1


async def test_a_failure_of_slack_is_no_failure_of_the_event(bot: SlackServer) -> None:
    slack = bot.slack
    slack.faults.refuse("views.publish", "missing_scope")
    slack.faults.rate_limit("assistant.threads.setSuggestedPrompts")
    await slack.open_home(slack.ada)
    await slack.open_home(slack.ada, tab="messages")
    await slack.wait_until_delivered()
    assert [delivery.attempts[0].status for delivery in slack.deliveries] == [200, 200]


async def test_skills_without_prompts_suggest_nothing() -> None:
    async with FakeSlack() as slack, serving(slack):
        await slack.open_home(slack.ada, tab="messages")
        await slack.wait_until_delivered()
        assert slack.calls("assistant.threads.setSuggestedPrompts") == []
