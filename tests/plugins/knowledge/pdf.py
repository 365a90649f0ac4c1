"""Minimal PDF files with text."""


def make_pdf(*pages: str) -> bytes:
    """Return a PDF with one page per text. The texts must not contain brackets."""
    return make_pdf_of_streams(*(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET" for text in pages))


def make_pdf_of_rows(*rows: tuple[tuple[int, str], ...], is_moved: bool = False) -> bytes:
    """Return a PDF with one page of rows, each with texts at their places from the left.

    ``is_moved``: the texts of a row are shown in one text object, as other programs do.
    """
    shown: list[str] = []
    for number, row in enumerate(rows):
        at, (first, *others) = 280 - 14 * number, row
        shown.append(f"BT /F1 6 Tf 1 0 0 1 {first[0]} {at} Tm ({first[1]}) Tj")
        for place, text in others:
            move = f"{place - first[0]} 0 Td" if is_moved else f"1 0 0 1 {place} {at} Tm"
            shown.append(f"{move} ({text}) Tj" if is_moved else f"ET BT {move} ({text}) Tj")
        shown.append("ET")
    return make_pdf_of_streams("\n".join(shown))


def make_pdf_of_streams(*streams: str) -> bytes:
    """Return a PDF with one page per content stream."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(streams)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(streams)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for index, content in enumerate(streams):
        objects.append(
            (
                "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300]"
                f" /Contents {5 + 2 * index} 0 R"
                " /Resources << /Font << /F1 3 0 R >> >> >>"
            ).encode()
        )
        stream = content.encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    return _assemble(objects)


def _assemble(objects: list[bytes]) -> bytes:
    body = b"%PDF-1.4\n"
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    count = len(objects) + 1
    return (
        body
        + b"xref\n0 %d\n0000000000 65535 f \n%s" % (count, table)
        + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (count, len(body))
    )
