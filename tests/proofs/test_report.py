"""Report: its lines and its file."""

import json
from pathlib import Path

from tests.chaos.findings import Findings
from tests.proof_settings import SEED
from tests.proofs.report import PropertyResult, Report


def make_report() -> Report:
    report = Report(lambda line: None)
    report.add(
        PropertyResult(
            property="a", turns=5, kills=2, findings=Findings(lost=1), figures={"wait_ms": 9}
        )
    )
    return report


def test_a_line_has_every_count_the_figures_and_the_mutant() -> None:
    report = make_report()
    report.add_mutant("a", True, "fence off")
    (line,) = report.lines()
    assert line == (
        "property=a turns=5 kills=2 lost=1 duplicated=0 reordered=0 gaps=0 wrong=0 wait_ms=9 "
        "mutants=detected"
    )


def test_several_mutants_are_named() -> None:
    report = make_report()
    report.add_mutant("a", True, "fence off")
    report.add_mutant("a", True, "dedupe off")
    assert report.records()["a"]["mutants"] == "detected(fence off, dedupe off)"


def test_an_undetected_mutant_stands_out() -> None:
    report = make_report()
    report.add_mutant("a", True, "fence off")
    report.add_mutant("a", False, "dedupe off")
    assert report.records()["a"]["mutants"] == "undetected(dedupe off)"


def test_records_of_another_process_are_added() -> None:
    report, other = make_report(), Report(lambda line: None)
    other.add(PropertyResult(property="b", turns=3))
    report.add_records(other.records())
    assert {name: values["turns"] for name, values in report.records().items()} == {"a": 5, "b": 3}


def test_saving_keeps_the_records_of_other_properties(tmp_path: Path) -> None:
    folder = tmp_path / "build"
    first = Report(lambda line: None, folder)
    first.add(PropertyResult(property="b", turns=1))
    first.save()
    second = Report(lambda line: None, folder)
    second.add(PropertyResult(property="a", turns=5))
    written = json.loads(second.save().read_text())
    assert {name: record["turns"] for name, record in written.items()} == {"a": 5, "b": 1}
    assert written["a"]["seed"] == SEED
    assert written["a"]["machine"]["cores"] > 0
