"""A conversation of a fake Discord as a page that looks as people see it."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from palaver.testing.fakes.discord.markdown import render_markdown
from palaver.testing.fakes.discord.objects import (
    EPHEMERAL,
    SPOKEN,
    SUPPRESS_EMBEDS,
    DiscordChannel,
    DiscordMessage,
    DiscordUser,
)
from palaver.testing.fakes.discord.state import DiscordState

GROUP_SECONDS = 420
"""Messages of one author within this time share a heading."""
COLOURS = ("#5865f2", "#3ba55c", "#faa61a", "#ed4245", "#eb459e", "#747f8d")
UNKNOWN = "unknown"

TEMPLATE = Path(__file__).with_suffix(".html").read_text("utf-8")


def render_page(
    state: DiscordState,
    channel: DiscordChannel,
    messages: Sequence[DiscordMessage],
    *,
    is_typing: bool,
) -> str:
    """Return a page with these messages. All text of people and bots in it is escaped."""
    page = Page(state, messages)
    html: str = page.environment.from_string(TEMPLATE).render(
        title=channel.recipient.name if channel.recipient else channel.name,
        sign="@" if channel.is_direct else "#",
        items=[page.describe(index) for index in range(len(messages))],
        is_typing=is_typing,
        bot=state.bot,
    )
    return html


class Page:
    """What the template shows of each message, and its filters."""

    def __init__(self, state: DiscordState, messages: Sequence[DiscordMessage]) -> None:
        self._state = state
        self._messages = messages
        self.environment = jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined)
        self.environment.filters |= {
            "markdown": self.markdown,
            "colour": format_colour,
            "avatar_colour": lambda user: COLOURS[user.id % len(COLOURS)],
            "excerpt": lambda text: self.markdown(text).striptags()[:80],
            "size": lambda content: f"{len(content) / 1024:.2f} KB",
            "duration": lambda seconds: f"{int(seconds) // 60}:{int(seconds) % 60:02}",
            "is_ephemeral": lambda flags: bool(flags & EPHEMERAL),
            "hides_embeds": lambda message: bool(message.flags & SUPPRESS_EMBEDS),
        }

    def markdown(self, text: str) -> Markup:
        return Markup(render_markdown(text, self._name))

    def _name(self, sign: str, target: int) -> str:
        if sign == "#":
            channel = self._state.channels.get(target)
            return channel.name if channel else UNKNOWN
        user = self._state.users.get(target)
        return user.name if user and sign != "@&" else UNKNOWN

    def describe(self, index: int) -> dict[str, Any]:
        """Return a message with what stands around it."""
        message = self._messages[index]
        return {
            "message": message,
            "is_first": self._is_first(index),
            "time": self._format_time(message.created),
            "answered": self._answered(message),
            "user": self._user(message),
            "notifies": bool(message.mentions) and message.author.is_bot,
            "replies": count_spoken(message.thread),
        }

    def _is_first(self, index: int) -> bool:
        """Return True when a heading with the author stands above."""
        message = self._messages[index]
        if not index or message.reference or message.used_command:
            return True
        before = self._messages[index - 1]
        is_later = message.created - before.created > GROUP_SECONDS
        return before.author is not message.author or is_later

    def _format_time(self, seconds: float) -> str:
        moment, now = (
            datetime.datetime.fromtimestamp(time, datetime.UTC)
            for time in (seconds, self._state.clock.now())
        )
        day = "Today at" if moment.date() == now.date() else moment.strftime("%d/%m/%Y")
        return f"{day} {moment:%H:%M}"

    def _answered(self, message: DiscordMessage) -> DiscordMessage | None:
        reference = message.reference
        if reference is None or reference.is_forward:
            return None
        return reference.channel.messages.get(reference.message_id)

    def _user(self, message: DiscordMessage) -> DiscordUser | None:
        """Return who used the command that the message answers."""
        if message.interaction is None:
            return None
        return self._state.users.get(int(message.interaction["user"]["id"]))


def count_spoken(thread: DiscordChannel | None) -> int:
    messages = thread.messages.values() if thread else ()
    return sum(message.kind in SPOKEN for message in messages)


def format_colour(number: object) -> str:
    """Return a colour of an embed or a box for CSS; the usual grey without one."""
    return f"#{number:06x}" if isinstance(number, int) else "#3f4147"
