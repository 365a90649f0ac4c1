"""``palaver knowledge sync``: folders and sitemaps, of which only what has changed is read."""

import contextlib
import functools
import gzip
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from palaver import InvalidInput
from palaver.cli.console import Console
from palaver_plugins.knowledge import files
from palaver_plugins.knowledge.commands import knowledge
from palaver_plugins.knowledge.sitemaps import MAX_BYTES, Page, find_pages, parse_sitemap

pytestmark = pytest.mark.slow


class Site:
    """A web site of this machine. ``pages``: content by path; ``asked``: paths of requests."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.pages: dict[str, str | bytes] = {}
        self.asked: list[str] = []

    def write_sitemap(self, **changed: str) -> None:
        entries = "".join(
            f"<url><loc>{self.url}/{name}.html</loc><lastmod>{time}</lastmod></url>"
            for name, time in changed.items()
        )
        self.pages["/sitemap.xml"] = f'<urlset xmlns="http://a.b/0.9">{entries}</urlset>'

    def take_asked(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked


class Handler(BaseHTTPRequestHandler):
    def __init__(self, site: list[Site], *rest: object) -> None:
        self._site = site
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        [site] = self._site
        site.asked.append(self.path)
        page = site.pages.get(self.path)
        self.send_response(200 if page is not None else 404)
        kinds = {".xml": "application/xml", ".gz": "application/gzip"}
        kind = kinds.get(Path(self.path).suffix, "text/html")
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(page if isinstance(page, bytes) else (page or "").encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    found: list[Site] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, found)) as server:
        found.append(Site(server))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found[0]
        server.shutdown()
        thread.join()


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(
        settings_path=None,
        overrides=(
            f"server.data={tmp_path / 'data'}",
            "embedding.use=none",
            'fetch.allowed_networks=["127.0.0.1/32"]',
        ),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "cats.md").write_text("Cats sleep.")
    (folder / "deep" / "dogs.md").write_text("Dogs bark.")
    return folder


def run(console: Console, *arguments: str | Path) -> Result:
    return CliRunner().invoke(knowledge, [str(argument) for argument in arguments], obj=console)


def listed(console: Console) -> list[str]:
    lines = run(console, "list").output.splitlines()
    return sorted(line.split("  ")[-2].rpartition("/")[2] for line in lines)


# Folders


def test_only_changed_files_are_read_and_vanished_ones_removed(
    console: Console, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = folder.parent / "other.md"
    other.write_text("Not of the folder.")
    run(console, "add", other)
    assert "Added 2 documents with 2 passages.\n" in run(console, "sync", folder).output
    read: list[str] = []
    read_file = files.read_file

    def watch(path: Path, limits: object) -> files.FileContent:
        read.append(path.name)
        return read_file(path)

    monkeypatch.setattr(files, "read_file", watch)
    (folder / "new.md").write_text("Birds sing.")
    (folder / "cats.md").write_text("Cats hunt.")
    done = run(console, "sync", folder)
    assert done.output == "Added 2 documents with 2 passages. 1 document unchanged.\n"
    assert sorted(read) == ["cats.md", "new.md"]
    (folder / "deep" / "dogs.md").unlink()
    other.unlink()
    done = run(console, "sync", folder)
    assert done.output == (
        "Added 0 documents with 0 passages. 2 documents unchanged. Removed 1 document.\n"
    )
    assert listed(console) == ["cats.md", "new.md", "other.md"]
    assert "Cats hunt." in run(console, "search", "hunt").output


def test_files_of_an_older_version_are_read_once_more(
    console: Console, folder: Path, tmp_path: Path
) -> None:
    run(console, "sync", folder)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "knowledge.sqlite")) as db, db:
        db.execute("ALTER TABLE documents DROP COLUMN fingerprint")
        db.execute("ALTER TABLE documents DROP COLUMN origin")
        db.execute("PRAGMA user_version=7")
    assert run(console, "sync", folder).output == "Added 2 documents with 2 passages.\n"
    assert "2 documents unchanged." in run(console, "sync", folder).output


def test_a_file_that_cannot_be_read_any_more_is_not_removed(console: Console, folder: Path) -> None:
    run(console, "sync", folder)
    (folder / "cats.md").write_bytes(b"\0\0")
    done = run(console, "sync", folder)
    assert done.exit_code == 2
    assert "1 document unchanged. 1 source failed." in done.output
    assert listed(console) == ["cats.md", "dogs.md"]


def test_a_folder_without_files_removes_nothing(console: Console, folder: Path) -> None:
    run(console, "sync", folder)
    folder.rename(folder.parent / "elsewhere")
    folder.mkdir()
    done = run(console, "sync", folder)
    assert done.exit_code == 2
    assert "it holds no file that can be read; nothing is removed" in done.output
    assert listed(console) == ["cats.md", "dogs.md"]


def test_what_is_neither_folder_nor_address_is_refused(console: Console, folder: Path) -> None:
    done = run(console, "sync", folder / "cats.md")
    assert done.exit_code == 2
    assert "is neither a folder nor the address of a sitemap" in " ".join(done.output.split())


# Sitemaps


def test_only_changed_pages_are_fetched_and_unlisted_ones_removed(
    console: Console, site: Site
) -> None:
    site.write_sitemap(cats="2026-01-01", dogs="2026-01-01")
    site.pages["/cats.html"] = "<title>Cats</title><p>Cats sleep.</p>"
    site.pages["/dogs.html"] = "<title>Dogs</title><p>Dogs bark.</p>"
    address = f"{site.url}/sitemap.xml"
    assert run(console, "sync", address).output == "Added 2 documents with 2 passages.\n"
    assert sorted(site.take_asked()) == ["/cats.html", "/dogs.html", "/sitemap.xml"]
    assert run(console, "sync", address).output == (
        "Added 0 documents with 0 passages. 2 documents unchanged.\n"
    )
    assert site.take_asked() == ["/sitemap.xml"]
    site.write_sitemap(cats="2026-02-02")
    site.pages["/cats.html"] = "<title>Cats</title><p>Cats hunt.</p>"
    done = run(console, "sync", address)
    assert done.output == "Added 1 document with 1 passage. Removed 1 document.\n"
    assert listed(console) == ["cats.html"]
    assert f"({site.url}/cats.html, passage 1" in run(console, "search", "hunt").output


def test_pages_without_a_time_are_compared_by_their_content(console: Console, site: Site) -> None:
    site.write_sitemap(cats="")
    site.pages["/cats.html"] = "<p>Cats sleep.</p>"
    address = f"{site.url}/sitemap.xml"
    run(console, "sync", address)
    assert "1 document unchanged." in run(console, "sync", address).output
    assert site.take_asked().count("/cats.html") == 2


def test_a_page_that_fails_stays_and_is_reported(console: Console, site: Site) -> None:
    site.write_sitemap(cats="1", dogs="1")
    site.pages["/cats.html"] = site.pages["/dogs.html"] = "<p>Animals.</p>"
    address = f"{site.url}/sitemap.xml"
    run(console, "sync", address)
    site.write_sitemap(cats="2", dogs="1")
    del site.pages["/cats.html"]
    done = run(console, "sync", address)
    assert done.exit_code == 2
    assert "answered with the status 404" in done.output
    assert listed(console) == ["cats.html", "dogs.html"]


def test_without_its_sitemap_nothing_is_removed(console: Console, site: Site) -> None:
    site.write_sitemap(cats="1")
    site.pages["/cats.html"] = "<p>Cats.</p>"
    address = f"{site.url}/sitemap.xml"
    run(console, "sync", address)
    for content in ("<html></html>", "<urlset></urlset>", "no XML"):
        site.pages["/sitemap.xml"] = content
        done = run(console, "sync", address)
        assert done.exit_code == 2, done.output
        assert "nothing is removed" in done.output
    assert listed(console) == ["cats.html"]


def test_addresses_that_the_settings_do_not_allow_are_not_fetched(
    console: Console, site: Site
) -> None:
    closed = console.override("fetch.allowed_networks=[]")
    site.write_sitemap(cats="1")
    done = run(closed, "sync", f"{site.url}/sitemap.xml")
    assert done.exit_code == 2
    assert "is not on the public internet" in done.output
    assert site.asked == []


async def test_an_index_names_sitemaps_and_other_hosts_are_left_out() -> None:
    sitemaps = {
        "https://a.example/index.xml": (
            "<sitemapindex><sitemap><loc>https://a.example/1.xml</loc></sitemap>"
            "<sitemap><loc>https://b.example/2.xml</loc></sitemap></sitemapindex>"
        ),
        "https://a.example/1.xml": (
            "<urlset><url><loc> https://a.example/x </loc><lastmod>2026</lastmod></url>"
            "<url><loc>https://b.example/y</loc></url><url><loc>file:///etc/passwd</loc></url>"
            "<url><image><loc>https://a.example/image</loc></image></url></urlset>"
        ),
    }
    notes: list[str] = []

    async def load(url: str) -> bytes:
        return sitemaps[url].encode()

    pages = await find_pages(
        "https://a.example/index.xml", load, lambda url, note: notes.append(url)
    )
    assert pages == [Page("https://a.example/x", "2026")]
    assert notes == ["https://b.example/2.xml", "https://b.example/y", "file:///etc/passwd"]


def test_a_compressed_sitemap_is_read(console: Console, site: Site) -> None:
    site.write_sitemap(cats="1")
    sitemap = site.pages.pop("/sitemap.xml")
    assert isinstance(sitemap, str)
    site.pages["/sitemap.xml.gz"] = gzip.compress(sitemap.encode())
    site.pages["/cats.html"] = "<p>Cats sleep.</p>"
    assert "Added 1 document" in run(console, "sync", f"{site.url}/sitemap.xml.gz").output


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (gzip.compress(b"<urlset/>" + b" " * MAX_BYTES), "it is longer than 50 MiB"),
        (gzip.compress(b"<urlset/>")[:-9], "the compressed file is not whole"),
        (b"\x1f\x8bnonsense", "it is no sitemap: Error -3"),
    ],
)
def test_a_compressed_sitemap_is_bounded(content: bytes, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        parse_sitemap(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<urlset>",
        b"<html/>",
        b'<!DOCTYPE a [<!ENTITY b "c">]><urlset/>',
        b"<urlset><url><loc>" + b"a" * 2_001 + b"</loc></url></urlset>",
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><urlset/>'.encode("utf-16"),
        b'<?xml version="1.0" encoding="nonsense"?><urlset/>',
    ],
)
def test_what_is_no_sitemap_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="it is no sitemap"):
        parse_sitemap(content)
