"""Files that were made to exhaust or to confuse their reader."""

import asyncio
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.plugins.knowledge.pdf import make_pdf
from tests.server.models.test_model_files import deep_folders

from palaver import Document, InvalidInput, ReadLimits
from palaver.cli.console import Console
from palaver_plugins.knowledge import files, reader_process
from palaver_plugins.knowledge.commands import knowledge
from palaver_plugins.knowledge.passages import split_passages
from palaver_plugins.knowledge.sqlite import SqliteKnowledge
from palaver_plugins.knowledge.terms import MAX_QUERY_TERMS, query_terms

pytestmark = pytest.mark.slow

SIZE = 200_000
LIMITS = ReadLimits(timeout=20.0, memory=512 << 20)
"""With the readers of before, each of these files took minutes."""


def repeat(text: str, size: int = SIZE) -> str:
    return text * (size // len(text))


HOSTILE_HTML = {
    "comments": repeat("<!--"),
    "comments-half-closed": repeat("<!-- --"),
    "tags": repeat("<a "),
    "end-tags": repeat("</"),
    "declarations": repeat("<!"),
    "instructions": repeat("<?"),
    "sections": repeat("<![CDATA["),
    "entities": repeat("&#"),
    "scripts": "<script>" + repeat("</script"),
    "titles": "<title>" + repeat("<b>x"),
    "nesting": repeat("<div>", 1_000_000),
    "wrong-ends": "<div>" * 2_000 + repeat("</p>", 1_000_000),
    "attribute": '<a x="' + "y" * 5_000_000 + '">',
    "attributes": "<a " + " ".join(f"x{n}=1" for n in range(50_000)) + ">",
    "blank-preformatted": "<pre>" + " " * SIZE + "x" + " " * SIZE + "</pre>",
    "tables": repeat("<table><tr><td>"),
    "cells": "<table>" + repeat("<tr><td rowspan=99>x<td colspan=99>y"),
    "lists": repeat("<ul><li>"),
    "headings": repeat("<h1>x"),
    "mains": repeat("<main>"),
    "footers": repeat("<div><footer>x</footer>"),
    "frames": repeat("<frameset>"),
    "svg-titles": repeat("<svg><title>x</title>"),
    "self-closed": "<?xml?>" + repeat("<p "),
}
HOSTILE_MARKDOWN = {
    "comments": repeat("<!--"),
    "heading": "# a" + " " * SIZE + "b",
    "heading-marks": "# " + repeat("# "),
    "title": "---\ntitle: a" + " " * SIZE + "b\n---\n",
    "front-matter": "---\n" + "x\n" * SIZE,
    "brackets": "# " + "[" * SIZE,
    "links": "# " + repeat("[a]("),
    "empty-lines": "\n" * 1_000_000 + "end",
    "blank-lines": " \n" * 500_000 + "end",
    "spaces": "a" + " " * 5_000_000 + "b",
    "one-word": "x" * 5_000_000,
    "punctuation": "a" + "!" * SIZE + "b",
    "underline": "a\n" + "=" * SIZE + "b",
    "fences": repeat("```\n"),
    "headings": "# a\n" * 50_000,
    "wide": "茶" * 500_000,
    "lists": repeat("- "),
    "quotes": repeat("> "),
    "quoted-lists": repeat("> - ") + "\n" + repeat("b\n"),
    "table-columns": repeat("|a") + "\n" + repeat("|-") + "\n" + "|\n" * 1_000,
    "tables": repeat("|a|\n|-|\n"),
    "table-row": "|a|b|\n|-|-|\n|" + repeat("word ") + "|x|",
    "fence-mark": "`" * SIZE,
    "fence-info": "``` " + repeat("word "),
    "backticks": "".join("`" * (n % 600) + " " for n in range(600)) + "<!-- x",
    "code-spans": "a <!-- -->" + repeat("`a` ", 2_000_000),
    "comment-ends": repeat("<!-- `-->"),
    "html-lines": repeat("<div>\n\n"),
    "definitions": repeat("[a]: b\n"),
    "underlines": repeat("a\nb\n=\n"),
    "fields": "---\na: " + repeat('"\\') + "\n---\n",
}


@pytest.mark.parametrize("text", HOSTILE_HTML.values(), ids=HOSTILE_HTML)
def test_every_html_is_read_or_refused_in_time(tmp_path: Path, text: str) -> None:
    assert_read_or_refused(tmp_path / "page.html", text.encode())


@pytest.mark.parametrize("text", HOSTILE_MARKDOWN.values(), ids=HOSTILE_MARKDOWN)
def test_every_markdown_is_read_and_split_in_time(tmp_path: Path, text: str) -> None:
    assert_read_or_refused(tmp_path / "page.md", text.encode())
    assert all(len(passage.text) < 2_000 for passage in split_passages(text))


def assert_read_or_refused(path: Path, content: bytes, limits: ReadLimits = LIMITS) -> None:
    path.write_bytes(content)
    problem = text = ""
    try:
        text = files.read_document(path, limits).text
    except InvalidInput as error:
        problem = str(error)
    assert "takes longer" not in problem
    assert "crashed" not in problem
    split_passages(text)


def test_a_long_heading_is_not_repeated_in_every_passage() -> None:
    passages = split_passages("# " + "x" * SIZE + "\n\n" + "word " * 20_000)
    assert len(passages) > 100
    assert sum(len(passage.section) for passage in passages) < 100 * SIZE


def test_a_line_of_50_mb_is_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_bytes(b"word " * 10_000_000)
    with pytest.raises(InvalidInput, match="more than 10_000_000 characters"):
        files.read_document(path, LIMITS)
    path.write_bytes(b"word " * 10_000_000 + b"x")
    with pytest.raises(InvalidInput, match="larger than 50_000_000 bytes"):
        files.read_document(path, LIMITS)


@pytest.mark.parametrize(
    "content",
    [
        os.urandom(100_000),
        b"\xff\xfe" + "text".encode("utf-16-le") + b"\x00\xd8",
        b"\xfe\xff\xd8\x00" * 1000,
        b"text \xed\xa0\x80 text",
        b"\xef\xbb\xbf" + b"\xf0\x9f" * 1000,
    ],
    ids=["noise", "utf-16", "surrogates", "utf-8-surrogate", "cut"],
)
@pytest.mark.parametrize("ending", [".txt", ".md", ".html", ".pdf"])
def test_what_is_not_text_is_refused(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"file{ending}"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"binary|not UTF-(8|16)|PDF"):
        files.read_document(path, LIMITS)


# PDF


def pdf_with(stream: bytes, filters: str) -> bytes:
    page = make_pdf("PLACEHOLDER")
    plain = b"BT /F1 12 Tf 20 200 Td (PLACEHOLDER) Tj ET"
    old = b"<< /Length %d >>\nstream\n%s" % (len(plain), plain)
    assert old in page
    return page.replace(
        old, b"<< /Length %d /Filter %s >>\nstream\n%s" % (len(stream), filters.encode(), stream)
    )


def deflated(size: int) -> bytes:
    compressor = zlib.compressobj(9)
    chunk = b"0" * (1 << 20)
    parts = [compressor.compress(chunk) for _ in range(size >> 20)]
    return b"".join((*parts, compressor.flush()))


HOSTILE_PDF: dict[str, Callable[[], bytes]] = {
    "bomb": lambda: pdf_with(deflated(300 << 20), "/FlateDecode"),
    "nested-bomb": lambda: pdf_with(
        zlib.compress(deflated(300 << 20)), "[/FlateDecode /FlateDecode]"
    ),
    "run-lengths": lambda: pdf_with(b"\x81x" * 1_000_000, "[/RunLengthDecode]"),
    "pages-in-a-cycle": lambda: make_pdf("x").replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]"),
    "contents-in-a-cycle": lambda: make_pdf("x").replace(b"/Contents 5 0 R", b"/Contents 4 0 R"),
    "parent-in-a-cycle": lambda: make_pdf("x").replace(b"/Parent 2 0 R", b"/Parent 4 0 R"),
    "many-pages": lambda: make_pdf("x").replace(b"/Count 1", b"/Count 999999999"),
    "xref-in-a-cycle": lambda: make_pdf("x").replace(b"/Size 6", b"/Size 6 /Prev 9"),
    "deep-arrays": lambda: make_pdf("x").replace(b"[0 0 300 300]", b"[" * 100_000),
    "deep-dictionaries": lambda: make_pdf("x").replace(b"[0 0 300 300]", b"<</A " * 100_000),
    "deep-content": lambda: pdf_with(zlib.compress(b"[" * 1_000_000), "/FlateDecode"),
    "cut": lambda: make_pdf("x" * 100)[:300],
}


