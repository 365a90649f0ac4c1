"""Cuts: the places where a reply in Markdown may be cut, and what follows each of them.

What stands in a list or a quote goes on behind a cut: a line keeps its quote marks and loses the
spaces that the list puts before it. Code is opened again, a table repeats its head.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from markdown_it.tree import SyntaxTreeNode

from palaver.markdown import is_closed, parse_blocks

AFTER_HEADING, LAST_RANK = 7, 9
MAX_PREFIX = 200
"""Characters of what a part repeats of the one before: the opening of code, the head of a table.
Where messages are short, an eighth of what fits into one."""
_SENTENCE_END = re.compile(r"[.!?…。!?][\"'»”’)\]]*\s+|(?<=[。!?])")
_SPACE = re.compile(r"\s+")
_LINE_END = re.compile(r"\r\n?|\n")
_LINE = re.compile(r"[^\r\n]*+(?:\r\n?|\n)|[^\r\n]++")
_BLOCK_START = re.compile(r"`{3}|~{3}|#{1,6}\s|[-+*]\s|\d{1,9}[.)]\s|>")
_CONTAINERS = ("bullet_list", "ordered_list", "list_item", "blockquote")
_QUOTE_MARK = re.compile("> ?")
_MARKS = re.compile("[ >]*")


class Part(NamedTuple):
    """One message of a reply: characters ``start`` to ``end`` of its Markdown, after ``prefix``,
    which repeats what was opened before, and without the ``indent`` of the list that is cut."""

    start: int
    end: int
    prefix: str = ""
    indent: int = 0

    def source(self, text: str) -> str:
        """Return the part's own Markdown."""
        body = text[self.start : self.end].strip("\n")
        if self.indent:
            body = "\n".join(_without_indent(line, self.indent) for line in body.split("\n"))
        return self.prefix + body


WHOLE = Part(0, 0)
"""Where a reply begins."""


class Cut(NamedTuple):
    """A place where a text may be cut, and the prefix and the indent of what follows it. ``rank``:
    0 is best."""

    position: int
    rank: int
    prefix: str = ""
    indent: int = 0


def find_cuts(text: str, window: Part, limit: int) -> Iterator[Cut]:
    """Yield the places within ``window`` where the text may be cut, for messages of about ``limit``
    characters."""
    source = _Source(text, window, limit)
    for cut in _block_cuts(parse_blocks(source.text), source, depth=0):
        found = source.in_reply(cut)
        if window.start < found.position < window.end:
            yield found


def cut_anywhere(text: str, part: Part, limit: int) -> Cut:
    """Return a cut at the end of a part, wherever that is. ``limit`` as in `find_cuts`."""
    source = _Source(text, part, limit)
    block, end = _last_block(parse_blocks(source.text)), len(source.text)
    cut = Cut(end, LAST_RANK, source.quote_marks(end))
    if block is not None and block.type == "fence":
        cut = _code_cut(block, source, end) if source.has_open_code(block) else Cut(end, LAST_RANK)
    elif block is not None:
        cut = cut._replace(indent=_column(block, source))
    return source.in_reply(cut)._replace(position=part.end, rank=LAST_RANK)


def begins_block(text: str, position: int) -> bool:
    """Return whether what stands there would be read as the beginning of code, a heading, a list or
    a quote if a line began there."""
    return _BLOCK_START.match(text, position) is not None


