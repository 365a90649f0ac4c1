"""Reading files as documents."""

from pathlib import Path

import pytest
from tests.plugins.knowledge.pdf import make_pdf

from palaver import InvalidInput
from palaver_plugins.knowledge import files


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
        "# Top\n\nSome bold text & more.\n\n## List\n\n- one\n\n- two\n\na\n  b"
    )


def test_pdf_becomes_a_section_per_page(tmp_path: Path) -> None:
    document = files.read_document(
        write_file(tmp_path, "paper.pdf", make_pdf("First words", "Second words"))
    )
    assert document.text == "## Page 1\n\nFirst words\n\n## Page 2\n\nSecond words"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.docx", b"x", "cannot be read; these can: .htm"),
        ("a.txt", b"\0\1\2", "binary"),
        ("a.txt", b"caf\xe9", "not UTF-8 text (byte 3)"),
        ("a.md", b" \n", "no text"),
        ("a.html", b"<script>x</script>", "no text"),
        ("a.pdf", b"%PDF-1.4 nonsense", "not a PDF"),
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
    named = write_file(tmp_path, "odd.docx", "x")
    found = [path.relative_to(tmp_path).as_posix() for path in files.find_files([tmp_path, named])]
    assert found == ["b.md", "sub/a.txt", "odd.docx"]
