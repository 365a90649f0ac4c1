"""Word files become Markdown; damaged and hostile ones are refused with a reason."""

import io
import zipfile
from pathlib import Path

import pytest
from tests.plugins.knowledge.docx import make_docx, paragraph, table
from tests.plugins.knowledge.pdf import make_pdf

from palaver import Document, DocumentReader, InvalidInput, ReadLimits
from palaver_plugins.knowledge import docx_files
from palaver_plugins.knowledge.files import read_content
from palaver_plugins.knowledge.sqlite import SqliteKnowledge

pytestmark = pytest.mark.slow

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
LIMITS = ReadLimits(timeout=20.0, memory=512 << 20)


def text_of(*blocks: str, limit: int = 10_000) -> str:
    return docx_files.read_docx(make_docx(*blocks), limit)[1]


def test_headings_lists_and_tables_are_kept() -> None:
    title, text = docx_files.read_docx(
        make_docx(
            paragraph("Handbook", "Title"),
            paragraph("Leave", "Heading1"),
            paragraph("Notice", "berschrift2"),
            paragraph("You have 30 days & more."),
            paragraph(""),
            paragraph("first", is_item=True),
            table(("Day", "Hours"), ("Mon|day", "8")),
            title="The Handbook",
        ),
        10_000,
    )
    assert title == "The Handbook"
    assert text.split("\n\n") == [
        "# Handbook",
        "# Leave",
        "## Notice",
        "You have 30 days & more.",
        "- first",
        "| Day | Hours |\n| --- | --- |\n| Mon\\|day | 8 |",
    ]


def test_deleted_words_fields_and_older_forms_are_left_out() -> None:
    runs = (
        "<w:p><w:r><w:t>kept</w:t><w:tab/><w:t>too</w:t><w:br/></w:r>"
        "<w:del><w:r><w:delText>gone</w:delText><w:t>gone</w:t></w:r></w:del>"
        "<w:ins><w:r><w:t>new</w:t></w:r></w:ins>"
        "<w:r><w:instrText>PAGE</w:instrText></w:r>"
        '<mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        "<mc:Choice><w:r><w:t>!</w:t></w:r></mc:Choice>"
        "<mc:Fallback><w:r><w:t>twice</w:t></w:r></mc:Fallback></mc:AlternateContent></w:p>"
    )
    assert text_of(runs) == "kept\ttoo\nnew!"


def test_text_inside_of_other_elements_is_read() -> None:
    wrapped = f"<w:sdt><w:sdtContent>{paragraph('inside')}</w:sdtContent></w:sdt>"
    assert text_of(paragraph("a"), wrapped) == "a\n\ninside"


def test_reading_ends_after_the_limit() -> None:
    text = text_of(*(paragraph("x" * 100) for _ in range(1_000)), limit=1_000)
    assert 1_000 < len(text) < 1_500


ENTITIES = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(8))
    + "]>"
)


def without_text() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("other.xml", "<x/>")
    return content.getvalue()


HOSTILE = {
    "no archive": b"PK\x03\x04 nonsense",
    "empty": b"",
    "cut": make_docx(paragraph("x" * 10_000))[:300],
    "without its text": without_text(),
    "malformed": make_docx("<w:p>"),
    "entities": make_docx(paragraph("x"), head=ENTITIES),
    "without words": make_docx(paragraph("")),
    "deep": make_docx("<w:sdt>" * 100_000 + "</w:sdt>" * 100_000),
    "bomb": make_docx(paragraph(400_000_000 * " ")),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_file_is_refused_with_a_reason(content: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_content("a.docx", DOCX, content, LIMITS)
    assert str(caught.value)
    assert "Traceback" not in str(caught.value)


# Files that people send


@pytest.mark.parametrize(
    ("name", "media_type", "content", "text"),
    [
        ("a.txt", "text/plain", "Grüße".encode("latin-1"), "Grüße"),
        ("a.md", "text/plain", b"---\ntitle: T\n---\n# Head\n", "# Head"),
        ("a.exe", "text/plain", b"words", "words"),
        ("a.pdf", "text/plain", b"words", "words"),
        ("a.html", "text/plain", b"<p>words</p>", "words"),
        ("a", "text/html", b"<!doctype html><p>words</p><script>x</script>", "words"),
        ("a.txt", "application/pdf", make_pdf("words"), "## Page 1\n\nwords"),
        ("a", DOCX, make_docx(paragraph("words")), "words"),
    ],
)
def test_the_type_decides_how_a_file_is_read(
    name: str, media_type: str, content: bytes, text: str
) -> None:
    assert read_content(name, media_type, content, LIMITS).text.strip() == text


@pytest.mark.parametrize("media_type", ["image/png", "application/zip", "application/octet-stream"])
def test_a_file_without_a_reader_is_refused(media_type: str) -> None:
    with pytest.raises(InvalidInput, match=media_type):
        read_content("a.txt", media_type, b"words", LIMITS)


def test_a_file_above_the_limit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="larger than 3 bytes"):
        read_content("a.txt", "text/plain", b"words", ReadLimits(file_bytes=3))


async def test_the_knowledge_base_reads_files_and_searches_in_them(tmp_path: Path) -> None:
    base = SqliteKnowledge(tmp_path / "k.sqlite")
    assert isinstance(base, DocumentReader)
    await base.start()
    try:
        content = make_docx(
            paragraph("Leave", "Heading1"),
            paragraph("Everyone has 30 days of leave."),
            paragraph("Repairs", "Heading1"),
            paragraph("A repair takes two weeks."),
        )
        document = await base.read_file("Handbook.docx", DOCX, content, LIMITS)
        assert (document.name, document.title) == ("Handbook.docx", "Handbook")
        other = Document(id="2", name="notes.txt", title="Notes", text="Nothing of interest.")
        [passage] = await base.search_in([document, other], "how long does a repair take?", 1)
        assert (passage.document, passage.section) == ("Handbook.docx", "Repairs")
        assert passage.text == "A repair takes two weeks."
        assert await base.search_in([other], "repair", 4) == ()
        assert await base.search_in([], "repair", 4) == ()
        assert await base.documents("default") == ()
    finally:
        await base.close()
