"""Rows between the steps, and the files of a step: complete or not there."""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from palaver.data.kinds import TYPES, Example, KindName

SHOWN_CHARACTERS = 300
SHOWN_PER_REASON = 5
MAX_REASONS = 50


class WorkRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row between two steps. ``groups``: hashes of what must stay in one part of the split;
    ``people`` and ``conversation`` as `palaver.jobs.people.PeopleNames` names them; ``at``: when
    it was said, in seconds since the epoch."""

    source: str
    example: msgspec.Raw
    groups: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    conversation: str = ""
    at: float = 0.0
    language: str = ""


class DroppedRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the rows that a step has dropped, as the profile shows it."""

    step: str
    reason: str
    source: str
    text: str
    people: tuple[str, ...] = ()
    conversation: str = ""


class Drops:
    """Counts the rows that a step drops, and keeps the first ones of each reason."""

    def __init__(self, step: str) -> None:
        self._step = step
        self.counts: Counter[str] = Counter()
        self.shown: list[DroppedRow] = []

    def add(self, reason: str, row: WorkRow, text: str) -> None:
        if reason not in self.counts and len(self.counts) >= MAX_REASONS:
            reason = "other reasons"
        self.counts[reason] += 1
        if self.counts[reason] <= SHOWN_PER_REASON:
            self.shown.append(
                DroppedRow(
                    step=self._step,
                    reason=reason,
                    source=row.source,
                    text=text[:SHOWN_CHARACTERS],
                    people=row.people,
                    conversation=row.conversation,
                )
            )


encode_row = msgspec.json.Encoder().encode
_decode_row = msgspec.json.Decoder(WorkRow).decode


class RowReader:
    """Reads rows between two steps, with their examples of one kind."""

    def __init__(self, kind: KindName) -> None:
        self._decode = msgspec.json.Decoder(TYPES[kind]).decode

    def read(self, file: Path) -> Iterator[tuple[WorkRow, Example]]:
        with open(file, "rb") as stream:
            for line in stream:
                row = _decode_row(line)
                yield row, self._decode(row.example)


def with_example(row: WorkRow, example: Example) -> WorkRow:
    return msgspec.structs.replace(row, example=msgspec.Raw(encode_row(example)))


@contextlib.contextmanager
def writing(file: Path) -> Iterator[Callable[[object], None]]:
    """Yield a function that adds a line of JSON to a file, which appears when it is complete."""
    with writing_bytes(file) as stream:
        yield lambda value: stream.writelines((encode_row(value), b"\n"))


@contextlib.contextmanager
def writing_bytes(file: Path) -> Iterator[IO[bytes]]:
    fresh = file.with_name(f"{file.name}.part")
    with open(fresh, "wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, file)


def short_hash(*parts: str) -> str:
    """Return a name for texts, in 16 hexadecimal characters."""
    data = "\0".join(parts).encode(errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=8).hexdigest()
