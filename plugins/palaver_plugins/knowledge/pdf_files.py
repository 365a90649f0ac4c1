"""Reading of PDF files, page by page."""

import io
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pypdf
from pypdf.errors import DependencyError, FileNotDecryptedError

MIN_ROWS = 4
"""Rows with text in both columns that make a page of two columns."""
MIN_COLUMN_CHARACTERS = 16
"""Mean length of the parts of a row; shorter ones are a table."""
MAX_ROWS = 500
_GAP = re.compile(r"(?<=\S)  +(?=\S)")
_PROGRAM = re.compile(r"^Microsoft (?:Word|PowerPoint|Excel) - ")
_PLACEHOLDER = re.compile(
    r"\(?(?:untitled|anonymous|unspecified|unknown|no title|(?:word|powerpoint) (?:document"
    r"|presentation)|document|presentation)\)?(?:[-. ]?\d+)?",
    re.IGNORECASE,
)
SHOWING = frozenset({b"Tj", b"TJ", b"'", b'"'})
"""Operators that show text."""


class NotReadable(Exception):
    """The file cannot be read, for the reason in the message."""


def read_pdf(content: bytes, limit: int) -> tuple[str, ...]:
    """Return title, text, and notes about pages that may be read badly."""
    pages = _Pages()
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        title = clean_title((reader.metadata.title if reader.metadata else None) or "")
        for page in reader.pages:
            pages.read(page)
            if pages.length > limit:
                break
    except MemoryError:
        raise
    except DependencyError as error:
        hint = "it is encrypted; reading it needs cryptography: pip install 'palaver-server[pdf]'"
        raise NotReadable(hint) from error
    except FileNotDecryptedError as error:
        raise NotReadable("it is encrypted and needs a password") from error
    except Exception as error:
        raise NotReadable(f"it is not a PDF that can be read: {error}") from error
    pages.check()
    return title, "\n\n".join(pages.texts), *pages.notes()


def clean_title(title: str) -> str:
    """Return the title without what programs write for want of one."""
    line = _PROGRAM.sub("", " ".join(str(title)[:1_000].split()))
    return "" if _PLACEHOLDER.fullmatch(line) else line


class _Pages:
    """Texts of the pages that have been read, and the numbers of the others."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.length = 0
        self._number = 0
        self._empty: list[int] = []
        self._two_columns: list[int] = []
        self._broken: list[int] = []
        self._problem = ""

    def read(self, page: Any) -> None:  # Any: pypdf is optional
        self._number += 1
        try:
            text, has_columns = _read_page(page)
        except (MemoryError, DependencyError, FileNotDecryptedError):
            raise
        except Exception as error:  # noqa: BLE001 - the barrier around each page
            self._broken.append(self._number)
            self._problem = str(error)
            return
        if text:
            self.texts.append(f"## Page {self._number}\n\n{text}")
            self.length += len(text)
        else:
            self._empty.append(self._number)
        if has_columns:
            self._two_columns.append(self._number)

    def check(self) -> None:
        """Raise `NotReadable` if no page has text."""
        if self.texts:
            return
        if self._broken:
            raise NotReadable(f"it is not a PDF that can be read: {self._problem}")
        hint = "its pages are images or empty; OCR can make text of images"
        raise NotReadable(f"it contains no text: {hint}" if self._number else "it has no pages")

    def notes(self) -> list[str]:
        notes: list[str] = []
        if self._empty:
            verb = "holds" if len(self._empty) == 1 else "hold"
            pages = describe_pages(self._empty)
            notes.append(f"{pages} {verb} no text, perhaps an image that needs OCR")
        if self._broken:
            notes.append(f"{describe_pages(self._broken)} cannot be read: {self._problem[:100]}")
        if self._two_columns:
            verb = "is" if len(self._two_columns) == 1 else "are"
            order = "the left column first; the order may be wrong"
            pages = describe_pages(self._two_columns)
            notes.append(f"{pages} {verb} read as two columns, {order}")
        return notes


def describe_pages(numbers: Sequence[int]) -> str:
    """Return for example ``pages 1, 3-5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    names = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:50]]
    more = ", …" if len(runs) > 50 else ""
    return f"page{'s' * (len(numbers) > 1)} {', '.join(names)}{more}"


