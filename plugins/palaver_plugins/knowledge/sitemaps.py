"""Sitemaps (sitemaps.org): the pages of a web site, with the times of their last changes."""

import zlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import urlsplit
from xml.parsers import expat

from palaver import InvalidInput

MAX_PAGES = 50_000
MAX_BYTES = 50 << 20
"""Bytes of a sitemap that was compressed: the protocol's own limit."""
MAX_SITEMAPS = 100
"""Sitemaps that one index may name."""
MAX_TEXT = 2_000
"""Characters of an address or a time."""

Load = Callable[[str], Awaitable[bytes]]


class Page(NamedTuple):
    """Address of a page, and the time of its last change as the site writes it, empty if it does
    not."""

    url: str
    changed: str = ""


async def find_pages(url: str, load: Load, note: Callable[[str, str], None]) -> list[Page]:
    """Return the pages of a sitemap, or of all those in an index of sitemaps.

    Pages and sitemaps of other hosts are left out, with a note. Raises `InvalidInput` for what is
    no sitemap, has no page or too many; and what ``load`` raises.
    """
    host = urlsplit(url).netloc
    pages, sitemaps = parse_sitemap(await load(url))
    if len(sitemaps) > MAX_SITEMAPS:
        raise InvalidInput(f"the index names more than {MAX_SITEMAPS} sitemaps")
    for sitemap in sitemaps:
        if _is_of(host, sitemap.url):
            pages += parse_sitemap(await load(sitemap.url))[0]
        else:
            note(sitemap.url, "left out, since the sitemap is of another host")
        if len(pages) > MAX_PAGES:
            break
    if len(pages) > MAX_PAGES:
        raise InvalidInput(f"it names more than {MAX_PAGES} pages")
    own = {page.url: page for page in pages if _is_of(host, page.url)}
    for page in pages:
        if page.url not in own:
            note(page.url, "left out, since the page is of another host than the sitemap")
    if not own:
        raise InvalidInput("it names no page of its host")
    return list(own.values())


def parse_sitemap(content: bytes) -> tuple[list[Page], list[Page]]:
    """Return the pages and the sitemaps that a sitemap, which may be compressed by gzip, names.
    Raises `InvalidInput`."""
    reader = _Reader()
    try:
        reader.parser.Parse(_decompress(content), True)
    except (expat.ExpatError, zlib.error, ValueError, LookupError) as error:
        raise InvalidInput(f"it is no sitemap: {error}") from error
    if reader.root not in ("urlset", "sitemapindex"):
        raise InvalidInput(f"it is no sitemap: its root element is {reader.root!r}")
    return reader.pages, reader.sitemaps


def _decompress(content: bytes) -> bytes:
    """Return the content of a gzip file, and other content as it is. Raises `ValueError` for a
    file that is not whole or too long."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    reader = zlib.decompressobj(wbits=31)
    found = reader.decompress(content, MAX_BYTES + 1)
    if len(found) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES >> 20} MiB")
    if not reader.eof:
        raise ValueError("the compressed file is not whole")
    return found


class _Reader:
    """Reads a sitemap. A document type is refused: its entities could expand without limit."""

    def __init__(self) -> None:
        self.root = ""
        self.pages: list[Page] = []
        self.sitemaps: list[Page] = []
        self._fields: dict[str, str] = {}
        self._path: list[str] = []
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._read

    def _refuse(self, *declaration: object) -> None:
        raise ValueError("it declares a document type")

    def _start(self, name: str, attributes: object) -> None:
        self._path.append(name.rpartition(" ")[2])
        if len(self._path) == 1:
            self.root = self._path[0]
        elif len(self._path) == 2:
            self._fields = {}

    def _read(self, text: str) -> None:
        if len(self._path) == 3 and self._path[2] in ("loc", "lastmod"):
            whole = self._fields.get(self._path[2], "") + text
            if len(whole) > MAX_TEXT:
                raise ValueError(f"a <{self._path[2]}> has more than {MAX_TEXT} characters")
            self._fields[self._path[2]] = whole

    def _end(self, name: str) -> None:
        if len(self._path) == 2 and (url := self._fields.get("loc", "").strip()):
            found = self.sitemaps if self._path[1] == "sitemap" else self.pages
            found.append(Page(url, " ".join(self._fields.get("lastmod", "").split())))
        self._path.pop()


def _is_of(host: str, url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc == host
