"""Split documents into passages, each with the path of headings above it."""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

TARGET_TOKENS = 120
"""Largest size of a passage. A short last passage may exceed it, see `MIN_TOKENS`."""
MIN_TOKENS = 30
"""The last passage of a section joins the previous one if it is smaller than this."""
HEADING_SEPARATOR = " > "
"""Separator of the headings in a path."""
MAX_HEADING_CHARACTERS = 300
"""A longer line is text: every passage below a heading repeats it."""
MAX_LINE_CHARACTERS = 20_000
"""A longer line is split, so that no pattern runs over a longer text."""

_UNDERLINE = re.compile(r"(=+|-{3,})[ \t]*$")
_FENCE = re.compile(r"[ \t]*(```|~~~)")
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")
_WIDE = re.compile("[\u0e00-\u0e7f\u1100-\u11ff\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]")


class PassageText(NamedTuple):
    """The path of headings above a passage, and its text."""

    section: str
    text: str


def estimate_tokens(text: str) -> float:
    """Estimate the tokens of a text: one per four characters, or per wide (CJK, Thai) one."""
    wide = len(_WIDE.findall(text))
    return wide + (len(text) - wide) / 4


def split_passages(text: str, title: str = "") -> list[PassageText]:
    """Split a Markdown or plain text into passages. The ``title`` is left out of the paths."""
    return [
        PassageText(section, passage)
        for section, body in _split_sections(text, title)
        for passage in _split_body(body)
    ]


def _split_sections(text: str, title: str) -> Iterator[tuple[str, list[str]]]:
    path: list[tuple[int, str]] = []
    body: list[str] = []

    def section() -> tuple[str, list[str]]:
        names = [name for _, name in path if name and name != title]
        return HEADING_SEPARATOR.join(names), body

    for level, line in _heading_levels(text):
        if not level:
            body.append(line)
            continue
        yield section()
        body = []
        path = [(above, name) for above, name in path if above < level]
        path.append((level, line))
    yield section()


def _heading_levels(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line with its heading level, 0 for text."""
    fence = ""
    lines = list(_split_lines(text))
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if mark and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        level = 0 if fence else _heading_level(line)
        if level:
            yield level, _strip_markup(line[level:].strip(" \t").rstrip("#").rstrip(" \t"))
        elif not fence and _is_underlined(lines, number):
            yield 1 if lines[number + 1].startswith("=") else 2, _strip_markup(line)
        elif fence or not _is_underline(lines, number):
            yield 0, line


def _split_lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        for start in range(0, max(len(line), 1), MAX_LINE_CHARACTERS):
            yield line[start : start + MAX_LINE_CHARACTERS]


def _heading_level(line: str) -> int:
    level = len(line) - len(line.lstrip("#"))
    is_heading = level <= 6 and line[level : level + 1] in {" ", "\t"}
    return level if is_heading and len(line) <= MAX_HEADING_CHARACTERS else 0


def _is_underlined(lines: list[str], number: int) -> bool:
    following = lines[number + 1] if number + 1 < len(lines) else ""
    return (
        following[:1] in {"=", "-"}
        and len(lines[number]) <= MAX_HEADING_CHARACTERS
        and (number == 0 or not lines[number - 1].strip())
        and bool(re.match(r"[^\W_]", lines[number]))
        and bool(_UNDERLINE.match(following))
    )


def _is_underline(lines: list[str], number: int) -> bool:
    return number > 0 and _is_underlined(lines, number - 1)


def _strip_markup(heading: str) -> str:
    """Remove emphasis, code marks and link targets from a heading."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)|[*_`]{1,3}", lambda m: m[1] or "", heading).strip()


def _split_body(body: list[str]) -> list[str]:
    """Join paragraphs up to the target size; split long ones at sentences, then at words."""
    found: list[str] = []
    for piece, separator in _split_paragraphs(body):
        if found and estimate_tokens(found[-1]) + estimate_tokens(piece) <= TARGET_TOKENS:
            found[-1] += separator + piece
        else:
            found.append(piece)
    if len(found) > 1 and estimate_tokens(found[-1]) < MIN_TOKENS:
        last = found.pop()
        found[-1] += "\n\n" + last
    return found


def _split_paragraphs(body: list[str]) -> Iterator[tuple[str, str]]:
    """Yield pieces of at most the target size, each with the separator that joins it."""
    for is_blank, lines in itertools.groupby(body, lambda line: not line.strip(" \t")):
        paragraph = "" if is_blank else "\n".join(lines)
        separator = "\n\n"
        for piece in _split_sentences(paragraph.strip()):
            yield piece, separator
            separator = " " if not _WIDE.match(piece) else ""


def _split_sentences(paragraph: str) -> Iterator[str]:
    if not paragraph:
        return
    if len(paragraph) <= 4 * TARGET_TOKENS and estimate_tokens(paragraph) <= TARGET_TOKENS:
        yield paragraph
        return
    for line in paragraph.split("\n"):
        for sentence in _SENTENCE.split(line):
            yield from _split_words(sentence.strip())


def _split_words(sentence: str) -> Iterator[str]:
    while len(sentence) > 4 * TARGET_TOKENS or estimate_tokens(sentence) > TARGET_TOKENS:
        window = sentence[: 4 * TARGET_TOKENS]
        end = TARGET_TOKENS if _WIDE.search(window) else 4 * TARGET_TOKENS
        space = window.rfind(" ", 1, end)
        cut = space if space > 0 else end
        yield sentence[:cut].strip()
        sentence = sentence[cut:].strip()
    if sentence:
        yield sentence
