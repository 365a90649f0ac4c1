"""Data: the rows of a suite's files as examples, documents, and examples of a router's skills."""

import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from palaver.errors import InvalidInput
from palaver.evaluation.cases import Example, Program, Turn
from palaver.evaluation.leaks import normal_form, refuse_leaks
from palaver.evaluation.suites import ExamplesTable, FilesTable, Suite
from palaver.knowledge import Document
from palaver.skills import Skill

Row = Mapping[str, Any]  # Any: JSON values
_DECOMPRESSION: Mapping[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
}
MAX_TITLE = 80
"""Characters of a document's title in its id."""
_FIELD = re.compile(r"\{(\w+)\}")


class DataFile(msgspec.Struct, frozen=True):
    """A file that was read: its path in the data directory, and SHA-256 of its bytes."""

    path: str
    sha256: str


class SuiteData(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a suite has read: ``labels`` are the examples of the router's skills, None
    for the installed ones; ``dropped_examples`` the number of near duplicates left out."""

    examples: tuple[Example, ...]
    documents: tuple[Document, ...]
    labels: dict[str, tuple[str, ...]] | None
    dropped_examples: int
    files: tuple[DataFile, ...]
    total: int


ReadFiles = Callable[[Sequence[Path]], Iterable[Document]]
"""Reads files and folders as documents, whose ids are paths."""


class Reader:
    """Reader of a suite's files, which it finds below ``directory`` and remembers."""

    def __init__(self, directory: Path, read_files: ReadFiles) -> None:
        self._directory = directory
        self._read_files = read_files
        self._read: dict[str, list[dict[str, Any]]] = {}
        self.files: list[DataFile] = []

    def rows(self, table: FilesTable | ExamplesTable) -> Iterator[Row]:
        """Yield the selected rows of a table's files. Raises `InvalidInput`."""
        where = table.where if isinstance(table, FilesTable) else {}
        for name in table.files:
            if name not in self._read:
                self._read[name] = self._read_file(name)
            for row in self._read[name]:
                if all(field in row and row[field] == value for field, value in where.items()):
                    yield row

    def documents(self, paths: Sequence[str]) -> Iterator[tuple[str, Document]]:
        """Yield documents with their paths below the directory. Raises `InvalidInput`."""
        if not paths:
            return
        for document in self._read_files([self._directory / path for path in paths]):
            path = Path(os.path.relpath(document.id, os.path.realpath(self._directory))).as_posix()
            content = Path(document.id).read_bytes()
            self.files.append(DataFile(path, hashlib.sha256(content).hexdigest()))
            yield path, document

    def _read_file(self, name: str) -> list[dict[str, Any]]:
        path = self._directory / name
        try:
            content = path.read_bytes()
        except OSError as error:
            hint = "name its directory with --data"
            raise InvalidInput(f"{str(path)!r} cannot be read: {error.strerror}; {hint}") from error
        self.files.append(DataFile(name, hashlib.sha256(content).hexdigest()))
        try:
            return _parse(name, content)
        except (ValueError, OSError, EOFError, csv.Error, lzma.LZMAError, zlib.error) as error:
            raise InvalidInput(f"{str(path)!r} holds no rows: {error}") from error


def _parse(name: str, content: bytes) -> list[dict[str, Any]]:
    """Return the rows of a file. Raises `ValueError` and other errors of its format."""
    path = Path(name)
    if decompress := _DECOMPRESSION.get(path.suffix):
        path, content = path.with_suffix(""), decompress(content)
    text = content.decode("utf-8-sig")
    if path.suffix == ".csv":
        rows: Any = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    elif path.suffix == ".json":
        rows = json.loads(text)
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        raise ValueError(f"{path.suffix!r} is not .jsonl, .json or .csv, with .xz or .gz or not")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("each row must be an object")
    return rows


def template_fields(template: str) -> list[str]:
    """Return the names of the fields that a template needs."""
    return _FIELD.findall(template)


def fill_template(template: str, row: Row) -> Any:  # Any: a JSON value
    """Return ``template`` with each ``{field}`` replaced by the row's value.

    A template that is one field returns the value as it is. Raises `InvalidInput`.
    """
    for name in template_fields(template):
        if name not in row:
            raise InvalidInput(f"the row {str(dict(row))[:80]!r} has no field {name!r}")
    if whole := _FIELD.fullmatch(template):
        return row[whole[1]]
    return _FIELD.sub(lambda found: str(row[found[1]]), template)


def read_data(
    suite: Suite,
    directory: Path,
    *,
    limit: int | None,
    seed: int,
    skills: Iterable[type[Skill]],
    read_files: ReadFiles,
) -> SuiteData:
    """Read the files of a suite, of which ``limit`` rows are chosen at random by ``seed``.

    Raises `InvalidInput` for files that cannot be used, and for near duplicates of test rows among
    the examples: those of the suite, else those of the installed ``skills``.
    """
    reader = Reader(directory, read_files)
    rows = list(reader.rows(suite.rows))
    chooser = random.Random(seed)
    labels, dropped = None, 0
    if suite.examples is not None:
        candidates = list(reader.rows(suite.examples)) or rows
        labels, used, dropped = _choose_examples(suite, candidates, rows, chooser)
        rows = [row for row in rows if id(row) not in used]
    elif suite.measures_choice:
        known = [text for skill in skills for text in skill.examples]
        refuse_leaks(known, _normal_texts(suite, rows))
    documents, by_key = _read_documents(suite, reader, rows)
    total = len(rows)
    numbered = list(enumerate(rows))
    if limit is not None and limit < total:
        numbered = sorted(chooser.sample(numbered, limit), key=lambda pair: pair[0])
    examples = tuple(make_example(suite, number, row, by_key) for number, row in numbered)
    twice = [name for name, count in Counter(e.id for e in examples).items() if count > 1]
    if twice:
        raise InvalidInput(f"several rows have the id {twice[0]!r}")
    if not examples:
        raise InvalidInput("the suite selects no rows")
    return SuiteData(
        examples=examples,
        documents=documents,
        labels=labels,
        dropped_examples=dropped,
        files=tuple(reader.files),
        total=total,
    )


def make_example(
    suite: Suite, number: int, row: Row, documents: Mapping[str, Sequence[str]]
) -> Example:
    """Return the example of a row. ``documents``: their ids by key."""
    table = suite.rows

    def text(template: str) -> str:
        return "".join(_read_texts(fill_template(template, row)))

    history = fill_template(table.history, row) if table.history else ()
    program = suite.program
    return Example(
        id=text(table.id) if table.id else str(number),
        text=text(table.text),
        skill=suite.skill or None,
        arguments={name: text(value) for name, value in table.arguments.items()},
        expected=_read_texts(fill_template(table.expected, row)),
        history=_read_history(history, number),
        relevant=tuple(documents.get(text(table.relevant), ())) if table.relevant else (),
        rating=text(table.rating),
        note=text(table.note),
        program=Program(
            prelude=text(program.prelude),
            test=text(program.test),
            function=text(program.function),
            timeout=program.timeout,
        )
        if program
        else None,
    )


def _read_texts(value: object) -> tuple[str, ...]:
    """Return the texts of a list, or the one text that a value is, unless it is empty."""
    values = value if isinstance(value, list) else [value]
    return tuple(str(each) for each in values if each is not None and each != "")


def _read_history(value: object, number: int) -> tuple[Turn, ...]:
    try:
        return msgspec.convert(value, tuple[Turn, ...])
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"row {number}: the history is no list of {{role, text}}: {error}"
        ) from error


