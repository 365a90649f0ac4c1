"""Splitting of Markdown into prose, which may be rewritten, and the rest, which must not.

The rest is structure (headings, lists, tables, fences), code, addresses, tags, emphasis marks and
placeholders. The segments joined are the text, byte for byte.

All of it takes linear time: lines are read one by one, and spans in windows of limited length.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a text. Prose may be rewritten; anything else stays as it is."""

    text: str
    is_prose: bool


_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r"\s*+(?:>\s*+|[-*+]\s++|\d{1,9}[.)]\s++)*(`{3,}+(?!.*`)|~{3,}+)")
_MARKERS = re.compile(
    r"(?:[ \t]*(?:>|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t])|\#{1,6}(?=[ \t])))+[ \t]*"
    r"(?:\[[ xX]\][ \t]+)?"
)
_ALONE = re.compile(r"[ \t]*(?:>|\#)")
_DEFINITION = re.compile(r"[ \t]*\[[^\]\n]+\]:[ \t]+\S+")
_UNDERLINE = re.compile(r"[ \t]*+(?:=++|-{2,}+)[ \t]*+$")
_TABLE_ROW = re.compile(r"[ \t]*\|.*|.*\|[ \t]*$")
_INDENTED = re.compile(r"(?: {4}|\t)")
_HARD_BREAK = re.compile(r"(?: {2}|\\)\n$")
_LETTER = re.compile(r"[^\W\d_]")
_WINDOW = 2_000
"""Characters in which a span must begin and end; their patterns may read all of them again and
again."""

