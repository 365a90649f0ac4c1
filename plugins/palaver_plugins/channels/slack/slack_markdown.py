"""Slack's dialect of Markdown: that of its ``markdown`` blocks and of streamed replies.

They read CommonMark with tables and task lists, and mentions besides (``<@U1>``, ``<!channel>``),
which a zero-width space takes apart. Elsewhere Slack reads its older mrkdwn: `plain` is for there.
"""

import re

from palaver.platforms.rendering import WORD_BREAK, Dialect

_MENTION = re.compile(r"<(?=[@#!])")
_MARKS = re.compile(r"[\\`*_\[\]<>~|&]")
_LINE_MARK = re.compile(r"^([ \t]*+)(#{1,6}|[-+]|\d{1,9}(?=[.)]))(?=[.)]?\s|$)", re.MULTILINE)


class SlackDialect(Dialect):
    def text(self, text: str) -> str:
        text = _MARKS.sub(r"\\\g<0>", text)
        text = _MENTION.sub(rf"\g<0>{WORD_BREAK}", text)
        return _LINE_MARK.sub(_escape_line_mark, text)

    def code(self, text: str) -> str:
        return _MENTION.sub(rf"\g<0>{WORD_BREAK}", text)


def plain(text: str) -> str:
    """Return text for Slack's mrkdwn: as it is, and with nothing that becomes a link or a
    mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escape_line_mark(match: re.Match[str]) -> str:
    space, mark = match.groups()
    return f"{space}{mark}\\" if mark.isdigit() else f"{space}\\{mark}"
