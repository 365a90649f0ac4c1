"""Markdown: the prose of a document, apart from all that must not change.

markdown-it-py reads the document. Its block tokens have line ranges, in which the lines of a
block are found again. The parts joined are the document, byte for byte.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.utils import EnvType

from palaver_skills.spans import PARSER, RAW_ELEMENT, RAW_END, Range, find_fixed

BLOCK_PARSER = MarkdownIt("commonmark").disable(["inline", "text_join", "reference"])
"""Parser of the blocks of CommonMark, without their inline content."""
FIRST_MARK, LAST_MARK = 0xF0000, 0xFFFFD
"""Characters of private use, which stand for the fixed parts of a passage."""
_LINE = re.compile(r"[^\r\n]*+(?:\r\n?|\n)|[^\r\n]++")
_FRONT_MATTER = {"---": ("---", "..."), "+++": ("+++",)}
"""First line of a front matter, and the lines that may end it."""
_BAR = re.compile(r"(?<!\\)\|")
_CELL_END = re.compile(r"`[^`]*+`|\\.|\|")
"""The bar after a cell, or what may contain a bar that is none."""
_RAW_BLOCK = re.compile(r"\s{0,3}<(?:[!?]|(?:script|pre|style|textarea)\b)", re.IGNORECASE)
_MODULE = re.compile(
    r"import\s+(?:[\w*{][^'\"]{0,500}\sfrom\s+)?['\"][^'\"\n]+['\"];?\s*(?:\n|\Z)"
    r"|export\s+(?:(?:const|let|var)\s+\w+\s*=|(?:default\s+)?(?:async\s+)?(?:function|class)\s+\w"
    r"|(?:default\s*)?[({*])"
)
"""The beginning of a paragraph of MDX that is code."""
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Passage:
    """The prose of a paragraph, a heading or a table cell.

    ``text`` has a mark (`FIRST_MARK` and following) for each fixed part, and a line break for
    each break, which may be longer in the document: "\\r\\n> ".
    """

    text: str
    fixed: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    in_table: bool = False

    def escape(self, text: str) -> str:
        """Return ``text`` without bars that would end a table's cell."""
        return _BAR.sub(r"\\|", text) if self.in_table else text

    def restore(self, text: str, first_break: int = 0) -> str:
        """Return ``text`` with the fixed parts in place of their marks, and the breaks."""
        lines = text.split("\n")
        breaks = self.breaks[first_break : first_break + len(lines) - 1]
        whole = "".join(line + end for line, end in zip(lines, (*breaks, ""), strict=True))
        return FIXED.sub(lambda mark: self.fixed[ord(mark[0]) - FIRST_MARK], whole)


FIXED = re.compile(f"[{chr(FIRST_MARK)}-{chr(LAST_MARK)}]")
_EDGE = re.compile(rf"(?:[.,;:!?)\s]|{FIXED.pattern})*")
"""What may precede prose: fixed parts, space, and punctuation that belongs to them."""


def split_edges(text: str) -> tuple[str, str, str]:
    """Return a passage's text in three parts: prose, and what stands around it.

    The prose is empty when it would have no letter.
    """
    head = _EDGE.match(text)
    start = head.end() if head else 0
    end = len(text)
    while end > start and (text[end - 1].isspace() or FIXED.match(text, end - 1)):
        end -= 1
    if not _LETTER.search(text, start, end):
        return text, "", ""
    return text[:start], text[start:end], text[end:]


def read_document(document: str) -> list[str | Passage]:
    """Return the passages of a document, and what stands between them."""
    start = _find_body(document)
    found: list[str | Passage] = []
    at = 0
    for first, last, parts in _Reader(document, start).read():
        if first >= at:
            found += [document[at:first], *parts]
            at = last
    return list(_join(part for part in (*found, document[at:]) if part))


def _join(parts: Iterable[str | Passage]) -> Iterator[str | Passage]:
    """Yield the parts with the texts between two passages as one."""
    for is_text, group in groupby(parts, lambda part: isinstance(part, str)):
        if is_text:
            yield "".join(map(str, group))
        else:
            yield from group