class _Source:
    """A part's own Markdown, by lines, whose positions are found again in the reply."""

    def __init__(self, reply: str, part: Part, limit: int) -> None:
        self.max_prefix = min(MAX_PREFIX, limit // 8)
        lines = [match.group() for match in _LINE.finditer(reply, part.start, part.end)]
        own = [_without_indent(line, part.indent) for line in lines]
        removed = [len(line) - len(its) for line, its in zip(lines, own, strict=True)]
        self._part = part
        self.text = part.prefix + "".join(own)
        self._lines = [match.group() for match in _LINE.finditer(self.text)]
        self.line_starts = [0, *accumulate(map(len, self._lines))]
        added = len(_LINE_END.findall(part.prefix))  # some prefixes stand in the first line
        self._removed = [*([0] * added), *removed, 0]
        ends = accumulate(map(len, lines), initial=part.start)
        self._reply_starts = [*([part.start] * added), *ends]
        self._shifts = [*self._removed]
        self._shifts[added] -= len(part.prefix) - self.line_starts[added]

    def start_of(self, line: int) -> int:
        return self.line_starts[min(line, len(self.line_starts) - 1)]

    def lines(self, first: int, end: int) -> Sequence[str]:
        return self._lines[first:end]

    def indent(self, line: int) -> int:
        """Return the number of spaces that lists put before a line."""
        text = self._lines[line] if line < len(self._lines) else ""
        return len(text) - len(_without_indent(text, len(text)))

    def quote_marks(self, position: int) -> str:
        """Return the marks of quotes in the line at ``position``, before it."""
        start = self.line_starts[self._line_at(position)]
        marks = _MARKS.match(self.text, start, position)
        return "".join(_QUOTE_MARK.findall(marks[0])) if marks else ""

    def has_open_code(self, fence: SyntaxTreeNode) -> bool:
        """Return whether code goes on at the end of the text, and has begun there."""
        first, _ = fence.map or (0, 0)
        has_begun = first + 1 < len(self._lines) or self.text.endswith(("\n", "\r"))
        return has_begun and not is_closed(fence, self._lines)

    def in_reply(self, cut: Cut) -> Cut:
        """Return a cut of this source as one of the reply."""
        line = self._line_at(cut.position)
        position, inside = self._reply_starts[line], cut.position - self.line_starts[line]
        if not inside:
            return cut._replace(position=position, indent=cut.indent + self._removed[line])
        position += inside + self._shifts[line]
        return cut._replace(position=position, indent=cut.indent + self._part.indent)

    def _line_at(self, position: int) -> int:
        line = bisect_right(self.line_starts, position) - 1
        is_in_last = line == len(self._lines) and not self.text.endswith(("\n", "\r"))
        return line - is_in_last


def _without_indent(line: str, most: int) -> str:
    """Return a line without the first spaces before its text, at most ``most`` of them. Marks of
    quotes stay, each with one space."""
    marks, at = "", 0
    while at < len(line):
        if quote := _QUOTE_MARK.match(line, at):
            marks, at = marks + quote[0], quote.end()
        elif line[at] == " " and most:
            most, at = most - 1, at + 1
        else:
            break
    return marks + line[at:]


def _block_cuts(blocks: list[SyntaxTreeNode], source: _Source, *, depth: int) -> Iterator[Cut]:
    previous = ""
    for block in blocks:
        first, _ = block.map or (0, 0)
        if previous:
            rank = AFTER_HEADING if previous == "heading" else min(depth, 2)
            yield Cut(source.start_of(first), rank, indent=source.indent(first) if depth else 0)
        if block.type in _CONTAINERS:
            yield from _block_cuts(block.children, source, depth=depth + 1)
        elif block.type == "fence":
            yield from _code_cuts(block, source)
        elif block.type == "table":
            yield from _table_cuts(block, source)
        else:
            yield from _text_cuts(block, source)
        previous = block.type


def _code_cuts(fence: SyntaxTreeNode, source: _Source) -> Iterator[Cut]:
    first, end = fence.map or (0, 0)
    for line in range(first + 2, end - is_closed(fence, source.lines(0, end))):
        yield _code_cut(fence, source, source.start_of(line))


def _code_cut(fence: SyntaxTreeNode, source: _Source, position: int) -> Cut:
    """Return a cut behind which code is opened again, in the list and the quote where it is."""
    line, _ = fence.map or (0, 0)
    indent = source.indent(line)
    opening = _without_indent(source.lines(line, line + 1)[0].rstrip("\r\n"), indent)
    if len(opening) > source.max_prefix:
        before, mark, _ = opening.partition(fence.markup[:3])
        opening = before + mark
    return Cut(position, 3, f"{opening}\n", indent)


def _table_cuts(table: SyntaxTreeNode, source: _Source) -> Iterator[Cut]:
    first, end = table.map or (0, 0)
    indent = source.indent(first)
    head = "".join(_without_indent(line, indent) for line in source.lines(first, first + 2))
    for line in range(first + 3, end):
        if len(head) <= source.max_prefix:
            yield Cut(source.start_of(line), 3, head, indent)
        else:
            yield Cut(source.start_of(line), 3, indent=source.indent(line))


def _text_cuts(block: SyntaxTreeNode, source: _Source) -> Iterator[Cut]:
    first, end = block.map or (0, 0)
    if block.type == "code_block":
        for line in range(first + 1, end):
            yield Cut(source.start_of(line), 4, indent=_outer_indent(block, source, line))
        return
    for line in range(first + 1, end):
        yield Cut(source.start_of(line), 4, indent=source.indent(line))
    start, stop, column = source.start_of(first), source.start_of(end), _column(block, source)
    for rank, pattern in ((5, _SENTENCE_END), (6, _SPACE)):
        for match in pattern.finditer(source.text, start, stop):
            at = match.end()
            if at < stop and not begins_block(source.text, at):
                yield Cut(at, rank, source.quote_marks(at), column)  # the list does not go on


def _column(block: SyntaxTreeNode, source: _Source) -> int:
    """Return the number of characters before the text of a block that are no marks of quotes."""
    first, end = block.map or (0, 0)
    if block.type == "code_block":
        return _outer_indent(block, source, end - 1)
    if not block.children or block.children[0].type != "inline":
        return source.indent(end - 1)
    line = source.lines(first, first + 1)[0]
    before = line[: max(line.find(block.children[0].content.partition("\n")[0]), 0)]
    return len(_QUOTE_MARK.sub("", before))


def _outer_indent(code: SyntaxTreeNode, source: _Source, line: int) -> int:
    """Return the indent of the list in which a line of indented code is."""
    first, _ = code.map or (0, 0)
    (content,) = code.content.split("\n")[line - first :][:1] or [""]
    return max(source.indent(line) - 4 - (len(content) - len(content.lstrip(" "))), 0)


def _last_block(blocks: Sequence[SyntaxTreeNode]) -> SyntaxTreeNode | None:
    """Return the last block, in whatever list or quote it is."""
    block = blocks[-1] if blocks else None
    while block is not None and block.type in _CONTAINERS and block.children:
        block = block.children[-1]
    return block
