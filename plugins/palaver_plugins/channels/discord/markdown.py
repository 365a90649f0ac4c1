"""Discord's dialect of Markdown.

Discord has no tables, rules and images, three levels of headings, and one kind of code fence. A
backslash escapes marks, but not mentions: a zero-width space takes those apart, in code too, since
Discord looks for them in the raw text.
"""

import re

from palaver.platforms.rendering import WORD_BREAK, Dialect

_URL = re.compile(r"https?://[^\s<>|`\\]+")
_MARKS = re.compile(r"[\\*_~`|\[\]<>]")
_BACKTICK_IN_RUN = re.compile("`(?=`)")
_LINE_MARK = re.compile(r"^([ \t]*+)(#{1,3}|-#|[-+]|\d{1,9}(?=[.)]))(?=[.)]?\s)", re.MULTILINE)
_MENTION = re.compile(
    r"<(?=(?:@[!&]?|\#)\d+>|a?:\w+:\d+>|/[^<>\n]+:\d+>|t:-?\d+(?::\w)?>|id:\w+>)"
    r"|@(?=everyone|here)"
)


SUBTEXT_LEVEL = 6
"""Level of the headings that are small: Discord's subtext."""


class DiscordDialect(Dialect):
    has_tables = False
    has_rules = False
    heading_levels = 3
    nested_indent = "  "

    def text(self, text: str) -> str:
        escaped, end = [], 0
        for url in _URL.finditer(text):
            escaped += [self._escape(text[end : url.start()]), _without_mentions(url.group())]
            end = url.end()
        return "".join((*escaped, self._escape(text[end:])))

    def _escape(self, text: str) -> str:
        text = _MARKS.sub(r"\\\g<0>", _without_mentions(text))
        return _LINE_MARK.sub(_escape_line_mark, text)

    def code(self, text: str) -> str:
        return _without_mentions(text)

    def code_span(self, text: str) -> str:
        """Return code in at most two backticks: three would begin a block."""
        return super().code_span(_BACKTICK_IN_RUN.sub(f"`{WORD_BREAK}", text))

    def code_block(self, content: str, language: str) -> str:
        content = self.code(content).replace("``", f"`{WORD_BREAK}`")
        return f"```{language}\n{content or WORD_BREAK}\n```"

    def heading(self, text: str, level: int) -> str:
        if level == SUBTEXT_LEVEL:
            return f"-# {text}"
        return super().heading(text, level) if level <= self.heading_levels else self.strong(text)

    def link(self, text: str, url: str) -> str:
        return f"[{text}](<{_without_mentions(url)}>)"

    def autolink(self, url: str) -> str:
        return f"<{_without_mentions(url)}>" if not url.startswith("mailto:") else url[7:]


def utf16_length(text: str) -> int:
    """Return the UTF-16 units of a text, in which Discord's limits count."""
    return len(text) + sum(letter > "\uffff" for letter in text)


def _without_mentions(text: str) -> str:
    return _MENTION.sub(rf"\g<0>{WORD_BREAK}", text)


def _escape_line_mark(match: re.Match[str]) -> str:
    space, mark = match.groups()
    return f"{space}{mark}\\" if mark.isdigit() else f"{space}\\{mark}"