_FIXED = re.compile(
    r"""
    (?<!`)(?P<ticks>`++)(?:(?!(?P=ticks)).){1,500}?(?P=ticks)(?!`)        # code
    | \$\$(?:(?!\$\$).){1,500}\$\$                                         # formula
    | <!--(?:(?!-->).){0,2000}-->
    | </?[A-Za-z@\#!][^<>\n]{0,500}>                                       # tag, <https://…>, <@U1>
    | \{\{(?:(?!\}\}).){0,200}\}\} | \{%(?:(?!%\}).){0,200}%\}         # placeholders
    | [$%]?\{[^{}\n]{0,200}\}
    | %(?:\(\w+\))?(?:\d+\$)?[-+\#0]*\d*(?:\.\d+)?[sdifgeExXcr@](?![A-Za-z]) | %%
    | \]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*(?:[ ]+(?:"[^"\n]*"|'[^'\n]*'))?\)  # target of a link
    | !?\[(?=[^\[\]\n]{0,500}\][(\[])                                      # and where it begins
    | \]\[[^\]\n]{0,200}\] | \[\^[^\]\n]{1,100}\]
    | (?:https?|ftp)://[!-~]*[\w/\#=&%+-] | \bwww\.[!-~]*[\w/]
    | (?<![\w.+-])(?:mailto:)?[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{0,100}\w
    | &(?:[A-Za-z]\w{1,30}|\#\d+|\#x[0-9A-Fa-f]+);
    | (?<![\w:]):[a-z][a-z0-9_+-]*:(?![\w:])                         # :smile:
    | (?<!\w)@\w(?:[\w.-]*\w)?
    | (?<![A-Za-z0-9])[A-Za-z0-9]{1,100}(?:_[A-Za-z0-9]{1,100})+  # snake_case
    | \\[!-/:-@\[-`{-~]                                              # escaped punctuation
    | \*+ | ~~+ | (?<![^\W_])_+(?=\S) | (?<=\S)_+(?![^\W_])          # emphasis
    | ⟦[^⟧]{0,20}⟧?
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)


def split_blocks(text: str) -> Iterator[Segment]:
    """Yield paragraphs, headings, list items and table cells as prose, and all between them."""
    for piece in _Blocks().split(text):
        if piece.is_prose:
            yield from _split_edges(piece.text)
        elif piece.text:
            yield piece


def split_spans(text: str) -> list[Segment]:
    """Split one block into its prose, and the code, links and placeholders in it."""
    return [segment for window in _split_windows(text) for segment in _split_window(window)]


def _split_windows(text: str) -> Iterator[str]:
    """Yield parts of at most `_WINDOW` characters that end at a space where there is one."""
    start = 0
    while start < len(text):
        end = start + _WINDOW
        if end < len(text):
            end = text.rfind(" ", start, end) + 1 or end
        yield text[start:end]
        start = end


def _split_window(text: str) -> list[Segment]:
    found: list[Segment] = []
    at = 0
    for match in _FIXED.finditer(text):
        found += _split_edges(text[at : match.start()])
        found.append(Segment(match.group(), is_prose=False))
        at = match.end()
    return [*found, *_split_edges(text[at:])]


def _split_edges(text: str) -> Iterator[Segment]:
    """Split white space at both ends and leading punctuation off, which belongs to the segment
    before. A text without a letter is no prose."""
    core = text.strip().lstrip(".,;:!?)\n\t ")
    if not _LETTER.search(core):
        core = ""
    start = len(text.rstrip()) - len(core) if core else len(text)
    for part, prose in (
        (text[:start], False),
        (core, True),
        (text[start + len(core) :], False),
    ):
        if part:
            yield Segment(part, prose)


class _Blocks:
    """Reader of lines that separates prose from structure."""

    def __init__(self) -> None:
        self._paragraph: list[str] = []
        self._until: re.Pattern[str] | None = None
        """Matches the line that ends the open fence, comment or formula."""
        self._after_blank = True
        self._in_list = False

    def split(self, text: str) -> Iterator[Segment]:
        front = re.match(r"---[ \t]*\n(?:(?!---).*\n)*?---[ \t]*(?:\n|$)", text)
        if front:
            yield Segment(front.group(), is_prose=False)
            text = text[front.end() :]
        for match in _LINE.finditer(text):
            yield from self._line(match.group())
        yield from self._flush()

    def _line(self, line: str) -> Iterator[Segment]:
        if self._stays(line):
            yield from self._flush()
            yield Segment(line, is_prose=False)
        elif _TABLE_ROW.match(line):
            yield from self._flush()
            yield from _split_cells(line)
        else:
            yield from self._text(line)
        self._after_blank = not line.strip()

    def _stays(self, line: str) -> bool:
        """Return True when the whole line is structure or code."""
        if self._until is not None:
            if self._until.search(line):
                self._until = None
            return True
        self._until = _find_end_pattern(line)
        if self._until is not None or not line.strip():
            return True
        if not _INDENTED.match(line) and not _MARKERS.match(line) and self._after_blank:
            self._in_list = False
        code = self._after_blank and not self._in_list and bool(_INDENTED.match(line))
        return code or bool(_DEFINITION.match(line) or _UNDERLINE.match(line))

    def _text(self, line: str) -> Iterator[Segment]:
        markers = _MARKERS.match(line)
        if markers:
            yield from self._flush()
            yield Segment(markers.group(), is_prose=False)
            self._in_list = self._in_list or not _ALONE.match(line)
            line = line[markers.end() :]
        self._paragraph.append(line)
        if (markers and _ALONE.match(markers.group())) or _HARD_BREAK.search(line):
            yield from self._flush()

    def _flush(self) -> Iterator[Segment]:
        if self._paragraph:
            yield Segment("".join(self._paragraph), is_prose=True)
            self._paragraph = []


def _find_end_pattern(line: str) -> re.Pattern[str] | None:
    fence = _FENCE.match(line)
    if fence:
        mark = fence[1]
        return re.compile(rf"^[\s>]*+{re.escape(mark[0])}{{{len(mark)},}}+\s*+$")
    if "<!--" in line and "-->" not in line:
        return re.compile("-->")
    return re.compile(r"\$\$") if line.strip() == "$$" else None


def _split_cells(line: str) -> Iterator[Segment]:
    """Yield the cells of a table row; a bar in code or after a backslash does not separate."""
    for part in re.findall(r"\|++|(?:`[^`\n]*+`|\\.|[^|\\]|\\$)+", line, re.DOTALL):
        yield Segment(part, is_prose=not part.startswith("|"))