def split_blocks(text: str, *, nested: bool = False) -> list[str]:
    """Split a document into its blocks. ``nested``: also at items of lists and rows of tables."""
    lines = _LINE.findall(text)
    starts = {
        token.map[0]
        for token in PARSER.parse(text)
        if token.map and (nested or token.level == 0) and token.type != "inline"
    }
    cuts = sorted({0, len(lines), *starts})
    return ["".join(lines[first:last]) for first, last in pairwise(cuts)]


def _find_body(document: str) -> int:
    """Return the position after a byte order mark and a front matter."""
    start = document.startswith("\ufeff")
    lines = _LINE.finditer(document, start)
    ends = _FRONT_MATTER.get(next(lines)[0].rstrip() if document[start:] else "")
    if ends is None:
        return start
    for number, line in enumerate(lines):
        if line[0].rstrip() in ends:
            return line.end()
        if number == 0 and not line[0].strip():
            return start
    return start


class _Reader:
    """Reader of the blocks of a document, from ``start`` on."""

    def __init__(self, document: str, start: int) -> None:
        self._document = document
        self._body = document[start:]
        self._lines = [match.group().rstrip("\r\n") for match in _LINE.finditer(self._body)]
        self._starts = [match.start() + start for match in _LINE.finditer(self._body)]
        self._env: EnvType = {}
        self._raw_end = 0
        """Where the last raw element ends that a block has left open."""
        self._raw_ends: dict[str, list[int]] = {}

    def read(self) -> Iterator[tuple[int, int, list[str | Passage]]]:
        """Yield the range of each block with prose, and its parts."""
        row: list[Token] | None = None
        for token in PARSER.parse(self._body, self._env):
            if token.type == "tr_open":
                row = []
            elif token.type == "tr_close":
                yield from self._read_row(row or [])
                row = None
            elif token.type == "inline" and row is not None:
                row.append(token)
            elif token.type == "inline":
                yield from self._read_lines(token, is_html=False)
            elif token.type == "html_block" and not _RAW_BLOCK.match(token.content):
                yield from self._read_lines(token, is_html=True)

    def _read_row(self, cells: list[Token]) -> Iterator[tuple[int, int, list[str | Passage]]]:
        """Yield the cells of a table's row, which have no positions of their own."""
        if not cells or cells[0].map is None:
            return
        line = cells[0].map[0]
        start, written = self._starts[line], self._lines[line]
        bars = [match.start() for match in _CELL_END.finditer(written) if match[0] == "|"]
        ranges = [(a + 1, b) for a, b in pairwise([-1, *bars, len(written)])]
        first = cells[0].content.replace("|", "\\|")
        lead = written[: ranges[0][1]].rstrip()
        if first and lead.endswith(first):
            ranges[0] = (len(lead) - len(first), ranges[0][1])
        else:
            del ranges[0]
        for (a, b), _ in zip(ranges, cells, strict=False):
            cell = written[a:b]
            text = cell.strip()
            if text:
                a += cell.index(text)
                yield self._read_block(text, [_Line(0, start + a, text)], in_table=True)

    def _read_lines(
        self, token: Token, *, is_html: bool
    ) -> Iterator[tuple[int, int, list[str | Passage]]]:
        if token.map is None:
            return
        content = token.content.rstrip("\n")
        if _MODULE.match(content):
            return
        lines = []
        at = 0
        for number, written in enumerate(content.split("\n"), token.map[0]):
            text = written.strip()
            source = self._lines[number].replace("\0", "\ufffd") if text else ""
            column = source.rfind(text)
            if column < 0:
                return
            lead = len(written) - len(written.lstrip())
            if text:
                lines.append(_Line(at + lead, self._starts[number] + column, text))
            at += len(written) + 1
        if lines:
            yield self._read_block(content, lines, is_html=is_html)

    def _read_block(
        self, content: str, lines: list["_Line"], *, is_html: bool = False, in_table: bool = False
    ) -> tuple[int, int, list[str | Passage]]:
        """Return the range of a block in the document, and its parts."""
        fixed = [
            (_locate(lines, first), _locate(lines, last))
            for first, last in find_fixed(content, self._env)
        ]
        if is_html:
            fixed += self._find_open_element(lines)
        first, last = lines[0].start, lines[-1].end
        fixed.append((first, max(first, min(self._raw_end, last))))
        cutter = _Cutter(self._document, in_table=in_table)
        hard = {x.end for x in lines if is_html or content.startswith("  ", x.at + len(x.text))}
        breaks = [(a.end, b.start) for a, b in pairwise(lines)]
        return first, last, cutter.cut(first, last, fixed, breaks, hard)

    def _find_open_element(self, lines: list["_Line"]) -> Iterator[Range]:
        """Yield the rest of a block in which a raw element begins that ends in a later block."""
        start, end = lines[0].start, lines[-1].end
        for match in RAW_ELEMENT.finditer(self._document, start, end):
            name = match[1].lower()
            if RAW_END[name].search(self._document, match.end(), end) is None:
                ends = self._find_raw_ends(name)
                later = bisect_left(ends, end)
                self._raw_end = max(self._raw_end, *ends[later : later + 1], 0)
                yield match.start(), end
                return

    def _find_raw_ends(self, name: str) -> list[int]:
        """Return where the elements of this name end."""
        if name not in self._raw_ends:
            ends = RAW_END[name].finditer(self._document)
            self._raw_ends[name] = [match.end() for match in ends]
        return self._raw_ends[name]


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a block: its position in the block's content and in the document."""

    at: int
    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def _locate(lines: list[_Line], at: int) -> int:
    """Return the position in the document of a position in a block's content."""
    line = lines[max(0, bisect_right(lines, at, key=lambda line: line.at) - 1)]
    return line.start + max(0, min(at - line.at, len(line.text)))


