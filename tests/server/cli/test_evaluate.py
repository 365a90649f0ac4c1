"""``palaver evaluate``: runs, limits, comparison, feedback, and missing libraries."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.server.evaluation.runs import write_suite

from palaver.cli import main

pytest.importorskip("sklearn")
pytestmark = pytest.mark.slow

SUITE = """
description = "Choice"
target = "router"
metrics = ["accuracy"]
[rows]
files = ["rows.jsonl"]
split = "test"
expected = "{skill}"
"""
ROWS = [
    {"text": "/translate to German: a cat", "skill": "translation"},
    {"text": "/codegen a cat", "skill": "codegen"},
    {"text": "/ask a cat", "skill": "chat"},
]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, SUITE, ROWS)


def evaluate(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, ["--set", f"server.data={folder / 'data'}", "evaluate", *arguments]
    )


def test_a_run_prints_its_scores_and_names_its_report(suite: Path, tmp_path: Path) -> None:
    result = evaluate(tmp_path, str(suite), "--output", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "accuracy               0.6667  [" in result.output
    assert str(tmp_path / "out" / "report.html") in result.output
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert stored["about"]["settings"] == {"server.data": str(tmp_path / "data")}
    assert stored["scores"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert (tmp_path / "out" / "cases.jsonl").stat().st_mode & 0o077 == 0
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        ("--fail-below=accuracy=0.6", 0, ""),
        ("--fail-below=accuracy=0.7", 3, "accuracy is 0.6667, below 0.7"),
        ("--fail-above=accuracy=0.6", 3, "accuracy is 0.6667, above 0.6"),
        ("--fail-above=failures=0", 0, ""),
        ("--fail-below=bleu=1", 2, "the run has no metric 'bleu'; it has: accuracy, failures"),
        ("--fail-below=0.7", 2, "has no metric ''"),
        ("--fail-below=accuracy", 2, "'accuracy' is not of the form METRIC=NUMBER"),
    ],
)
def test_a_score_beyond_a_limit_fails(
    suite: Path, tmp_path: Path, option: str, code: int, message: str
) -> None:
    result = evaluate(tmp_path, "run", str(suite), "--output", str(tmp_path / "out"), option)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert (tmp_path / "out").exists() == (code != 2)


def test_runs_are_compared(suite: Path, tmp_path: Path) -> None:
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    evaluate(tmp_path, str(suite), "--output", first)
    evaluate(tmp_path, str(suite), "--output", second, "--limit=2")
    result = evaluate(tmp_path, "compare", first, second)
    assert result.exit_code == 0, result.output
    assert "limit: None → 2" in result.output
    assert "accuracy               +0  [+0, +0]  unclear" in result.output
    assert (tmp_path / "b" / "compared" / "report.html").exists()
    failed = evaluate(tmp_path, "compare", first, second, "--fail-below=accuracy=0.1")
    assert failed.exit_code == 3


def test_the_price_is_a_metric(suite: Path, tmp_path: Path) -> None:
    result = evaluate(tmp_path, str(suite), "--output", str(tmp_path / "a"), "--prompt-price=1")
    assert "cost                   0  [0, 0]" in result.output


def test_settings_of_the_suite_come_before_those_of_the_command_line(
    suite: Path, tmp_path: Path
) -> None:
    suite.write_text(SUITE + '[settings]\n"routing.threshold" = 0.9\n')
    evaluate(tmp_path, str(suite), "--output", str(tmp_path / "a"))
    stored = json.loads((tmp_path / "a" / "result.json").read_text())
    assert stored["about"]["settings"]["routing.threshold"] == "0.9"
    arguments = ["--set=routing.threshold=0.2", "evaluate", str(suite)]
    CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "b")])
    stored = json.loads((tmp_path / "b" / "result.json").read_text())
    assert stored["about"]["settings"]["routing.threshold"] == "0.2"


def test_the_built_in_suites_are_listed(tmp_path: Path) -> None:
    output = evaluate(tmp_path, "list").output
    assert "routing-skills" in output
    assert "qa-squad" in output


def test_an_unknown_suite_is_one_line(tmp_path: Path) -> None:
    result = evaluate(tmp_path, "nope")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "there is no suite 'nope'" in result.output


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write_text(SUITE.replace('"accuracy"', '"macro_f1"'))
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    result = evaluate(tmp_path, str(suite), "--output", str(tmp_path / "out"))
    assert result.exit_code == 78
    assert "pip install 'palaver-server[evaluation]'" in result.output
    assert not (tmp_path / "out").exists(), "it ran before"


FEEDBACK = [
    {"id": "1", "outcome": "done", "rating": "up", "at": 1.0, "history": [], "message": "Hi",
     "reply": "Hello there"},
    {"id": "2", "outcome": "done", "rating": "down", "reason": "incorrect", "comment": "It is 4.",
     "at": 2.0, "history": [{"role": "user", "text": "Hi"}], "message": "2 + 2?", "reply": "5"},
]  # fmt: skip


def test_feedback_becomes_a_suite(tmp_path: Path) -> None:
    replies, suite = tmp_path / "export.jsonl", tmp_path / "rated.toml"
    replies.write_text("".join(json.dumps(row) + "\n" for row in FEEDBACK))
    result = evaluate(tmp_path, "from-feedback", str(replies), str(suite))
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "rated.jsonl").read_text().splitlines()]
    assert rows[1]["about"] == "incorrect: It is 4."
    assert suite.stat().st_mode & 0o077 == 0
    again = evaluate(tmp_path, "from-feedback", str(replies), str(suite))
    assert (again.exit_code, "exists already" in again.output) == (2, True)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{}\n", "line 1 of"), ("\n", "line 1 of"), ("", "holds no rated replies"), ("[]", "line 1")],
)
def test_a_file_of_something_else_is_no_feedback(
    tmp_path: Path, content: str, problem: str
) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    result = evaluate(
        tmp_path, "from-feedback", str(tmp_path / "x.jsonl"), str(tmp_path / "s.toml")
    )
    assert result.exit_code == 2
    assert problem in result.output
