"""Tables of the proofs' results, for ``docs/reliability.md``."""

import datetime
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]  # Any: a property's JSON values, as `tests.proofs.report` writes them
BEGIN, END = "<!-- measured -->\n", "<!-- end of measured -->\n"
COUNTS = ("turns", "kills", "lost", "duplicated", "reordered", "gaps", "wrong")
NOT_FIGURES = {*COUNTS, "date", "seed", "machine", "mutants"}
"""Keys of a record that are not a property's own figures."""


def insert_tables(page: str, tables: str) -> str:
    """Return ``page`` with ``tables`` between its markers. Raises `ValueError` without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no markers for the tables: expected {BEGIN!r}, then {END!r}")
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


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
