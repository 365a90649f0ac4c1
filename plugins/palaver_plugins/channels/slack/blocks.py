"""Blocks: what a post consists of, within Slack's limits.

A post is one ``markdown`` block; below the last post of a reply stand its sources and its buttons.
Where Slack does not take a text, such as one of its tables, the next of `variants` says the same in
a simpler form.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from palaver import Citation, Question
from palaver.platforms import Button, Dialect, render
from palaver_plugins.channels.slack import actions
from palaver_plugins.channels.slack.slack_markdown import SlackDialect, plain

Block = dict[str, Any]
"""A block in Slack's JSON."""

MAX_TEXT = 10_000
"""Characters of a post: a ``markdown`` block may have 12,000, but a whole message only about
13,200, with what stands below."""
MAX_FALLBACK = 4_000
"""Characters of a message's text, which is shown where blocks cannot be."""
MAX_NOTIFICATION = 1_000
"""Characters of a reply that notifications have."""
MAX_SECTION = 3_000
MAX_BUTTONS = 25
MAX_OPTIONS = 100
MAX_LABEL = 75
MAX_SOURCES = 1_200
_HALF_ENTITY = re.compile(r"&[a-z]{0,3}\Z")


class PlainDialect(Dialect):
    """Text as people read it aloud: without marks."""

    bullet = "•"
    has_tables = False

    def text(self, text: str) -> str:
        return text

    def strong(self, text: str) -> str:
        return text

    def emphasis(self, text: str) -> str:
        return text

    def strikethrough(self, text: str) -> str:
        return text

    def code_span(self, text: str) -> str:
        return text

    def code_block(self, content: str, language: str) -> str:
        return content

    def link(self, text: str, url: str) -> str:
        return text

    def autolink(self, url: str) -> str:
        return url

    def heading(self, text: str, level: int) -> str:
        return text


class _WithoutTables(SlackDialect):
    has_tables = False


def fallback(text: str) -> str:
    """Return what notifications and screen readers have of a post, as mrkdwn."""
    is_cut = len(text) > MAX_NOTIFICATION
    plain_text = render(text[:MAX_NOTIFICATION], PlainDialect())
    return notice(f"{plain_text}…" if is_cut else plain_text)


def notice(text: str) -> str:
    """Return plain text as mrkdwn, cut to what Slack shows of it."""
    escaped = plain(text)
    if len(escaped) > MAX_FALLBACK:
        escaped = f"{_HALF_ENTITY.sub('', escaped[: MAX_FALLBACK - 1])}…"
    return escaped or "…"


def variants(text: str, below: Sequence[Block]) -> Iterator[list[Block]]:
    """Yield a post in forms of which each is simpler than the one before."""
    yield [_markdown(text), *below]
    if (without_tables := render(text, _WithoutTables())) != text:
        yield [_markdown(without_tables), *below]
    sections = [_section(part) for part in _pieces(render(text, PlainDialect()))]
    yield [*sections, *below]
    if below:
        yield sections


def sources(citations: Sequence[Citation]) -> list[Block]:
    """Return the sources of a reply in small print."""
    if not citations:
        return []
    lines = [f"[{each.number}] {_title(each)}" for each in citations]
    text = shorten("\n".join(lines), MAX_SOURCES)
    return [{"type": "context", "elements": [{"type": "mrkdwn", "text": plain(text)}]}]


def _title(citation: Citation) -> str:
    title = " ".join((citation.title or citation.document).split())
    return f"{title}, {citation.section}" if citation.section else title


def controls(buttons: Sequence[Button], question: Question | None) -> list[Block]:
    """Return the buttons below a reply."""
    if not buttons:
        return []
    if question is not None:
        return [_options(buttons, shorten(question.text, 2 * MAX_LABEL) or "Choose")]
    if len(buttons) == 1:
        return [{"type": "actions", "elements": [_button(buttons[0], actions.STOP)]}]
    return [_feedback(*buttons)]


def _options(buttons: Sequence[Button], title: str) -> Block:
    """Return the options of a question as buttons, or as a menu when there are many."""
    if len(buttons) <= MAX_BUTTONS:
        named = [(button, f"{actions.OPTION}{number}") for number, button in enumerate(buttons)]
        return {"type": "actions", "elements": [_button(*each) for each in named]}
    menu = {
        "type": "static_select",
        "action_id": actions.OPTIONS,
        "placeholder": _plain_text(title),
        "options": [
            {"text": _plain_text(_label(button)), "value": button.data}
            for button in buttons[:MAX_OPTIONS]
        ],
    }
    return {"type": "actions", "elements": [menu]}


def _button(button: Button, action: str) -> Block:
    return {
        "type": "button",
        "action_id": action,
        "text": _plain_text(_label(button)),
        "value": button.data,
    }


def _feedback(good: Button, bad: Button) -> Block:
    choices = {
        "positive_button": {"text": _plain_text(good.label), "value": good.data},
        "negative_button": {"text": _plain_text(bad.label), "value": bad.data},
    }
    element = {"type": "feedback_buttons", "action_id": actions.RATE, **choices}
    return {"type": "context_actions", "elements": [element]}


def _label(button: Button) -> str:
    return shorten(" ".join(button.label.split()), MAX_LABEL) or "…"


def _markdown(text: str) -> Block:
    return {"type": "markdown", "text": text}


def _section(text: str) -> Block:
    return {"type": "section", "text": _plain_text(text)}


def _plain_text(text: str) -> Block:
    return {"type": "plain_text", "text": text}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, max(len(text), 1), MAX_SECTION):
        yield text[start : start + MAX_SECTION] or "…"


def shorten(text: str, length: int) -> str:
    """Return a text of at most ``length`` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
