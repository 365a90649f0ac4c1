"""What proofs have measured, as tables for ``docs/reliability.md``."""

import datetime
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]  # Any: a property's JSON values, as `tests.proofs.report` writes them
BEGIN, END = "<!-- measured -->\n", "<!-- end of measured -->\n"
COUNTS = ("turns", "kills", "lost", "duplicated", "reordered", "gaps", "wrong")
APART = {*COUNTS, "date", "seed", "machine", "twin"}
"""What is not one of a property's own figures."""


def placed(page: str, measured: str) -> str:
    """``page`` with ``measured`` between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for tables: expected {BEGIN!r}, then {END!r}")
    return f"{before}{BEGIN}\n{measured}\n{END}{after}"


def tables(command: str, records: Mapping[str, Record]) -> str:
    """A table for each machine, day and seed, under the ``command`` that made it."""
    ordered = sorted(records.items(), key=lambda item: _run(item[1]))  # stable: the order of a run
    runs = itertools.groupby(ordered, key=lambda item: _run(item[1]))
    return "\n".join(_table(command, run, dict(rows)) for run, rows in runs)


def _run(record: Record) -> tuple[str, str]:
    """On which machine, and when with which seed."""
    machine, day = record["machine"], datetime.datetime.fromisoformat(record["date"])
    place = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}"
    if machine["redis"]:
        place += f", Redis {machine['redis']}"
    return place, f"{day:%Y-%m-%d}, seed {record['seed']}"


def _table(command: str, run: tuple[str, str], rows: Mapping[str, Record]) -> str:
    place, time = run
    columns = (*COUNTS, "twin")
    return "\n".join(
        [
            f"`{command}` on {place}; {time}:",
            "",
            f"| property | {' | '.join(columns)} |",
            f"| --- |{' ---: |' * len(COUNTS)} --- |",
            *(f"| `{name}` | {_cells(record, columns)} |" for name, record in rows.items()),
            "",
            *(f"- `{name}`: {also}." for name, record in rows.items() if (also := _also(record))),
            "",
        ]
    )


def _cells(record: Record, columns: Iterable[str]) -> str:
    return " | ".join(_number(record.get(column, "")) for column in columns)


def _also(record: Record) -> str:
    """A property's own figures."""
    figures = ((key, value) for key, value in record.items() if key not in APART)
    return ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in figures)


def _number(value: str | float) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
