"""Slack's two forms of text as HTML: how people see a message."""

import re
from collections.abc import Callable
from html import escape, unescape

from markdown_it import MarkdownIt
from markupsafe import Markup
from mdit_py_plugins.tasklists import tasklists_plugin

from palaver.testing.fakes.slack.text import show_emoji

Name = Callable[[str], str]
"""Returns the name that stands for an entity such as ``@U1``, ``#C1`` or ``!here``."""

_HELD = re.compile("\ue000([0-9]+)\ue001")
"""Where a finished piece of HTML stands, while the text around it is formatted."""
_ENTITY = re.compile(r"<([^<>\n]+)>")
_MENTION = re.compile(r"<([@#!][^<>\n]+)>")
_CODE_BLOCK = re.compile(r"```\n?([^`]+)```")
_CODE = re.compile(r"`([^`\n]+)`")
_MARKS = (
    (re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+)(?<=\S)\*(?![\w*])"), "b"),
    (re.compile(r"(?<![\w_])_(?=\S)([^_\n]+)(?<=\S)_(?![\w_])"), "i"),
    (re.compile(r"(?<![\w~])~(?=\S)([^~\n]+)(?<=\S)~(?![\w~])"), "s"),
)
_QUOTE = "&gt;"


class _Held:
    """Finished pieces of HTML, which no later step may change."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def hold(self, html: str) -> str:
        self._pieces.append(html)
        return f"\ue000{len(self._pieces) - 1}\ue001"

    def put_back(self, html: str) -> str:
        """Return the text with the pieces; one may stand in another."""
        for _ in range(3):
            html = _HELD.sub(lambda match: self._pieces[int(match[1])], html)
        return html


def mrkdwn_html(text: str, name: Name) -> Markup:
    """Return Slack's mrkdwn as HTML."""
    held = _Held()
    plain = text.replace("\ue000", "").replace("\ue001", "")
    plain = _CODE_BLOCK.sub(lambda match: held.hold(f"<pre>{_escape(match[1])}</pre>"), plain)
    plain = _CODE.sub(lambda match: held.hold(f"<code>{_escape(match[1])}</code>"), plain)
    plain = _ENTITY.sub(lambda match: held.hold(_entity_html(match[1], name)), plain)
    html = escape(unescape(show_emoji(plain)), quote=True)
    for pattern, tag in _MARKS:
        html = pattern.sub(rf"<{tag}>\1</{tag}>", html)
    return Markup(held.put_back(_lines(html)))


def _escape(text: str) -> str:
    return escape(unescape(text))


def _entity_html(entity: str, name: Name) -> str:
    if entity[0] in "@#!":
        return f'<span class="mention">{escape(name(entity))}</span>'
    address, _, label = entity.partition("|")
    if not address.startswith(("http://", "https://", "mailto:")):
        return _escape(f"<{entity}>")
    return f'<a href="{_escape(address)}">{_escape(label or address)}</a>'


def _lines(html: str) -> str:
    """Return lines as paragraphs and quotes."""
    parts: list[str] = []
    for line in html.split("\n"):
        if line.startswith(_QUOTE):
            parts.append(f"<blockquote>{line.removeprefix(_QUOTE).strip()}</blockquote>")
        elif line.strip():
            parts.append(f"<div>{line}</div>")
        else:
            parts.append('<div class="gap"></div>')
    return "".join(parts).replace("</blockquote><blockquote>", "<br>")


def _make_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    return parser.enable(["table", "strikethrough"]).use(tasklists_plugin)


_parser = _make_parser()


def markdown_html(text: str, name: Name) -> Markup:
    """Return the Markdown of ``markdown`` blocks and streams as HTML."""
    held = _Held()
    plain = text.replace("\ue000", "").replace("\ue001", "")
    plain = _MENTION.sub(lambda match: held.hold(_entity_html(match[1], name)), plain)
    return Markup(held.put_back(_parser.render(show_emoji(plain))))
