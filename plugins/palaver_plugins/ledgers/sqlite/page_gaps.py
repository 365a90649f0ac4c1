"""Unused space inside of the pages of the SQLite ledger's file.

SQLite overwrites what it deletes (``secure_delete``), but not the copies of rows that it leaves in
the unused space of a page when it moves them to another one. See
https://www.sqlite.org/fileformat2.html#b_tree_pages.
"""

import os
import struct

_TABLE_OR_INDEX = {2: 12, 5: 12, 10: 8, 13: 8}
"""Length of the header of a b-tree page, by the type in its first byte."""
_MAX_PAGES = 1 << 25
"""In a larger file, the first byte of another page could be such a type."""
_HEADER = struct.Struct(">BxxHH")
_FILE_HEADER = 100


def zero_gaps(file: int, page_size: int, first: int, count: int) -> int | None:
    """Overwrite the unused space of some pages; return the next page, or None at the end.

    ``file`` is the descriptor of a database with an empty log, ``first`` counts from 0. Nothing may
    write to the database meanwhile, and its connection must have no page in its cache.
    """
    data = os.pread(file, count * page_size, first * page_size)
    pages = len(data) // page_size
    if not pages or first + pages > _MAX_PAGES:
        return None
    found = False
    for number in range(pages):
        start, end = _gap(data, number * page_size, page_size, is_first=first + number == 0)
        gap = data[start:end]
        if gap.strip(b"\0"):
            os.pwrite(file, bytes(len(gap)), first * page_size + start)
            found = True
    if found:
        os.fdatasync(file)
    return first + pages if pages == count else None


def _gap(data: bytes, page: int, page_size: int, *, is_first: bool) -> tuple[int, int]:
    """Return where the unused space between the cell pointers and the cells begins and ends; an
    empty range when the page is no b-tree page."""
    header = page + (_FILE_HEADER if is_first else 0)
    kind, cells, content = _HEADER.unpack_from(data, header)
    if kind not in _TABLE_OR_INDEX:
        return page, page
    start = header + _TABLE_OR_INDEX[kind] + 2 * cells
    end = page + (content or 65_536)
    return (start, end) if start <= end <= page + page_size else (page, page)