def _read_documents(
    suite: Suite, reader: Reader, rows: Sequence[Row]
) -> tuple[tuple[Document, ...], dict[str, list[str]]]:
    """Return the documents, and their ids by key."""
    table = suite.documents
    by_key: dict[str, list[str]] = defaultdict(list)
    if table is None:
        return (), by_key
    documents: dict[tuple[str, str], Document] = {}
    of_rows = (reader.rows(table) if table.files else rows) if table.text else ()
    for row in of_rows:
        key, text = str(fill_template(table.key, row)), str(fill_template(table.text, row))
        if (key, text) not in documents:
            title = str(fill_template(table.title, row)) if table.title else "document"
            name = f"{title[:MAX_TITLE]} ({len(documents) + 1})"
            documents[key, text] = Document(id=name, title=title, text=text)
            by_key[key].append(name)
    of_files = []
    for path, document in reader.documents(table.paths):
        of_files.append(document)
        by_key[path].append(document.name or document.id)
    return (*documents.values(), *of_files), by_key


def _choose_examples(
    suite: Suite, candidates: Sequence[Row], rows: Sequence[Row], chooser: random.Random
) -> tuple[dict[str, tuple[str, ...]], set[int], int]:
    """Return the examples by label, the identities of the rows that became one, and the number of
    candidates that were left out."""
    table = suite.examples
    assert table is not None
    tests, is_own = _normal_texts(suite, rows), not table.files
    by_label: dict[str, list[tuple[Row, str]]] = defaultdict(list)
    for row in candidates:
        text = str(fill_template(table.text, row))
        by_label[str(fill_template(table.label, row))].append((row, text))
    left_out = 0
    chosen: dict[str, list[tuple[Row, str]]] = {}
    for label, pairs in by_label.items():
        # Of the suite's own rows, at least half stay test rows.
        most = min(table.per_label, len(pairs) // 2) if is_own else table.per_label
        allowed = int(is_own)  # the row itself
        if table.drop_near_duplicates:
            kept = [pair for pair in pairs if tests[normal_form(pair[1])] <= allowed]
            left_out += len(pairs) - len(kept)
            pairs = kept
        chosen[label] = chooser.sample(pairs, min(most, len(pairs)))
    used = {id(row) for pairs in chosen.values() for row, _ in pairs} if is_own else set()
    examples = {label: tuple(text for _, text in pairs) for label, pairs in chosen.items()}
    remaining = [row for row in rows if id(row) not in used]
    every = [text for texts in examples.values() for text in texts]
    refuse_leaks(every, _normal_texts(suite, remaining))
    return examples, used, left_out


def _normal_texts(suite: Suite, rows: Sequence[Row]) -> Counter[str]:
    return Counter(normal_form(str(fill_template(suite.rows.text, row))) for row in rows)