class _Cutter:
    """Builder of the parts of a block: passages, and what stands between them."""

    def __init__(self, document: str, *, in_table: bool) -> None:
        self._document = document
        self._in_table = in_table
        self._parts: list[str | Passage] = []
        self._text = ""
        self._fixed: list[str] = []
        self._breaks: list[str] = []

    def cut(
        self, first: int, last: int, fixed: list[Range], breaks: list[Range], hard: set[int]
    ) -> list[str | Passage]:
        """Return the parts of a range in which these ranges are fixed, or breaks."""
        pieces = sorted((*((a, -b, True) for a, b in fixed), *((a, -b, False) for a, b in breaks)))
        at = first
        for start, negative_end, is_fixed in pieces:
            end = min(-negative_end, last)
            if end <= at:
                continue
            self._text += self._document[at:start]
            written = self._document[max(start, at) : end]
            self._add(written, is_break=not is_fixed, is_hard=start in hard or written[:1] == "\\")
            at = end
        self._text += self._document[at:last]
        self._flush()
        return self._parts

    def _add(self, written: str, *, is_break: bool, is_hard: bool) -> None:
        has_line = "\n" in written or "\r" in written
        if has_line and is_hard:
            self._flush()
            self._parts.append(written)
        elif is_break:
            self._text += "\n"
            self._breaks.append(written)
        else:
            self._text += chr(FIRST_MARK + len(self._fixed))
            self._fixed.append(written)

    def _flush(self) -> None:
        """Add the passage so far, without the fixed parts and the space around it."""
        passage = Passage(self._text, tuple(self._fixed), tuple(self._breaks), self._in_table)
        self._text, self._fixed, self._breaks = "", [], []
        head, core, end = split_edges(passage.text)
        if not core:
            self._parts.append(passage.restore(passage.text))
            return
        skipped = head.count("\n")
        inner = passage.breaks[skipped : skipped + core.count("\n")]
        tail = passage.restore(end, skipped + len(inner))
        self._parts += [
            passage.restore(head),
            Passage(core, passage.fixed, inner, self._in_table),
            tail,
        ]
