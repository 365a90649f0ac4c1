"""Home: what people see who open the bot in Slack: its home tab, and prompts to begin with."""

import asyncio
import logging
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from palaver import ConversationService
from palaver.platforms import PlatformChannel, PostingError
from palaver_plugins.channels.slack.api import call
from palaver_plugins.channels.slack.events import Json
from palaver_plugins.channels.slack.installations import Bot, BotInstallations
from palaver_plugins.channels.slack.places import Places
from palaver_plugins.channels.slack.slack_markdown import plain

CALL_SECONDS = 2.0
"""Seconds for the call: Slack waits 3 seconds for the answer to its event."""
MAX_PROMPTS = 4
"""Prompts that Slack shows."""
MAX_SKILLS = 30
"""Skills that the home tab shows: Slack allows 100 blocks."""
MAX_TITLE, MAX_SECTION = 60, 2_900
"""Characters of a prompt's title, and of a section."""
NOT_ALLOWED = "Write me a message to ask for access."

log = logging.getLogger(__name__)


class Home:
    """Shows the skills, to people who may talk to the bot."""

    def __init__(
        self,
        channel: PlatformChannel,
        places: Places,
        installations: BotInstallations,
        *,
        command: str,
    ) -> None:
        self._channel = channel
        self._places = places
        self._installations = installations
        self._command = command

    async def opened(self, event: Json, bot: Bot) -> None:
        """Show the home tab, or in the tab of messages the prompts. Raises `LedgerUnavailable`."""
        user, channel = str(event["user"]), str(event["channel"])
        source = self._places.source(bot.team, channel, user=user)
        is_allowed = await self._channel.is_allowed(source)
        if event.get("tab") == "home":
            blocks = self._home(is_allowed)
            view = {"type": "home", "blocks": blocks}
            await self._call(bot, "views.publish", {"user_id": user, "view": view})
        elif is_allowed:
            await self._suggest(bot, {"channel_id": channel})

    async def thread_started(self, event: Json, bot: Bot) -> None:
        """Show the prompts in a thread of the earlier assistant's view. Raises
        `LedgerUnavailable`."""
        thread: Json = event["assistant_thread"]
        place = {"channel_id": thread["channel_id"], "thread_ts": thread["thread_ts"]}
        source = self._places.source(
            bot.team, place["channel_id"], user=thread["user_id"], thread_ts=place["thread_ts"]
        )
        if await self._channel.is_allowed(source):
            await self._suggest(bot, place)

    async def _suggest(self, bot: Bot, place: dict[str, Any]) -> None:
        prompts = [
            {"title": shorten(prompt, MAX_TITLE), "message": prompt}
            for prompt in first_prompts(self._channel.service)
        ]
        if prompts:
            arguments = {**place, "prompts": prompts}
            await self._call(bot, "assistant.threads.setSuggestedPrompts", arguments)

    async def _call(self, bot: Bot, method: str, arguments: Json) -> None:
        """Call Slack for something that may as well be missing."""
        client = await self._installations.client(bot.team)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await call(client.api_call(method, json=dict(arguments)))
        except (PostingError, TimeoutError) as error:
            log.info("%s failed: %s", method, error or "no answer in time")

    def _home(self, is_allowed: bool) -> list[Json]:
        if not is_allowed:
            return [_section(NOT_ALLOWED)]
        skills = list(self._channel.service.skills().items())[:MAX_SKILLS]
        sections = [_section(self._describe(name, text)) for name, text in skills]
        how = (
            "Write me a direct message, mention me in a channel or a thread, or type "
            f"`{self._command} your question`. In a thread in which I have answered, I read along "
            "and answer without a mention."
        )
        return [_header("How to use me"), _section(how), _header("What I can do"), *sections]

    def _describe(self, name: str, description: str) -> str:
        prompts = self._channel.service.prompts(name)
        examples = "".join(f"\n> {plain(' '.join(prompt.split()))}" for prompt in prompts[:2])
        return f"*{plain(name)}*  `{self._command} {name}`\n{plain(description)}{examples}"


def first_prompts(service: ConversationService) -> list[str]:
    """Return the first prompts of the skills: one of each, then the second ones."""

    def alternate() -> Iterator[str]:
        for row in zip_longest(*(service.prompts(skill) for skill in service.skills())):
            yield from filter(None, row)

    return list(dict.fromkeys(alternate()))[:MAX_PROMPTS]


def shorten(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _header(text: str) -> Json:
    return {"type": "header", "text": {"type": "plain_text", "text": text}}


def _section(text: str) -> Json:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text[:MAX_SECTION]}}
