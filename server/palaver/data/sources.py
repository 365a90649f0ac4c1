"""Sources: the raw rows of files, read one after the other in bounded memory."""

import contextlib
import csv
import gzip
import io
import json
import lzma
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote

from palaver.errors import InvalidInput
from palaver.evaluation.libraries import load_library

RawRow = dict[str, Any]  # Any: JSON values
BATCH_ROWS = 1_000
MAX_FIELD = 100_000_000
"""Characters of one field of a CSV file."""
FORMATS = (".csv", ".jsonl", ".parquet")
_ERRORS = (OSError, EOFError, ValueError, csv.Error, lzma.LZMAError, zlib.error, sqlite3.Error)


def read_file(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a file by its ending. Raises `InvalidInput` for what is none."""
    try:
        yield from _read(path)
    except _ERRORS as error:
        raise InvalidInput(f"{str(path)!r} cannot be read: {error}") from error


def _read(path: Path) -> Iterator[RawRow]:
    is_compressed = path.suffix in _OPENERS
    name = path.with_suffix("") if is_compressed else path
    open_file = _OPENERS[path.suffix] if is_compressed else _open_plain
    match name.suffix:
        case ".csv":
            csv.field_size_limit(MAX_FIELD)
            with open_file(path) as stream:
                text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
                yield from csv.DictReader(text, strict=True)
        case ".jsonl":
            with open_file(path) as stream:
                yield from _read_lines(stream)
        case ".parquet":
            parquet = load_library("pyarrow.parquet", extra="data")
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    yield from batch.to_pylist()
        case _:
            raise ValueError(f"{path.name} is none of {', '.join(FORMATS)}, with .gz, .xz or .zst")


def _read_lines(stream: IO[bytes]) -> Iterator[RawRow]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            yield row


def _open_plain(path: Path) -> IO[bytes]:
    return open(path, "rb")


def _open_gzip(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path))


def _open_xz(path: Path) -> IO[bytes]:
    return lzma.open(path)


def _open_zstd(path: Path) -> IO[bytes]:
    arrow = load_library("pyarrow", extra="data")
    return io.BufferedReader(arrow.input_stream(str(path), compression="zstd"))


_OPENERS: Mapping[str, Callable[[Path], IO[bytes]]] = {
    ".gz": _open_gzip,
    ".xz": _open_xz,
    ".zst": _open_zstd,
}


def read_sqlite(path: Path, query: str) -> Iterator[RawRow]:
    """Yield the rows of a query, which can change nothing. Raises `InvalidInput`."""
    address = f"file:{quote(str(path))}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description or ()]
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield from (dict(zip(names, row, strict=True)) for row in rows)
    except sqlite3.Error as error:
        raise InvalidInput(f"the query of {str(path)!r} fails: {error}") from error
