"""Split documents into passages, each with the path of headings above it."""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from palaver_plugins.knowledge.markdown_blocks import Block, parse_blocks, split_lines

TARGET_TOKENS = 120
"""Largest size of a passage. A short last passage may exceed it, see `MIN_TOKENS`."""
MIN_TOKENS = 30
"""The last passage of a section joins the previous one if it is smaller than this."""
MAX_HEADER_TOKENS = 240
"""Size of the header of a table, or the opening line of a fence, that its parts repeat."""
HEADING_SEPARATOR = " > "
"""Separator of the headings in a path."""
MAX_LINE_CHARACTERS = 20_000
"""A longer line is split, so that no pattern runs over a longer text."""

_SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")
_PADDING, _DASHES = re.compile("  +"), re.compile("----+")
"""What aligns the columns of a table."""
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
        for section, pieces in _split_sections(text, title)
        for passage in _join_pieces(pieces)
    ]


def join_passages(passages: Iterable[tuple[str, str]]) -> str:
    """Return the passages of a document as one text. A change of section begins with the path of
    its headings; what a long table or fence repeats in each passage stays."""
    parts: list[str] = []
    before = ""
    for section, text in passages:
        if section not in ("", before):
            parts.append(f"## {section}")
        parts.append(text)
        before = section
    return "\n\n".join(parts)


class _Piece(NamedTuple):
    """Text of at most the target size, and what separates it from the piece before."""

    text: str
    separator: str = "\n\n"


def _split_sections(text: str, title: str) -> Iterator[tuple[str, list[_Piece]]]:
    """Yield the path of headings above each section, and its pieces.

    A heading with nothing below it is the text of its section.
    """
    lines = split_lines(text)
    path: list[tuple[int, str]] = []
    pieces: list[_Piece] = []
    end = level = 0
    for block in parse_blocks(text):
        if block.kind != "heading":
            pieces += _split_block(block, lines, is_adjacent=0 < block.first == end)
            end = block.end
            continue
        if pieces or block.level <= level:
            yield _section(path, title, pieces)
        pieces, level, end = [], block.level, -1
        path = [(above, name) for above, name in path if above < level]
        path.append((level, block.content))
    yield _section(path, title, pieces)


def _section(
    path: list[tuple[int, str]], title: str, pieces: list[_Piece]
) -> tuple[str, list[_Piece]]:
    names = [name for _, name in path if name]
    if not pieces and names:
        names, pieces = names[:-1], [_Piece(names[-1])]
    return HEADING_SEPARATOR.join(name for name in names if name != title), pieces


def _join_pieces(pieces: Iterable[_Piece]) -> list[str]:
    """Join pieces up to the target size."""
    found: list[str] = []
    room = 0.0
    for piece in pieces:
        size = estimate_tokens(piece.text)
        if found and size <= room:
            found[-1] += piece.separator + piece.text
            room -= size
        else:
            found.append(piece.text)
            room = TARGET_TOKENS - size
    if len(found) > 1 and estimate_tokens(found[-1]) < MIN_TOKENS:
        last = found.pop()
        found[-1] += "\n\n" + last
    return found


# Blocks


def _split_block(block: Block, lines: list[str], *, is_adjacent: bool) -> Iterator[_Piece]:
    own = lines[block.first : block.end]
    text = "\n".join(own).rstrip()
    separator = "\n" if is_adjacent else "\n\n"
    if _is_small(text):
        is_code = block.kind in ("fence", "code")
        yield _Piece(text if is_code else text.strip(), separator)
        return
    header, body, footer = _parts_of(block, own)
    size = estimate_tokens(header + footer)
    if size > MAX_HEADER_TOKENS:
        header, body, footer = "", own, ""
    if not header and block.kind != "code":
        yield from _split_text(text.strip(), separator)
        return
    for chunk in _group_lines(body, max(TARGET_TOKENS - size, TARGET_TOKENS / 2)):
        yield _Piece("\n".join(filter(None, (header, chunk, footer))))


def _parts_of(block: Block, own: list[str]) -> tuple[str, list[str], str]:
    """Return the beginning of every part of a long block, its lines, and the end of every part."""
    if block.kind == "fence":
        fence = block.mark[: len(block.mark) - len(block.mark.lstrip(block.mark[0]))]
        return block.mark, block.content.rstrip("\n").split("\n"), fence
    if block.kind == "table":
        rows = [_PADDING.sub(" ", line.strip()) for line in own]  # a list indents them
        return f"{rows[0]}\n{_DASHES.sub('---', rows[1])}", rows[2:], ""
    return "", own, ""


def _group_lines(lines: list[str], room: float) -> Iterator[str]:
    """Join lines up to a number of tokens; only a longer line is cut."""
    group: list[str] = []
    size = 0.0
    for line in itertools.chain.from_iterable(_cut_line(line, room) for line in lines):
        tokens = estimate_tokens(line) + 0.25  # with the line end
        if group and size + tokens > room:
            yield "\n".join(group)
            group, size = [], 0.0
        group.append(line)
        size += tokens
    if any(map(str.strip, group)):
        yield "\n".join(group)


def _cut_line(line: str, room: float) -> Iterator[str]:
    if len(line) <= 4 * (room - 1) and estimate_tokens(line) <= room - 1:
        yield line
    else:
        yield from _split_words(line.rstrip(), int(room) - 1)


def _is_small(text: str) -> bool:
    return len(text) <= 4 * TARGET_TOKENS and estimate_tokens(text) <= TARGET_TOKENS


# Text


def _split_text(text: str, separator: str) -> Iterator[_Piece]:
    """Yield sentences, and parts of those that are too long. Lines stay lines."""
    for line in text.split("\n"):
        for sentence in _split_sentences(line):
            yield _Piece(sentence, separator)
            separator = " " if not _WIDE.match(sentence) else ""
        separator = "\n"


def _split_sentences(line: str) -> Iterator[str]:
    for start in range(0, len(line), MAX_LINE_CHARACTERS):
        for sentence in _SENTENCE.split(line[start : start + MAX_LINE_CHARACTERS]):
            yield from _split_words(sentence.strip(), TARGET_TOKENS)


def _split_words(sentence: str, room: int) -> Iterator[str]:
    """Yield parts of at most a number of tokens, cut between words where there are some."""
    at = 0
    while at < len(sentence):
        window = sentence[at : at + 4 * room]
        if len(window) < 4 * room and estimate_tokens(window) <= room:
            end = len(window)
        else:
            end = room if _WIDE.search(window) else 4 * room
            space = window.rfind(" ", 1, end)
            end = space if space > 0 else end
        if part := window[:end].strip():
            yield part
        at += end
