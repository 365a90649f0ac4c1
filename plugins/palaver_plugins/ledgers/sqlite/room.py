"""Room for more in the SQLite ledger: the limits beyond which it accepts no messages.

What is left then is a reserve: running turns write and end, and erasures make room.
"""

import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

RESERVED_SHARE = 0.1
"""Share of ``max_bytes`` that is left to running turns and erasures."""


class RoomLimits(NamedTuple):
    """Limits of a file: its size, and the bytes that stay free on its disk."""

    max_bytes: int | None = None
    min_free_bytes: int = 0

    def apply(self, connection: sqlite3.Connection) -> None:
        """Let SQLite itself enforce the size."""
        if self.max_bytes is not None:
            pages = self.max_bytes // _page_size(connection)
            connection.execute(f"PRAGMA max_page_count = {max(pages, 1)}")

    def problem(self, connection: sqlite3.Connection, path: Path) -> str:
        """Return why no more messages are accepted, or an empty string."""
        disk = os.statvfs(path.parent)
        free = disk.f_bavail * disk.f_frsize
        if self.max_bytes is None and free >= self.min_free_bytes:
            return ""
        page = _page_size(connection)
        unused = _pragma(connection, "freelist_count") * page
        used = _pragma(connection, "page_count") * page - unused
        if self.max_bytes is not None and used > self.max_bytes * (1 - RESERVED_SHARE):
            return f"it has {used} bytes, of {self.max_bytes} (max_bytes)"
        if free + unused < self.min_free_bytes:
            return f"{free} bytes are free on its disk (min_free_bytes = {self.min_free_bytes})"
        return ""


def _page_size(connection: sqlite3.Connection) -> int:
    return _pragma(connection, "page_size")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
