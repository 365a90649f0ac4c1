"""Stable text: what of a reply that goes on can be streamed, as a stream only takes more text.

The end of a text may turn out to be something else: ``**bold`` becomes bold, ``[1`` a link. As long
as it is not, `SlackDialect` escapes its marks; so a mark that is escaped, in a paragraph that is
not over, is where the text may still change.
"""

import re

_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_CODE_END = re.compile(r"\n[ >]*`{3,}\Z")
_SOURCE_FENCE = re.compile(r"(?:\A|\n)[ \t>]*(?:`{3,}|~{3,})[ \t]*\Z")
_BLOCK_START = re.compile(r"[ >]*(?:- |\d{1,9}[.)] |#{1,6} |[☐☑] )")
_ONLY_MARKS = re.compile(r"[\s\d>+*#=_~`|.)\\\[\]xX-]*+\Z")
_ENTITY = re.compile(r"[#\w]{0,32}\Z")
_SPACE = re.compile(r"\s")


def stable_text(text: str, source: str) -> str:
    """Return the beginning of a rendered text that stays when its ``source`` goes on."""
    if end := _CODE_END.search(text):
        is_closed = _SOURCE_FENCE.search(source.rstrip("\n")) and not _is_empty_code(text)
        return text if is_closed else text[: end.start()].rstrip()
    last_line = text.rfind("\n") + 1
    if text.startswith("|", last_line) or _ONLY_MARKS.match(text, last_line):
        text = text[:last_line].rstrip()
    start = _paragraph_start(text)
    return text[: start + _first_open_mark(text[start:])].rstrip()


def _is_empty_code(text: str) -> bool:
    """Return whether a text ends with code that is empty: its fence may just have been opened."""
    *_, first, content, last = ["", "", *text.rsplit("\n", 3)]
    fence = last.strip(" >")
    return not content.strip(" >") and first.lstrip(" >-.)0123456789").startswith(fence)


def _paragraph_start(text: str) -> int:
    """Return where the last paragraph begins: after an empty line, or at a heading or an item of a
    list."""
    start = text.rfind("\n\n") + 2 if "\n\n" in text else 0
    at = text.rfind("\n") + 1
    while at > start and not _BLOCK_START.match(text, at):
        at = text.rfind("\n", 0, at - 1) + 1
    return max(at, start)


def _first_open_mark(paragraph: str) -> int:
    """Return the position of the first mark that more text may give a meaning, else the length."""
    bracket = -1
    for match in _ESCAPED.finditer(paragraph):
        mark, at = match[1], match.start()
        after = paragraph[match.end() : match.end() + 1]
        if mark == "|":
            return 0
        if mark == "[" and bracket < 0:
            bracket = at
        elif mark == "]" and bracket >= 0 and after not in ("", "("):
            bracket = -1
        elif bracket < 0 and _is_open(mark, paragraph, at, after):
            return at
    return bracket if bracket >= 0 else len(paragraph)


def _is_open(mark: str, paragraph: str, at: int, after: str) -> bool:
    if mark == "`":
        return True
    if mark == "*":
        return not _SPACE.match(after)
    if mark == "_":
        return not paragraph[max(at - 1, 0) : at].isalnum() and not _SPACE.match(after)
    if mark == "~":
        return not after or paragraph.startswith("\\~", at + 2)
    if mark == "<":
        return not after or after.isalpha()
    if mark == "&":
        return _ENTITY.match(paragraph, at + 2) is not None
    return mark == "\\" and not after
