"""Reading files as documents."""

from pathlib import Path

import pytest
from tests.plugins.knowledge.pdf import make_pdf

from palaver import InvalidInput
from palaver_plugins.knowledge import files

pytestmark = pytest.mark.slow


def write_file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("# Hello #\n\ntext", "Hello"),
        ('---\ntitle: "From the front"\n---\n# Hello\ntext', "From the front"),
        ("text without a heading", "note"),
        ("\ufeff---\r\ntitle: From the front\r\n---\r\n# Hello\r\ntext", "From the front"),
        ("\ufeff# Hello\r\n\r\ntext\r\n", "Hello"),
    ],
)
def test_markdown_has_a_title(tmp_path: Path, content: str, title: str) -> None:
    document = files.read_document(write_file(tmp_path, "note.md", content))
    assert document.title == title
    assert "title:" not in document.text


def test_comments_in_markdown_are_left_out(tmp_path: Path) -> None:
    document = files.read_document(write_file(tmp_path, "a.md", "a <!-- secret --> b"))
    assert "secret" not in document.text


def test_html_becomes_text_with_headings(tmp_path: Path) -> None:
    page = """<html><head><title> The
      page </title><style>p { color: red }</style></head><body><nav>Home</nav>
      <h1>Top</h1><p>Some <b>bold</b> text &amp; more.</p><script>alert(1)</script>
      <h2>List</h2><ul><li>one</li><li>two</li></ul><pre>a
  b</pre></body></html>"""
    document = files.read_document(write_file(tmp_path, "page.html", page))
    assert document.title == "The page"
    assert document.text == (
        "# Top\n\nSome bold text & more.\n\n## List\n\n- one\n- two\n\n```\na\n  b\n```"
    )


@pytest.mark.parametrize("encoding", ["iso-8859-2", "ibm852", "windows-1250"])
def test_any_declared_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    page = f"<meta charset={encoding}><p>Žluťoučký kůň"
    path = write_file(tmp_path, "page.html", page.encode(encoding))
    assert files.read_document(path).text == "Žluťoučký kůň"


def test_pdf_becomes_a_section_per_page(tmp_path: Path) -> None:
    document = files.read_document(
        write_file(tmp_path, "paper.pdf", make_pdf("First words", "Second words"))
    )
    assert document.text == "## Page 1\n\nFirst words\n\n## Page 2\n\nSecond words"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.odt", b"x", "cannot be read; these can: .docx"),
        ("a.txt", b"\0\1\2", "binary"),
        ("a.txt", b"\xef\xbb\xbfcaf\xe9", "not UTF-8 text (byte 3)"),
        ("a.txt", b"\xff\xfe\x00\xd8a\x00", "not UTF-16-LE text (byte 0)"),
        ("a.md", "\ufeff\u200b \u00ad\n".encode(), "no text"),
        ("a.md", b"---\ntitle: x\n---\n<!-- y -->\n", "no text"),
        ("a.html", b"<p hidden>x</p>&nbsp;<template>y</template>", "no text"),
        ("a.html", b"<frameset><frame src=x.html></frameset>", "only frames: x.html"),
        ("a.md", b" \n", "no text"),
        ("a.html", b"<script>x</script>", "no text"),
        ("a.pdf", b"%PDF-1.4 nonsense", "not a PDF"),
        ("a.docx", b"x", "damaged Word file"),
    ],
)
def test_an_unreadable_file_is_refused_with_a_reason(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    path = write_file(tmp_path, name, content)
    with pytest.raises(InvalidInput) as caught:
        files.read_document(path)
    assert problem in str(caught.value)


def test_a_missing_file_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        files.read_document(tmp_path / "missing.md")


def test_folders_are_searched_and_hidden_files_left_out(tmp_path: Path) -> None:
    for name in ("b.md", "sub/a.txt", "image.png", ".git/x.md", ".hidden.md"):
        write_file(tmp_path, name, "text")
    named = write_file(tmp_path, "odd.odt", "x")
    found = [path.relative_to(tmp_path).as_posix() for path in files.find_files([tmp_path, named])]
    assert found == ["b.md", "sub/a.txt", "odd.odt"]
