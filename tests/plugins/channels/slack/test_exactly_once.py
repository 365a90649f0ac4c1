"""Whatever is lost on the way, and whoever dies: people see each reply once, and all of it."""

import random
import re
from contextlib import suppress
from functools import partial

import pytest
from tests.plugins.channels.slack.posting_bot import SlackBot, Writes, posting

from palaver.platforms import render
from palaver.testing import ScriptedEngine
from palaver_plugins.channels.slack.addresses import Thread
from palaver_plugins.channels.slack.blocks import PlainDialect
from palaver_plugins.channels.slack.slack_markdown import SlackDialect

pytestmark = pytest.mark.slow

BLOCKS = (
    "A **bold** word and `code` in a sentence that goes on for a while.",
    "- one\n- two *words*\n- three",
    "```python\nprint(1)\n\nprint(2)\n```",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "## Heading\n\nText with a [link](https://x.org) [1].",
    "> quoted\n> more",
)
METHODS = (
    "chat.startStream",
    "chat.appendStream",
    "chat.stopStream",
    "chat.postMessage",
    "chat.update",
    "chat.delete",
    "conversations.replies",
    "conversations.history",
)


def reply(choices: random.Random) -> str:
    return "\n\n".join(choices.choices(BLOCKS, k=choices.randint(1, 8)))


async def shown_once(bot: SlackBot, thread: Thread) -> None:
    """Check that people see the last reply as the ledger has it."""
    shown = await bot.until_posted(thread)
    wanted = render(render((await bot.reply(thread)).text, SlackDialect()), PlainDialect())
    assert not any(message.is_streaming for message in shown)
    assert words(" ".join(bot.texts(thread))) == words(wanted)


def has_made(bot: SlackBot, calls: int) -> bool:
    return len(bot.slack.requests) >= calls


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@pytest.mark.parametrize("seed", range(4))
async def test_replies_are_seen_once_and_whole(seed: int) -> None:
    choices = random.Random(seed)
    engine = ScriptedEngine(lambda request: reply(choices), seconds_per_token=0.003)
    async with posting(Writes(), engine=engine) as bot:
        bot.slack.app.is_agent = seed % 2 == 0
        bot.slack.faults.lose_responses(0.08, *METHODS)
        for nth in range(3, 60, 9):
            bot.slack.faults.rate_limit(choices.choice(METHODS), nth=nth, retry_after=0)
            bot.slack.faults.server_error(choices.choice(METHODS), nth=nth, status=503)
        threads = [await bot.ask() for _ in range(6)]
        threads.append(await bot.ask_directly(agent=seed % 2 == 0))
        for _ in range(3):
            calls = len(bot.slack.requests) + choices.randint(4, 20)
            with suppress(TimeoutError):  # everything may be posted before
                await bot.slack.wait_until(partial(has_made, bot, calls), within=2.0)
            await bot.restart()
        for thread in threads:
            await shown_once(bot, thread)
