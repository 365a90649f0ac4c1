"""Reading of Word files (Office Open XML): their text as Markdown."""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from xml.etree import ElementTree

MAX_XML_BYTES = 200_000_000
"""Bytes of the unpacked text with its marks."""
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_SKIPPED = frozenset({_FALLBACK, f"{_WORD}del", f"{_WORD}moveFrom", f"{_WORD}instrText"})
"""Older forms of what is there already, deleted words, and instructions of fields."""
_BREAKS = {f"{_WORD}tab": "\t", f"{_WORD}br": "\n", f"{_WORD}cr": "\n"}
_HEADING = re.compile(
    r"(?:heading|überschrift|berschrift|titre|t[ií]tulo)\s*([1-9])", re.IGNORECASE
)
MAX_LEVEL = 6


class NotReadable(Exception):
    """The file cannot be read, for the reason in the message."""


def read_docx(content: bytes, limit: int) -> tuple[str, ...]:
    """Return the title and the text, cut after ``limit`` characters."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            body = _read_part(archive, "word/document.xml")
            core = _read_part(archive, "docProps/core.xml", is_needed=False)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise NotReadable("it is a damaged Word file, or it is encrypted") from error
    title = _parse(core).findtext(f".//{_TITLE}") if core else ""
    blocks: list[str] = []
    length = 0
    for block in _blocks(_parse(body)):
        blocks.append(block)
        length += len(block)
        if length > limit:
            break
    return (title or "").strip(), "\n\n".join(blocks)


def _read_part(archive: zipfile.ZipFile, name: str, *, is_needed: bool = True) -> bytes:
    if name not in archive.NameToInfo:
        if is_needed:
            raise NotReadable("it is no Word file: its text is missing")
        return b""
    with archive.open(name) as part:
        content = part.read(MAX_XML_BYTES + 1)
    if len(content) > MAX_XML_BYTES:
        raise NotReadable(f"its text takes more than {MAX_XML_BYTES:_} bytes")
    return content


def _parse(content: bytes) -> ElementTree.Element:
    if b"<!DOCTYPE" in content[:1_000]:  # Word writes none; entities could be made to grow
        raise NotReadable("its text declares a document type")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise NotReadable("its text is malformed") from error


def _blocks(body: ElementTree.Element) -> Iterator[str]:
    """Yield paragraphs and tables, of a document or of what stands around some of its parts."""
    pending = [iter(body)]
    while pending:
        element = next(pending[-1], None)
        if element is None:
            pending.pop()
        elif element.tag == f"{_WORD}p":
            if text := _paragraph(element):
                yield text
        elif element.tag == f"{_WORD}tbl":
            if text := _table(element):
                yield text
        elif element.tag not in _SKIPPED:
            pending.append(iter(element))


def _paragraph(paragraph: ElementTree.Element) -> str:
    text = _text_of(paragraph).strip()
    if not text:
        return ""
    style = paragraph.find(f"{_WORD}pPr/{_WORD}pStyle")
    name = "" if style is None else style.get(f"{_WORD}val", "")
    if name.lower() in ("title", "titel"):
        return f"# {text}"
    if heading := _HEADING.match(name):
        return f"{'#' * min(int(heading[1]), MAX_LEVEL)} {text}"
    if paragraph.find(f"{_WORD}pPr/{_WORD}numPr") is not None:
        return f"- {text}"
    return text


def _text_of(element: ElementTree.Element) -> str:
    pieces: list[str] = []
    pending = [iter(element)]
    while pending:
        inner = next(pending[-1], None)
        if inner is None:
            pending.pop()
        elif inner.tag == f"{_WORD}t":
            pieces.append(inner.text or "")
        elif inner.tag in _BREAKS:
            pieces.append(_BREAKS[inner.tag])
        elif inner.tag not in _SKIPPED and inner.tag != f"{_WORD}pPr":
            pending.append(iter(inner))
    return "".join(pieces)


def _table(table: ElementTree.Element) -> str:
    rows = [
        [" ".join(_text_of(cell).split()).replace("|", "\\|") for cell in row.iter(f"{_WORD}tc")]
        for row in table.iter(f"{_WORD}tr")
    ]
    rows = [row for row in rows if any(row)]
    if not rows:
        return ""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{' --- |' * len(rows[0])}")
    return "\n".join(lines)
