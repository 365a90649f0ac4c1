"""Markdown that is written while it arrives, to an output that takes nothing back.

The parser reads the blocks that are not complete again and again. Of the result, the stream writes
what stays as it is whatever comes next: it tries out how the text could continue.
"""

import re
from collections.abc import Iterator

from markdown_it.tree import SyntaxTreeNode

from palaver.cli.markdown import (
    DIM,
    Run,
    common_length,
    plain_text,
    render_blocks,
    skip_text,
    take_text,
)
from palaver.markdown import is_closed, parse_blocks

CONTINUATIONS = {
    "*": ("*", "**", "x", "x*", "x**", "x***", "*x**"),
    "_": ("_", "__", "x", "x_", "x__", "_x__"),
    "`": ("`", "``", "x", "x`", "x``", "x```"),
    "~": ("~", "x", "x~", "x~~", "~x~~"),
    "[": ("](u)", "x](u)", "(u)", ")", "] y", " ] y", " y"),
    "!": ("[x](u)",),
}
"""What may follow a mark that is without its counterpart, or that comes last, and changes what it
means."""
LINE_CONTINUATIONS = ("x", "[ ] y", ". y", "-", " -")
"""What may follow a line that holds no word yet, and makes another block of it."""
_OPEN_END = re.compile(r"(?:<[^\s<>]{0,200}|&#?\w{0,32}|\\)\Z")
"""The beginning of an address in brackets, of an entity, or of an escaped character."""
_ROW_MARKS = frozenset(" |:-")
BLOCKS_AFTER_LABEL = ("paragraph", "heading")
"""Blocks that may begin on the line of the label."""
MAX_WITHHELD = 200
"""Characters that wait for a counterpart; after that, the rest of the block is shown as it is."""
UPDATE_SHARE = 50
"""A text is parsed again when it has grown by this part of itself."""
LONG_FENCE = 500
"""Characters of a fence above which its complete lines are not parsed again."""
_THINK = re.compile(r"\s*<(?:think|thinking)>\s*")
_THINK_END = re.compile(r"\s*</(?:think|thinking)>\s*")
_THINK_TAGS, _THINK_END_TAGS = ("<think>", "<thinking>"), ("</think>", "</thinking>")


