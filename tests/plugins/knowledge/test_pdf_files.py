"""PDF files: pages without text, two columns, encryption."""

import io
from pathlib import Path

import pypdf
import pytest
from tests.plugins.knowledge.pdf import make_pdf, make_pdf_of_rows, make_pdf_of_streams

from palaver import InvalidInput
from palaver_plugins.knowledge import files
from palaver_plugins.knowledge.pdf_files import clean_title
from palaver_plugins.knowledge.reader_process import shorten_title

pytestmark = pytest.mark.slow

IMAGE = "q 100 0 0 100 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID x EI Q"
LEFT = [f"The left column has line {number}" for number in range(6)]
RIGHT = [f"On the right follows line {number}" for number in range(6)]


def read(folder: Path, content: bytes) -> files.FileContent:
    path = folder / "paper.pdf"
    path.write_bytes(content)
    return files.read_file(path)


def test_a_pdf_of_images_contains_no_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="contains no text: its pages are images or empty"):
        read(tmp_path, make_pdf_of_streams(IMAGE, IMAGE))


def test_pages_without_text_are_named(tmp_path: Path) -> None:
    word = "BT /F1 12 Tf 20 200 Td (words) Tj ET"
    content = read(tmp_path, make_pdf_of_streams(word, IMAGE, IMAGE, IMAGE, word, IMAGE))
    assert content.text == "## Page 1\n\nwords\n\n## Page 5\n\nwords"
    assert content.notes == ("pages 2-4, 6 hold no text, perhaps an image that needs OCR",)
    content = read(tmp_path, make_pdf_of_streams(word, IMAGE))
    assert content.notes == ("page 2 holds no text, perhaps an image that needs OCR",)


def test_a_broken_page_does_not_spoil_the_others(tmp_path: Path) -> None:
    content = make_pdf("first", "second", "third").replace(b"/Contents 7 0 R", b"/Contents (odd)")
    whole = read(tmp_path, content)
    assert whole.text == "## Page 1\n\nfirst\n\n## Page 3\n\nthird"
    [note] = whole.notes
    assert note.startswith("page 2 ")
    assert read(tmp_path, make_pdf("words").replace(b"/MediaBox", b"/Other___")).text.endswith(
        "words"
    )


@pytest.mark.parametrize("is_moved", [False, True])
def test_two_columns_are_read_one_after_the_other(tmp_path: Path, is_moved: bool) -> None:
    rows = [((20, left), (160, right)) for left, right in zip(LEFT, RIGHT, strict=True)]
    title = "A title that goes over both of the columns, as long as it is, and then still longer"
    content = read(tmp_path, make_pdf_of_rows(((20, title),), *rows, is_moved=is_moved))
    assert content.text == "\n".join(["## Page 1\n", title, *LEFT, *RIGHT])
    assert content.notes == (
        "page 1 is read as two columns, the left column first; the order may be wrong",
    )


def test_columns_that_are_in_order_stay_so(tmp_path: Path) -> None:
    shown = [
        f"BT /F1 6 Tf 1 0 0 1 {x} {280 - 14 * number} Tm ({line}) Tj ET"
        for x, lines in ((20, LEFT), (160, RIGHT))
        for number, line in enumerate(lines)
    ]
    content = read(tmp_path, make_pdf_of_streams("\n".join(shown)))
    assert content.text == "\n".join(["## Page 1\n", *LEFT, *RIGHT])
    assert content.notes == ()


def test_a_table_of_short_cells_is_read_by_rows(tmp_path: Path) -> None:
    rows = [((20, f"Name {number}"), (160, f"Value {number}")) for number in range(6)]
    content = read(tmp_path, make_pdf_of_rows(*rows))
    assert "Name 3 Value 3" in content.text
    assert content.notes == ()


def encrypted(password: str) -> bytes:
    writer = pypdf.PdfWriter(io.BytesIO(make_pdf("words")))
    writer.encrypt(password, "owner", algorithm="AES-256")
    output = io.BytesIO()
    writer.write(output)
    return output.getvalue()


def test_an_encrypted_pdf_is_read_or_refused_by_name(tmp_path: Path) -> None:
    assert read(tmp_path, encrypted("")).text == "## Page 1\n\nwords"
    with pytest.raises(InvalidInput, match="needs a password"):
        read(tmp_path, encrypted("secret"))


def test_without_cryptography_the_reason_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encrypted("")
    for name in ("cryptography", "Crypto"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(InvalidInput, match=r"pip install 'palaver-server\[pdf\]'"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("written", "title"),
    [
        ("untitled", ""),
        ("(anonymous)", ""),
        ("Microsoft Word - Plan.doc", "Plan.doc"),
        ("Microsoft Word - C:\\My Files\\Plan.doc", ""),
        ("/home/me/My files/plan.pdf", ""),
        ("Document1", ""),
        ("Untitled songs", "Untitled songs"),
        ("/help in version 2.0", "/help in version 2.0"),
    ],
)
def test_a_title_that_no_person_has_written_is_left_out(written: str, title: str) -> None:
    assert shorten_title(clean_title(written)) == title


def test_a_title_that_is_a_path_is_left_out(tmp_path: Path) -> None:
    info = b"/Size 6 /Info << /Title (/srv/secret/report.doc) >>"
    assert read(tmp_path, make_pdf("words").replace(b"/Size 6", info)).title == "paper"
    info = b"/Size 6 /Info << /Title (A report) >>"
    assert read(tmp_path, make_pdf("words").replace(b"/Size 6", info)).title == "A report"
