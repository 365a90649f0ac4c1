"""Texts of other programs, without what could deceive the people and models that read them."""

import unicodedata

from palaver import CUT_MARK

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""Unicode categories of control characters, of invisible ones and of those that reorder text."""


def clean_text(text: str, limit: int) -> str:
    """Return a text of lines without hidden characters, cut at ``limit`` characters."""
    return _cut(_without_hidden(text, limit), limit, has_more=len(text) > 2 * limit)


def clean_line(text: str, limit: int) -> str:
    """Return a text as one line without hidden characters, cut at ``limit`` characters."""
    line = " ".join(_without_hidden(text, limit).split())
    return _cut(line, limit, has_more=len(text) > 2 * limit)


def _without_hidden(text: str, limit: int) -> str:
    """Return the beginning of a text, of which ``limit`` characters are needed. Looking at all of a
    long one would take long."""
    return "".join(
        character
        for character in text[: 2 * limit]
        if character in "\n\t" or unicodedata.category(character) not in _HIDDEN
    )


def _cut(text: str, limit: int, *, has_more: bool) -> str:
    if len(text) <= limit and not has_more:
        return text
    return text[: max(0, limit - len(CUT_MARK))].rstrip() + CUT_MARK[-limit:]
