"""Media types are found in the content; names and claims do not matter."""

import io
import zipfile

import pytest

from palaver.files.media_types import EXCERPT_BYTES, SAFE_IMAGES, UNKNOWN, ContentInspector

OFFICE = "application/vnd.openxmlformats-officedocument"


def archive(*names: str, first: tuple[str, str] | None = None, padding: int = 0) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as written:
        if first is not None:
            written.writestr(*first)
        for name in names:
            written.writestr(name, padding * "x")
    return content.getvalue()


TYPES: dict[str, tuple[bytes, str]] = {
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(20), "image/png"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF\0\1" + bytes(50), "image/jpeg"),
    "gif": (b"GIF89a\1\0\1\0" + bytes(20), "image/gif"),
    "webp": (b"RIFF\x20\0\0\0WEBPVP8 " + bytes(20), "image/webp"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
    "pdf of ASCII": (b"%PDF-1.4\n1 0 obj\n", "application/pdf"),
    "text": (b"Hello\nworld\n", "text/plain"),
    "UTF-8": ("Grüße 🌊".encode(), "text/plain"),
    "Latin-1": ("Grüße".encode("latin-1"), "text/plain"),
    "UTF-16": ("Grüße".encode("utf-16"), "text/plain"),
    "UTF-16 of the other order": (b"\xfe\xff" + "Grüße".encode("utf-16-be"), "text/plain"),
    "half of UTF-16": (b"\xff\xfe\0", UNKNOWN),
    "half of a pair": (b"\xff\xfe" + b"\x00\xd8a\0", UNKNOWN),
    "one byte": (b"x", "text/plain"),
    "one zero": (b"\0", UNKNOWN),
    "coloured log": (b"\x1b[31mred\x1b[0m", "text/plain"),
    "text like a bitmap": (b"BMW is a car", "text/plain"),
    "html": (b"<!DOCTYPE html><html><script>", "text/html"),
    "html after a comment": (b"\n<!-- c -->\n<HTML lang=en>", "text/html"),
    "markup without html": (b"<b>x</b>", "text/plain"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", "text/plain"),
    "xml": (b"<?xml version='1.0'?><a/>", "text/plain"),
    "docx": (
        archive("[Content_Types].xml", "word/document.xml"),
        f"{OFFICE}.wordprocessingml.document",
    ),
    "large docx": (
        archive("[Content_Types].xml", "word/document.xml", padding=3 * EXCERPT_BYTES),
        f"{OFFICE}.wordprocessingml.document",
    ),
    "xlsx": (
        archive("[Content_Types].xml", "xl/workbook.xml"),
        f"{OFFICE}.spreadsheetml.sheet",
    ),
    "odt": (
        archive("content.xml", first=("mimetype", "application/vnd.oasis.opendocument.text")),
        "application/vnd.oasis.opendocument.text",
    ),
    "zip": (archive("a", "b"), "application/zip"),
    "zip named as text": (archive("word/a"), "application/zip"),
    "noise": (bytes(range(256)) * 300, UNKNOWN),
    "zeros": (bytes(1000), UNKNOWN),
    "empty": (b"", "text/plain"),
    "text with a zero at its end": (100_000 * b"a" + b"\0", UNKNOWN),
}


@pytest.mark.parametrize("step", [1, 7, 65_536, 10**9])
@pytest.mark.parametrize(("content", "media_type"), TYPES.values(), ids=list(TYPES))
def test_the_type_is_that_of_the_content(content: bytes, media_type: str, step: int) -> None:
    if step == 1 and len(content) > 10_000:
        step = 4_093
    inspector = ContentInspector()
    for start in range(0, len(content), step):
        inspector.feed(content[start : start + step])
    assert inspector.media_type() == media_type


def test_no_type_that_can_run_is_shown_as_an_image() -> None:
    assert {"image/svg+xml", "text/html"}.isdisjoint(SAFE_IMAGES)
