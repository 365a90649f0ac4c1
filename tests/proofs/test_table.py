"""Tables of the proofs' results."""

import re
from pathlib import Path
from typing import Any

import pytest
from tests.proofs.table import BEGIN, END, insert_tables, render_tables

ROOT = Path(__file__).parents[2]
MACHINE = {"cpu": "EPYC", "cores": 2, "python": "3.11.7", "redis": "7.0.15"}


def record(**values: Any) -> dict[str, Any]:  # Any: JSON values
    made = {"date": "2026-11-22T04:00:00+00:00", "seed": 7, "machine": MACHINE}
    zeros = dict.fromkeys(("lost", "duplicated", "reordered", "gaps", "wrong"), 0)
    return made | {"turns": 2500, "kills": 30} | zeros | values


def test_a_row_has_the_counts_and_the_mutants_and_the_figures_follow() -> None:
    killed = record(pause_p999_ms=1430, frames=12_000, mutants="detected(fence off)")
    text = render_tables("make prove-short", {"killed": killed, "plain": record(kills=0)})
    assert text.splitlines() == [
        "`make prove-short` on EPYC, 2 cores, Python 3.11.7, Redis 7.0.15; 2026-11-22, seed 7:",
        "",
        "| property | turns | kills | lost | duplicated | reordered | gaps | wrong | mutants |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        "| `killed` | 2,500 | 30 | 0 | 0 | 0 | 0 | 0 | detected(fence off) |",
        "| `plain` | 2,500 | 0 | 0 | 0 | 0 | 0 | 0 |  |",
        "",
        "- `killed`: pause p999 ms 1,430, frames 12,000.",
    ]


def test_a_missing_count_is_an_empty_cell() -> None:
    made = {key: record()[key] for key in ("date", "seed", "machine")}
    flood = render_tables("make prove", {"flood": made | {"mutants": "detected"}})
    assert "| `flood` |  |  |  |  |  |  |  | detected |" in flood


def test_each_day_machine_and_seed_has_its_own_table() -> None:
    other = MACHINE | {"cpu": "Xeon", "redis": ""}
    records = {
        "a": record(),
        "b": record(seed=8),
        "c": record(),
        "d": record(machine=other),
        "e": record(date="2026-11-23T04:00:00+00:00"),
    }
    heads = [line for line in render_tables("make prove", records).splitlines() if " on " in line]
    assert heads == [
        "`make prove` on EPYC, 2 cores, Python 3.11.7, Redis 7.0.15; 2026-11-22, seed 7:",
        "`make prove` on EPYC, 2 cores, Python 3.11.7, Redis 7.0.15; 2026-11-22, seed 8:",
        "`make prove` on EPYC, 2 cores, Python 3.11.7, Redis 7.0.15; 2026-11-23, seed 7:",
        "`make prove` on Xeon, 2 cores, Python 3.11.7; 2026-11-22, seed 7:",
    ]


SHORT, LONG = "make prove-short", "make prove"


def test_the_tables_replace_the_text_between_the_markers() -> None:
    page = f"before\n{BEGIN}old\n{END}after\n"
    once = insert_tables(page, {SHORT: "new\n", LONG: ""})
    assert once == f"before\n{BEGIN}\nnew\n\n{END}after\n"
    assert insert_tables(once, {SHORT: "new\n", LONG: ""}) == once


def test_tables_of_a_command_without_new_results_stay() -> None:
    tables = {
        name: f"`{name}` on EPYC; day 1:\n\n`{name}` on Xeon; day 1:" for name in (SHORT, LONG)
    }
    page = insert_tables(f"{BEGIN}{END}", tables)
    changed = insert_tables(page, {SHORT: f"`{SHORT}` on EPYC; day 2:", LONG: ""})
    assert changed == insert_tables(f"{BEGIN}{END}", tables | {SHORT: f"`{SHORT}` on EPYC; day 2:"})
    assert insert_tables(changed, {SHORT: "", LONG: ""}) == changed


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="measured"):
        insert_tables("before\n", {SHORT: "new"})


def test_the_page_describes_each_property() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    described = set(re.findall(r"^\| `([\w-]+)` \| [^|]+ \|$", page, re.M))
    sources = "\n".join(
        path.read_text("utf-8") for path in (ROOT / "tests/proofs").glob("test_*.py")
    )
    proven = set(re.findall(r'^PROPERTY = "([\w-]+)"$|property="([\w-]{2,})"', sources, re.M))
    measured = set(re.findall(r"^\| `([\w-]+)` \|(?:[^|]*\|){8}$", page, re.M))
    assert {"agents", "engine-killed"} <= {name for names in proven for name in names}
    assert "engine-killed" in measured
    assert {name for names in proven for name in names if name} | measured <= described
