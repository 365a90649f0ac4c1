"""The report itself: what its lines say."""

import json
from pathlib import Path

from tests.chaos.history import Findings
from tests.proof_settings import SEED
from tests.proofs.report import Line, Report


def made() -> Report:
    report = Report(lambda line: None)
    report(Line(property="a", turns=5, kills=2, findings=Findings(lost=1), figures={"gap_ms": 9}))
    return report


def test_a_line_has_every_count_the_figures_and_the_twin() -> None:
    report = made()
    report.twin("a", True, "fence off")
    (line,) = report.lines()
    assert line == (
        "property=a turns=5 kills=2 lost=1 duplicated=0 reordered=0 gaps=0 wrong=0 gap_ms=9 "
        "twin=failed"
    )


def test_several_twins_are_named() -> None:
    report = made()
    report.twin("a", True, "fence off")
    report.twin("a", True, "dedupe off")
    assert report.records()["a"]["twin"] == "failed(fence off, dedupe off)"


def test_a_twin_that_nobody_noticed_stands_out() -> None:
    report = made()
    report.twin("a", True, "fence off")
    report.twin("a", False, "dedupe off")
    assert report.records()["a"]["twin"] == "passed(dedupe off)"


def test_a_run_of_one_property_keeps_what_was_written_of_others(tmp_path: Path) -> None:
    folder = tmp_path / "build"
    first = Report(lambda line: None, folder)
    first(Line(property="b", turns=1))
    first.save()
    second = Report(lambda line: None, folder)
    second(Line(property="a", turns=5))
    written = json.loads(second.save().read_text())
    assert {name: record["turns"] for name, record in written.items()} == {"a": 5, "b": 1}
    assert written["a"]["seed"] == SEED
    assert written["a"]["machine"]["cores"] > 0
