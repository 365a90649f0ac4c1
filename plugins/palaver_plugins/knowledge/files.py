"""Readers of files: Markdown, plain text, HTML, and PDF if pypdf is installed."""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

from palaver import Document, InvalidInput

MAX_BYTES = 50_000_000
"""Size above which a file is refused."""

_FRONT_MATTER = re.compile(r"---[ \t]*\n(?P<fields>(?:(?!---).*\n)*?)---[ \t]*(?:\n|$)")
_TITLE_FIELD = re.compile(r"""^title:[ \t]*["']?(.+?)["']?[ \t]*$""", re.MULTILINE)
_FIRST_HEADING = re.compile(r"^#[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def find_files(paths: list[Path]) -> Iterator[Path]:
    """Yield the given files, and the readable files in the given folders except hidden ones."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for inner in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in inner.relative_to(path).parts)
            if inner.is_file() and not hidden and inner.suffix.lower() in _READERS:
                yield inner


def read_document(path: Path) -> Document:
    """Read a file as a document with its path as the id. Raises `InvalidInput` with the reason."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = " ".join(sorted(_READERS))
        raise InvalidInput(f"files of kind {path.suffix!r} cannot be read; these can: {known}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"it is larger than {MAX_BYTES // 1_000_000} MB")
        title, text = reader(path)
    except OSError as error:
        raise InvalidInput(f"it cannot be opened: {error.strerror or error}") from error
    if not text.strip():
        raise InvalidInput("it contains no text")
    return Document(id=path.as_posix(), title=title.strip() or path.stem, text=text)


def _read_utf8(path: Path) -> str:
    data = path.read_bytes()
    if b"\0" in data[:8192]:
        raise InvalidInput("it is a binary file")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"it is not UTF-8 text (byte {error.start})") from error


def _read_plain(path: Path) -> tuple[str, str]:
    return "", _read_utf8(path)


def _read_markdown(path: Path) -> tuple[str, str]:
    text = _read_utf8(path)
    title = None
    front = _FRONT_MATTER.match(text)
    if front:
        title = _TITLE_FIELD.search(front["fields"])
        text = text[front.end() :]
    title = title or _FIRST_HEADING.search(text)
    return title[1] if title else "", _COMMENT.sub("", text)


def _read_html(path: Path) -> tuple[str, str]:
    parser = _HtmlText()
    parser.feed(_read_utf8(path))
    parser.close()
    return " ".join(parser.title.split()), parser.text()


class _HtmlText(HTMLParser):
    """Parser that collects a page's text: Markdown headings, a blank line between blocks."""

    _SILENT = frozenset({"script", "style", "template", "noscript", "svg", "nav", "head"})
    _BLOCKS = frozenset(
        "p div section article main header footer ul ol table tr blockquote figure pre dl dt dd hr"
        " form fieldset details summary aside h1 h2 h3 h4 h5 h6 li".split()
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self._parts: list[str] = []
        self._silent = 0
        self._in_title = False
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        self._silent += tag in self._SILENT
        self._preformatted += tag == "pre"
        if tag in self._BLOCKS:
            self._parts.append("\n\n")
        if re.fullmatch("h[1-6]", tag):
            self._parts.append("#" * int(tag[1]) + " ")
        elif tag == "li":
            self._parts.append("- ")
        elif tag == "br":
            self._parts.append("\n")
        elif tag in ("td", "th"):
            self._parts.append(" | ")

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False
        self._silent = max(0, self._silent - (tag in self._SILENT))
        self._preformatted = max(0, self._preformatted - (tag == "pre"))
        if tag in self._BLOCKS:
            self._parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._silent:
            self._parts.append(data if self._preformatted else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        joined = "".join(self._parts)
        return re.sub(r"[ \t]*\n[ \t]*(?:\n[ \t]*)+", "\n\n", joined).strip()


def _read_pdf(path: Path) -> tuple[str, str]:
    try:
        import pypdf
        import pypdf.errors
    except ImportError as error:
        raise InvalidInput("reading PDF needs pypdf: pip install 'palaver-server[pdf]'") from error
    try:
        reader = pypdf.PdfReader(path)
        title = (reader.metadata.title if reader.metadata else None) or ""
        pages = [page.extract_text().strip() for page in reader.pages]
    except (pypdf.errors.PyPdfError, ValueError, KeyError) as error:
        raise InvalidInput(f"it is not a PDF that can be read: {error}") from error
    texts = (f"## Page {number}\n\n{text}" for number, text in enumerate(pages, 1) if text)
    return str(title), "\n\n".join(texts)


_READERS: dict[str, Callable[[Path], tuple[str, str]]] = {
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".txt": _read_plain,
    ".text": _read_plain,
    ".rst": _read_plain,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
}
