"""Tables of the proofs' results, for ``docs/reliability.md``."""

import datetime
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]  # Any: a property's JSON values, as `tests.proofs.report` writes them
BEGIN, END = "<!-- measured -->\n", "<!-- end of measured -->\n"
_TABLE = re.compile(r"^(?=`[^`]+` on )", re.MULTILINE)
COUNTS = ("turns", "kills", "lost", "duplicated", "reordered", "gaps", "wrong")
NOT_FIGURES = {*COUNTS, "date", "seed", "machine", "mutants"}
"""Keys of a record that are not a property's own figures."""


def insert_tables(page: str, tables: Mapping[str, str]) -> str:
    """Return ``page`` with ``tables``, by command, between its markers. Where the text of a command
    is empty, its earlier tables stay. Raises `ValueError` without markers."""
    before, begin, rest = page.partition(BEGIN)
    earlier, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no markers for the tables: expected {BEGIN!r}, then {END!r}")
    parts = [f"{part.strip()}\n" for part in _TABLE.split(earlier)]
    kept = {
        command: "\n".join(part for part in parts if part.startswith(f"`{command}` on "))
        for command in tables
    }
    shown = [tables[command].strip() or kept[command].strip() for command in tables]
    return "\n\n".join([f"{before}{BEGIN.strip()}", *filter(None, shown), f"{END}{after}"])


def render_tables(command: str, records: Mapping[str, Record]) -> str:
    """Return a table for each machine, day and seed, under the ``command`` that made it."""
    ordered = sorted(records.items(), key=lambda item: _run_of(item[1]))  # stable within a run
    runs = itertools.groupby(ordered, key=lambda item: _run_of(item[1]))
    return "\n".join(_render_table(command, run, dict(rows)) for run, rows in runs)


def _run_of(record: Record) -> tuple[str, str]:
    """Return the machine of a record, and its day and seed."""
    machine, day = record["machine"], datetime.datetime.fromisoformat(record["date"])
    description = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}"
    if machine["redis"]:
        description += f", Redis {machine['redis']}"
    return description, f"{day:%Y-%m-%d}, seed {record['seed']}"


def _render_table(command: str, run: tuple[str, str], rows: Mapping[str, Record]) -> str:
    machine, time = run
    columns = (*COUNTS, "mutants")
    return "\n".join(
        [
            f"`{command}` on {machine}; {time}:",
            "",
            f"| property | {' | '.join(columns)} |",
            f"| --- |{' ---: |' * len(COUNTS)} --- |",
            *(f"| `{name}` | {_cells(record, columns)} |" for name, record in rows.items()),
            "",
            *(f"- `{name}`: {own}." for name, record in rows.items() if (own := _figures(record))),
            "",
        ]
    )


def _cells(record: Record, columns: Iterable[str]) -> str:
    return " | ".join(_format(record.get(column, "")) for column in columns)


def _figures(record: Record) -> str:
    figures = ((key, value) for key, value in record.items() if key not in NOT_FIGURES)
    return ", ".join(f"{key.replace('_', ' ')} {_format(value)}" for key, value in figures)


def _format(value: str | float) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