@pytest.mark.parametrize("make", HOSTILE_PDF.values(), ids=HOSTILE_PDF)
def test_every_pdf_is_read_or_refused_in_time(tmp_path: Path, make: Callable[[], bytes]) -> None:
    assert_read_or_refused(tmp_path / "paper.pdf", make())


async def test_a_pdf_with_half_a_character_in_its_title_can_be_added(tmp_path: Path) -> None:
    content = make_pdf("words").replace(b"/Size 6", b"/Size 6 /Info << /Title <FEFFD8000041> >>")
    path = tmp_path / "paper.pdf"
    path.write_bytes(content)
    base = SqliteKnowledge(tmp_path / "knowledge.sqlite")
    await base.start()
    try:
        document = await asyncio.to_thread(files.read_document, path, LIMITS)
        assert await base.add("default", [document]) == 1
    finally:
        await base.close()


# The process

EVIL = """
import os, socket, sys
from palaver_plugins.knowledge import reader_process

def attempt(action):
    try:
        action()
    except OSError as error:
        return f"refused ({error.strerror})"
    return "allowed"

def read(content, limit):
    return "", " ".join((
        attempt(lambda: open("/etc/hostname")),
        attempt(lambda: open("/tmp/palaver-written", "w")),
        attempt(lambda: socket.socket()),
        attempt(lambda: os.pipe()),
    ))

reader_process.READERS = {".evil": read}
reader_process.main(*sys.argv[1:])
"""


