"""Media types of files by their content. Names and what a client says are no evidence."""

import codecs
import re

import puremagic

TEXT = "text/plain"
HTML = "text/html"
PDF = "application/pdf"
ZIP = "application/zip"
UNKNOWN = "application/octet-stream"
SAFE_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""Images that a browser shows without running anything."""
EXCERPT_BYTES = 65_536
"""Bytes of the beginning and of the end that are looked at."""
MIN_CONFIDENCE = 0.3

_OFFICE = {
    b"word/": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    b"xl/": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    b"ppt/": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}
"""Folders in the archives of Office's formats."""
_DECLARED = re.compile(
    rb"PK\x03\x04.{26}mimetype(application/(?:vnd\.oasis\.opendocument\.[a-z-]{1,40}|epub\+zip))",
    re.DOTALL,
)
"""The first entry of OpenDocument and EPUB archives."""
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MARKED = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_HTML = re.compile(rb"\s*(?:<!--.{0,1000}?-->\s*)?<(?:!doctype\s+html|html[\s>])", re.I | re.DOTALL)


class ContentInspector:
    """Finds the media type of content that comes in pieces, and keeps no more than an excerpt."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._text = TextInspector()

    def feed(self, piece: bytes) -> None:
        if len(self._head) < EXCERPT_BYTES:
            self._head += piece[: EXCERPT_BYTES - len(self._head)]
        self._tail = (self._tail + piece)[-EXCERPT_BYTES:]
        self._text.feed(piece)

    def media_type(self) -> str:
        """Return the media type of everything that was fed."""
        if self._head.startswith(b"%PDF-"):
            return PDF
        if self._text.is_text():
            return HTML if _HTML.match(self._head) else TEXT
        if self._head.startswith(b"PK\x03\x04"):
            return self._archive_type()
        return _binary_type(self._head)

    def _archive_type(self) -> str:
        if declared := _DECLARED.match(self._head):
            return declared[1].decode()
        if b"[Content_Types].xml" in self._head + self._tail:
            for folder, media_type in _OFFICE.items():
                if folder in self._tail:  # the list of an archive's entries is at its end
                    return media_type
        return ZIP


def _binary_type(head: bytes) -> str:
    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return UNKNOWN
    types = [each.mime_type for each in found if each.confidence >= MIN_CONFIDENCE]
    known = next((each for each in types if each), UNKNOWN)
    # Text that is not text, and archives by their first bytes alone.
    return UNKNOWN if known.startswith("text/") or "officedocument" in known else known


class TextInspector:
    """Decides whether content that comes in pieces is text: in UTF-8, in UTF-16 with a mark, or in
    an encoding of single bytes, without control characters."""

    def __init__(self) -> None:
        self._start: bytes | None = b""
        """The first bytes, until there are enough for a mark."""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._has_control = False
        self._is_broken = False
        """True when the bytes are not in the encoding that the mark declares."""

    def feed(self, piece: bytes) -> None:
        if self._start is not None:
            piece = self._start + piece
            self._start = piece if len(piece) < 2 else None
            if self._start is not None:
                return
            if encoding := _MARKED.get(piece[:2]):
                self._decoder = codecs.getincrementaldecoder(encoding)()
        if self._decoder is not None:
            self._decode(piece)
        elif not self._has_control:
            self._has_control = _CONTROL.search(piece) is not None

    def _decode(self, piece: bytes, *, is_last: bool = False) -> None:
        assert self._decoder is not None
        if self._is_broken:
            return
        try:
            text = self._decoder.decode(piece, is_last)
        except UnicodeDecodeError:
            self._is_broken = True
            return
        self._is_broken = "\0" in text

    def is_text(self) -> bool:
        if self._decoder is not None:
            self._decode(b"", is_last=True)
            return not self._is_broken
        return not self._has_control and _CONTROL.search(self._start or b"") is None
