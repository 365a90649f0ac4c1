"""Scrubbing: no byte of the file may keep the words of a removed document.

Deleted rows are overwritten at once (``secure_delete``), but a full-text table keeps the words of
deleted rows until its segments are merged, and the write-ahead log the pages of before. So the
transaction that removes words notes their tenant in ``scrubs``; the note stays until the tenant's
full-text table is merged and the log is empty, through a crash too.
"""

import sqlite3
from collections.abc import Iterable

CREATE_SCRUBS = "CREATE TABLE IF NOT EXISTS scrubs (tenant INTEGER PRIMARY KEY) WITHOUT ROWID;"


def note_removal(db: sqlite3.Connection, tenants: Iterable[int]) -> None:
    """Note in the current transaction that words of these tenants are removed."""
    db.executemany("INSERT OR IGNORE INTO scrubs VALUES (?)", [(tenant,) for tenant in tenants])


def scrub(db: sqlite3.Connection) -> bool:
    """Remove what is left of removed words. Return False while another program reads the log."""
    tenants = [tenant for (tenant,) in db.execute("SELECT tenant FROM scrubs")]
    if not tenants:
        return True
    for tenant in tenants:
        db.execute(f"INSERT INTO terms_{tenant} (terms_{tenant}) VALUES ('optimize')")
    db.executescript("PRAGMA incremental_vacuum")  # `execute` would free a single page
    (busy, *_) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if not busy:
        db.executemany("DELETE FROM scrubs WHERE tenant = ?", [(tenant,) for tenant in tenants])
    return not busy
