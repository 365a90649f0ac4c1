"""Cuts a document into passages, each under the path of headings that it stands under."""

import re
from collections.abc import Iterator
from typing import NamedTuple

TARGET_TOKENS = 120
"""Tokens that a passage has at most, where its paragraphs and sentences allow it."""
MIN_TOKENS = 30
"""Tokens below which the last passage of a section joins the one before it."""
HEADING_SEPARATOR = " > "
"""Stands between the headings of a path."""

_HEADING = re.compile(r"(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_UNDERLINE = re.compile(r"(=+|-{3,})[ \t]*$")
_FENCE = re.compile(r"[ \t]*(```|~~~)")
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")
_WIDE = re.compile("[\u0e00-\u0e7f\u1100-\u11ff\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]")


class PassageText(NamedTuple):
    """A passage before it has a number: the path of headings over it, and its text."""

    section: str
    text: str


def estimate_tokens(text: str) -> float:
    """About how many tokens a model makes of ``text``: one for four letters, or one character
    of a script that has thousands."""
    wide = len(_WIDE.findall(text))
    return wide + (len(text) - wide) / 4


def split_passages(text: str, title: str = "") -> list[PassageText]:
    """The passages of a Markdown or plain text. The ``title`` is left out of the paths."""
    return [
        PassageText(section, stretch)
        for section, body in _split_sections(text, title)
        for stretch in _split_body(body)
    ]


def _split_sections(text: str, title: str) -> Iterator[tuple[str, str]]:
    path: list[tuple[int, str]] = []
    body: list[str] = []

    def section() -> tuple[str, str]:
        names = [name for _, name in path if name and name != title]
        return HEADING_SEPARATOR.join(names), "\n".join(body)

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
    """Lines with the level of the heading that they are, 0 for none."""
    fence = ""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if mark and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        heading = None if fence else _HEADING.match(line)
        if heading:
            yield len(heading[1]), _strip_markup(heading[2])
        elif not fence and _is_underlined(lines, number):
            yield 1 if lines[number + 1].startswith("=") else 2, _strip_markup(line)
        elif fence or not _is_underline(lines, number):
            yield 0, line


def _is_underlined(lines: list[str], number: int) -> bool:
    following = lines[number + 1] if number + 1 < len(lines) else ""
    alone = number == 0 or not lines[number - 1].strip()
    return alone and bool(re.match(r"[^\W_]", lines[number])) and bool(_UNDERLINE.match(following))


def _is_underline(lines: list[str], number: int) -> bool:
    return (
        number > 0 and bool(_UNDERLINE.match(lines[number])) and _is_underlined(lines, number - 1)
    )


def _strip_markup(heading: str) -> str:
    """A heading without emphasis, code marks and link targets."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)|[*_`]{1,3}", lambda m: m[1] or "", heading).strip()


def _split_body(body: str) -> list[str]:
    """Paragraphs gathered up to the target; long ones cut at sentences, then at words."""
    found: list[str] = []
    for piece, joint in _split_paragraphs(body):
        if found and estimate_tokens(found[-1]) + estimate_tokens(piece) <= TARGET_TOKENS:
            found[-1] += joint + piece
        else:
            found.append(piece)
    if len(found) > 1 and estimate_tokens(found[-1]) < MIN_TOKENS:
        last = found.pop()
        found[-1] += "\n\n" + last
    return found


def _split_paragraphs(body: str) -> Iterator[tuple[str, str]]:
    """Pieces of at most the target, with what stands before each when it is joined."""
    for paragraph in re.split(r"\n[ \t]*\n", body):
        joint = "\n\n"
        for piece in _split_sentences(paragraph.strip()):
            yield piece, joint
            joint = " " if not _WIDE.match(piece) else ""


def _split_sentences(paragraph: str) -> Iterator[str]:
    if not paragraph:
        return
    if estimate_tokens(paragraph) <= TARGET_TOKENS:
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
