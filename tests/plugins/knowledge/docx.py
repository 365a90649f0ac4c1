"""Word files for tests."""

import io
import zipfile
from xml.sax.saxutils import escape

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TYPES = "[Content_Types].xml"


def paragraph(text: str, style: str = "", *, is_item: bool = False) -> str:
    """Return the XML of a paragraph."""
    about = f'<w:pStyle w:val="{style}"/>' if style else ""
    about += '<w:numPr><w:ilvl w:val="0"/></w:numPr>' if is_item else ""
    return f"<w:p><w:pPr>{about}</w:pPr><w:r><w:t>{escape(text)}</w:t></w:r></w:p>"


def table(*rows: tuple[str, ...]) -> str:
    """Return the XML of a table."""
    cells = ["".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows]
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def make_docx(*blocks: str, title: str = "", head: str = "", **parts: bytes) -> bytes:
    """Return a Word file of blocks of XML; ``head`` precedes the document."""
    body = f'{head}<w:document xmlns:w="{WORD}"><w:body>{"".join(blocks)}</w:body></w:document>'
    core = (
        '<c:coreProperties xmlns:c="http://schemas.openxmlformats.org/package/2006/metadata/'
        'core-properties" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>{escape(title)}</dc:title></c:coreProperties>"
    )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(TYPES, "<Types/>")
        archive.writestr("word/document.xml", body)
        archive.writestr("docProps/core.xml", core)
        for name, part in parts.items():
            archive.writestr(name, part)
    return content.getvalue()