# Columns


def _read_page(page: Any) -> tuple[str, bool]:
    """Return the text, and True if it has been put into the order of two columns."""
    starts: list[tuple[int, int]] = []

    def note_start(operator: bytes, operands: Any, matrix: Any, text_matrix: Any) -> None:
        if operator in SHOWING:
            starts.append((round(text_matrix[4]), round(text_matrix[5])))

    text: str = page.extract_text(visitor_operand_before=note_start).strip()
    try:
        if not _may_have_columns(starts, float(page.mediabox.width)):
            return text, False
        layout: str = page.extract_text(extraction_mode="layout")
    except (Exception, MemoryError):  # noqa: BLE001 - a page with any fault keeps its plain text
        return text, False
    ordered = order_columns(layout)
    return (ordered, True) if ordered and _is_mixed(text, layout) else (text, False)


def _may_have_columns(starts: Sequence[tuple[int, int]], width: float) -> bool:
    """Return True if many rows have text that begins at one place in the middle of the page."""
    leftmost: dict[int, int] = {}
    for x, y in starts:
        leftmost[y] = min(x, leftmost.get(y, x))
    middle = Counter(
        x for x, y in starts if 0.3 * width < x < 0.7 * width and leftmost[y] < 0.3 * width
    )
    return bool(middle) and max(middle.values()) >= MIN_ROWS


def _find_gutter(lines: Sequence[str]) -> int:
    """Return where the right column begins in the lines of a page, 0 without one."""
    rows: Counter[int] = Counter()
    widths: Counter[int] = Counter()
    for line in lines:
        for gap in _GAP.finditer(line):
            rows[gap.end()] += 1
            widths[gap.end()] += len(gap[0])
    return max((at for at in rows if rows[at] >= MIN_ROWS), key=lambda at: widths[at], default=0)


def _rows(layout: str) -> tuple[list[str], int]:
    lines = layout.split("\n")[:MAX_ROWS]
    return lines, _find_gutter(lines)


def _is_row_of_two(line: str, gutter: int) -> bool:
    is_gap = line[max(0, gutter - 2) : gutter] == "  " and line[gutter : gutter + 1].strip() != ""
    return is_gap and bool(line[:gutter].strip())


def order_columns(layout: str) -> str:
    """Return the text of a page's layout column by column, empty if it is not in two columns."""
    lines, gutter = _rows(layout)
    rows = [line for line in lines if gutter and _is_row_of_two(line, gutter)]
    parts = [part.strip() for line in rows for part in (line[:gutter], line[gutter:])]
    if len(rows) < MIN_ROWS or sum(map(len, parts)) < MIN_COLUMN_CHARACTERS * len(parts):
        return ""
    found: list[str] = []
    left: list[str] = []
    right: list[str] = []
    for line in lines:
        is_wide = len(line) > gutter and line[gutter - 1 : gutter] != " " and line[:gutter].strip()
        if is_wide:
            found += [*left, *right, line.strip()]
            left, right = [], []
        else:
            left.append(line[:gutter].strip())
            right.append(line[gutter:].strip())
    return "\n".join(" ".join(line.split()) for line in (*found, *left, *right) if line)


def _is_mixed(text: str, layout: str) -> bool:
    """Return True if the plain text goes from column to column, row by row."""
    lines, gutter = _rows(layout)
    plain = " ".join(text.split())
    rows = [line for line in lines if _is_row_of_two(line, gutter)]
    parts = [" ".join(part.split()) for line in rows for part in (line[:gutter], line[gutter:])]
    places = [plain.find(part) for part in parts]
    rising = sum(0 <= first < second for first, second in pairwise(places))
    return 4 * rising >= 3 * (len(places) - 1)