def test_the_reading_process_can_open_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVIL, ".evil", str(1 << 30), "10", "10", "1000", "10000"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.decode().count("refused (Too many open files)") == 4
    assert "allowed" not in done.stdout.decode()


FLOOD = """
import os, sys
from palaver_plugins.knowledge import reader_process

def read(content, limit):
    while True:
        os.write(1, b"x" * 1_000)

reader_process.READERS = {".evil": read}
reader_process.main(*sys.argv[1:])
"""


def test_the_reading_process_cannot_write_more_than_its_limit() -> None:
    with os.fdopen(os.memfd_create("flood"), "rb") as output:
        done = subprocess.run(
            [sys.executable, "-c", FLOOD, ".evil", str(1 << 30), "10", "10", "1000", "20000"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
        assert b"File too large" in done.stderr
        assert os.fstat(output.fileno()).st_size == 20_000


def test_the_reading_process_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_KEY", "canary")
    monkeypatch.setenv("HF_TOKEN", "canary")
    assert "canary" not in files.reader_environment().values()


def test_a_crash_of_the_reading_process_is_a_reason() -> None:
    with pytest.raises(InvalidInput, match=r"crashed \(SIGSEGV\)"):
        files.decode_answer(b"", b"", -11)
    with pytest.raises(InvalidInput, match=r"crashed \(code 1\)"):
        files.decode_answer(b'{"title": ""}\n', b"cut", 1)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(InvalidInput, match="not a regular file"):
        files.read_document(tmp_path / "pipe.txt", LIMITS)


def test_a_link_out_of_a_folder_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "inside.txt").write_text("text")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "link.txt").symlink_to(folder / "inside.txt")
    found = [path.name for path in files.find_files([folder])]
    assert found == ["inside.txt", "link.txt"]


