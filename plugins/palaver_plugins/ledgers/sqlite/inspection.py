"""Inspection of the SQLite ledger's file without a change to it."""

import fcntl
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from palaver import SteadyClock
from palaver_plugins.ledgers.sqlite.retention_clock import read_problem
from palaver_plugins.ledgers.sqlite.schema import check_directory, check_format, in_use, unusable


def inspect_file(path: Path, data: Path, clock: SteadyClock) -> str:
    """Check that a server could open the file; return what is strange about the clock, if anything.
    ``data`` is the directory that the server would create.

    Raises `LedgerInUse` when another server uses the file, `ConfigurationError` when it cannot be
    opened.
    """
    if path.parent != data:
        check_directory(path)
    if not path.exists():
        return ""
    _check_lock(path)
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise unusable(path, "it is not readable and writable")
    # immutable: SQLite would otherwise create the write-ahead log's files.
    address = f"file:{quote(str(path))}?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(address, uri=True)
        try:
            return read_problem(connection, clock) if check_format(connection, path) else ""
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise unusable(path, str(error)) from error


def _check_lock(path: Path) -> None:
    try:
        file = os.open(f"{path}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unusable(path, error.strerror or str(error)) from error
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        raise in_use(path) from error
    finally:
        os.close(file)