class MarkdownStream:
    """The runs of one reply, after a label on the same line. What a model thinks before it answers
    is dim."""

    def __init__(self) -> None:
        self._buffer = ""
        """Text that is not read yet: it may be the beginning of a tag."""
        self._source = ""
        """Text of the blocks that are not complete."""
        self._parsed = 0
        """Length of that text when it was parsed."""
        self._shown = ""
        """What is written of these blocks."""
        self._raw_from: int | None = None
        """Where the text goes on that is shown as it is; None while its marks are read."""
        self._has_written = False
        self._is_at_line_start = True
        self._is_thinking = False

    def feed(self, text: str) -> list[Run]:
        """Return what can be written now that ``text`` has come."""
        self._buffer += text.replace("\r\n", "\n")
        return [*self._read(is_end=False), *self._update(is_end=False)]

    def end(self) -> list[Run]:
        """Return what is left at the end of the reply."""
        runs = [*self._read(is_end=True), *self._update(is_end=True)]
        spaces = len(self._source) - len(self._source.rstrip(" "))
        return [*runs, Run(" " * spaces)] if spaces and self._raw_from is None else runs

    # Tags around what the model thinks

    def _read(self, *, is_end: bool) -> Iterator[Run]:
        length = len(self._buffer) + 1
        while self._buffer and len(self._buffer) < length:
            length = len(self._buffer)
            yield from self._read_thought(is_end) if self._is_thinking else self._read_line(is_end)

    def _read_thought(self, is_end: bool) -> Iterator[Run]:
        if end := _THINK_END.search(self._buffer):
            text, self._buffer = self._buffer[: end.start()], self._buffer[end.end() :]
            self._is_thinking, self._is_at_line_start = False, True
        else:
            cut = len(self._buffer) if is_end else _end_before_tag(self._buffer)
            text, self._buffer = self._buffer[:cut], self._buffer[cut:]
        if text:
            yield from [Run("\n\n")] if self._has_written and not self._shown else []
            self._shown += text
            yield Run(text, DIM)
        if end:
            self._begin("")

    def _read_line(self, is_end: bool) -> Iterator[Run]:
        """Read the next line, or the part of it that has come."""
        if self._is_at_line_start:
            start = self._buffer.lstrip()
            if not is_end and any(tag.startswith(start) for tag in _THINK_TAGS):
                return
            if (tag := _THINK.match(self._buffer)) and not self._is_in_fence():
                yield from self._update(is_end=True)
                self._begin("")
                self._buffer = self._buffer[tag.end() :]
                self._is_thinking = True
                return
        line, newline, self._buffer = self._buffer.partition("\n")
        self._source += line + newline
        self._is_at_line_start = bool(newline)

    def _is_in_fence(self) -> bool:
        blocks = parse_blocks(self._source)
        return (
            bool(blocks)
            and blocks[-1].type == "fence"
            and not is_closed(blocks[-1], self._source.split("\n"))
        )

    # Blocks

    def _begin(self, source: str) -> None:
        """Go on with other blocks: those before are written."""
        self._has_written = self._has_written or bool(self._shown)
        self._source, self._parsed, self._shown, self._raw_from = source, 0, "", None

    def _update(self, *, is_end: bool) -> list[Run]:
        """Return what can be written of the blocks that are not complete."""
        source = self._source
        if not is_end and len(source) - self._parsed <= len(source) // UPDATE_SHARE:
            return []
        self._parsed = len(source)
        blocks, lines = parse_blocks(source), source.split("\n")
        newest = _first_line(blocks[-1]) if len(blocks) > 1 else 0
        if newest and (is_end or newest < len(lines) - 1):
            rest = "\n".join(lines[newest:])
            runs = self._write(blocks[:-1], lines, is_end=True, raw_end=len(source) - len(rest))
            complete = plain_text(self._render(blocks[:-1], lines))
            shown = "" if self._raw_from is not None else self._shown[len(complete) :]
            self._begin(rest)
            self._shown = shown
            return [*runs, *self._update(is_end=is_end)]
        raw_end = sum(len(line) + 1 for line in lines[:newest]) if newest else len(source)
        runs = self._write(blocks, lines, is_end=is_end, raw_end=raw_end)
        if len(blocks) == 1 and blocks[0].type == "fence" and len(source) > LONG_FENCE:
            self._shorten_fence(blocks, lines)
        return runs

    def _write(
        self, blocks: list[SyntaxTreeNode], lines: list[str], *, is_end: bool, raw_end: int
    ) -> list[Run]:
        if self._raw_from is not None:
            text = self._source[self._raw_from : raw_end].rstrip("\n")
            self._raw_from += len(text)
            return [Run(text)]
        rendered = self._render(blocks, lines)
        plain = plain_text(rendered)
        length = len(plain) if is_end else self._find_stable_length(plain, blocks, lines)
        if len(plain) - length > MAX_WITHHELD and blocks[-1].type == "paragraph":
            length, self._raw_from = len(plain), len(self._source.rstrip("\n"))
        return self._write_text(rendered, plain, length)

    def _render(self, blocks: list[SyntaxTreeNode], lines: list[str]) -> list[Run]:
        """Return blocks with what separates them from those before, or from the label."""
        rendered = render_blocks(blocks, lines)
        if not rendered or (not self._has_written and blocks[0].type in BLOCKS_AFTER_LABEL):
            return rendered
        return [Run("\n\n" if self._has_written else "\n"), *rendered]

    def _write_text(self, rendered: list[Run], plain: str, length: int) -> list[Run]:
        """Return the part of the first ``length`` characters that is not written."""
        shown = self._shown
        if length <= len(shown) and shown.startswith(plain[:length]):
            return []
        if is_changed := not plain.startswith(shown):  # the line is written again
            common = common_length(plain, shown)
            shown = plain[: plain.rfind("\n", 0, common) + 1]
        self._shown = plain[:length]
        new = take_text(skip_text(rendered, len(shown)), length - len(shown))
        return [Run("\n"), *new] if is_changed else new

    def _shorten_fence(self, blocks: list[SyntaxTreeNode], lines: list[str]) -> None:
        """Leave the complete lines of a fence out of the text that is parsed."""
        if is_closed(blocks[0], lines):
            return
        withheld = len(plain_text(self._render(blocks, lines))) - len(self._shown)
        lines = [lines[0], lines[-1]]
        self._source = "\n".join(lines)
        self._parsed = len(self._source)
        plain = plain_text(self._render(parse_blocks(self._source), lines))
        self._shown = plain[: len(plain) - withheld]

    def _find_stable_length(
        self, plain: str, blocks: list[SyntaxTreeNode], lines: list[str]
    ) -> int:
        """Return the length of the beginning of ``plain`` that nothing can change."""
        if not blocks:
            return 0
        newest, last = blocks[-1], lines[-1]
        if newest.type == "fence" and len(blocks) == 1:
            if len(lines) == 1:
                return 0
            is_mark = last.strip(" \t")[:1] == newest.markup[:1]
            return len(plain) - len(last) - 1 if is_mark else len(plain)
        if newest.type == "table":
            return len(plain_text(self._render(blocks[:-1], lines)))
        length = len(plain)
        if newest.type == "paragraph":
            length = _find_row(plain)
        if found := _OPEN_END.search(plain):
            length = min(length, found.start())
        marks = [mark for mark in CONTINUATIONS if mark in plain or last.endswith(mark)]
        continuations = [text for mark in marks for text in CONTINUATIONS[mark]]
        if not any(letter.isalpha() for letter in last):
            continuations += LINE_CONTINUATIONS
        for continuation in continuations:
            source = self._source + continuation
            other = plain_text(self._render(parse_blocks(source), source.split("\n")))
            length = min(length, common_length(plain, other))
        return length


def _first_line(block: SyntaxTreeNode) -> int:
    return block.map[0] if block.map else 0


def _find_row(plain: str) -> int:
    """Return where the lines begin that may be the first ones of a table."""
    before, _, last = plain.rpartition("\n")
    start = len(plain) - len(last)
    previous = before.rpartition("\n")[2]
    if "|" in previous and _ROW_MARKS.issuperset(last):
        return start - 1 - len(previous)
    return start if "|" in last else len(plain)


def _end_before_tag(text: str) -> int:
    """Return the end of the text before what may be the beginning of an end tag."""
    mark = text.rfind("<")
    is_open = mark >= 0 and any(tag.startswith(text[mark:]) for tag in _THINK_END_TAGS)
    return len((text[:mark] if is_open else text).rstrip())