def test_a_folder_with_loops_and_depths_ends(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("words")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "b.txt").write_text("words")
    (tmp_path / "inner" / "up").symlink_to("..")
    (tmp_path / "self.md").symlink_to("self.md")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.md").write_text("words")
    os.mkfifo(tmp_path / "pipe.md")
    with deep_folders(tmp_path / "deep"):
        found = list(files.find_files([tmp_path]))
    assert found == [tmp_path / "a.md", tmp_path / "inner" / "b.txt"]


def test_readers_are_those_of_the_documentation() -> None:
    assert set(reader_process.READERS) >= {".md", ".txt", ".html", ".pdf"}


# Commands and their settings


def add(tmp_path: Path, *overrides: str) -> Result:
    console = Console(None, (f"server.data={tmp_path / 'data'}", *overrides))
    paths = [str(path) for path in sorted(tmp_path.glob("*.*"))]
    return CliRunner().invoke(knowledge, ["add", *paths], obj=console)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("knowledge.read_timeout=0.001", "takes longer than 0.001 s"),
        ("knowledge.read_memory_mib=64", "needs more than 64 MiB of memory"),
        ("knowledge.max_file_bytes=1000", "is larger than 1_000 bytes"),
        ("knowledge.max_text_characters=1000", "more than 1_000 characters"),
    ],
)
def test_a_limit_is_a_setting_and_refuses_by_name(
    tmp_path: Path, setting: str, problem: str
) -> None:
    (tmp_path / "large.txt").write_bytes(
        b"word " * 8_000_000 if "memory" in setting else b"w" * 2000
    )
    added = add(tmp_path, setting)
    assert added.exit_code == 2
    assert "large.txt: " in added.output
    assert problem in added.output


@pytest.mark.parametrize(
    "name", ["x" * 5000, "missing.md", "a.md/b.md", "loop.md", os.fsdecode(b"\xff.md")], ids=ascii
)
def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.md").write_text("words")
    (tmp_path / "loop.md").symlink_to("loop.md")
    console = Console(None, (f"server.data={tmp_path / 'data'}",))
    paths = [str(tmp_path / name), str(tmp_path / "a.md")]
    added = CliRunner().invoke(knowledge, ["add", *paths], obj=console)
    assert added.exit_code == 2
    assert "Added 1 document with" in added.output
    assert f"Not added: {tmp_path}" in added.output


def test_the_other_files_of_a_batch_are_added(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.pdf").write_bytes(HOSTILE_PDF["pages-in-a-cycle"]())
    (tmp_path / "c.txt").write_text("good")
    (tmp_path / os.fsdecode(b"d\xff.txt")).write_text("a name that is not UTF-8")
    added = add(tmp_path)
    assert added.exit_code == 2
    assert "Added 2 documents" in added.output
    assert "b.pdf: " in added.output
    assert "its name is not UTF-8" in added.output


async def test_a_text_with_half_a_character_is_refused(tmp_path: Path) -> None:
    base = SqliteKnowledge(tmp_path / "knowledge.sqlite")
    await base.start()
    try:
        for id, title, text in (("\ud800", "", "a"), ("a", "\ud800", "a"), ("a", "", "\udfff")):
            with pytest.raises(InvalidInput, match="half of a surrogate pair"):
                await base.add("default", [Document(id=id, title=title, text=text)])
        assert await base.documents("default") == ()
    finally:
        await base.close()


# Questions


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "a " * 500_000, "茶" * 1_000_000, "'\"(*" * 250_000]
)
def test_a_long_question_has_few_terms(text: str) -> None:
    terms = query_terms(text)
    assert len(terms) <= MAX_QUERY_TERMS
    assert sum(map(len, terms)) < 10_000
