"""Reports and comparisons: what the pages show, and that they need and run nothing else."""

import re
from pathlib import Path

import pytest
from tests.server.evaluation.runs import run_suite, write_suite

from palaver.engine import GenerationRequest
from palaver.errors import InvalidInput
from palaver.evaluation.comparison import compare_runs, pair_cases
from palaver.evaluation.plots import Bar, Bin, plot_bars, plot_histogram, plot_reliability
from palaver.evaluation.reports import mark_differences, write_comparison_report
from palaver.evaluation.results import RunDirectory
from palaver.testing import ScriptedEngine

pytestmark = pytest.mark.slow

HOSTILE = "</pre><script>alert(1)</script>{{ 7 * 7 }}"
SUITE = """
description = "Small talk"
target = "server"
metrics = ["f1", "exact_match"]
[rows]
files = ["rows.jsonl"]
split = "test of May"
id = "{id}"
text = "{text}"
expected = "{expected}"
"""
ROWS = [
    {"id": f"row-{n:02}", "text": f"hello {n} {HOSTILE}", "expected": f"one two {n} {HOSTILE}"}
    for n in range(40)
]


def answering(right: int) -> ScriptedEngine:
    """Return an engine that answers the first ``right`` rows as expected."""

    def reply(request: GenerationRequest) -> str:
        number = int(request.messages[-1].content.split()[1])
        return str(ROWS[number]["expected"]) if number < right else f"one {HOSTILE}"

    return ScriptedEngine(reply)


def run(folder: Path, right: int, output: str) -> RunDirectory:
    return run_suite(write_suite(folder, SUITE, ROWS), answering(right), output=output)[1]


def read_page(folder: Path) -> str:
    return (folder / "report.html").read_text("utf-8")


def test_a_page_shows_the_worst_cases_and_what_was_run(tmp_path: Path) -> None:
    directory = run(tmp_path, 30, "a")
    page = read_page(directory.path)
    shown = re.findall(r"row-\d\d", page)
    assert shown[:10] == [f"row-{n}" for n in range(30, 40)]
    assert len(shown) == 30
    assert "test of May" in page
    assert directory.result().about.files[0].sha256 in page
    assert "0.75" in page
    assert page.count("<svg") >= 2


def test_a_page_needs_no_network_and_runs_no_text(tmp_path: Path) -> None:
    first, second = run(tmp_path, 30, "a"), run(tmp_path, 10, "b")
    before, after = pair_cases(first, second)
    comparison = compare_runs(first.result(), second.result(), before, after, seed=0)
    write_comparison_report(tmp_path / "c", comparison, before, after, ["a", "b"])
    for page in (read_page(first.path), read_page(tmp_path / "c")):
        assert "<script" not in page
        assert "default-src 'none'" in page
        assert not re.search(r"(?:src|href)=|url\(|@import", page)
        assert "&lt;script&gt;alert(1)" in page.replace("<mark>", "").replace("</mark>", "")
        assert "{{ 7 * 7 }}" in page


def test_a_comparison_finds_what_became_worse(tmp_path: Path) -> None:
    first, second = run(tmp_path, 30, "a"), run(tmp_path, 10, "b")
    before, after = pair_cases(first, second)
    comparison = compare_runs(first.result(), second.result(), before, after, seed=0)
    found = comparison.metrics["exact_match"]
    assert (found.first, found.second, found.change.value) == (0.75, 0.25, -0.5)
    assert found.verdict == "worse"
    assert found.change.low is not None
    assert found.change.high is not None
    assert -0.7 < found.change.low < -0.5 < found.change.high < -0.3
    assert comparison.metrics["failures"].verdict == "unclear"
    write_comparison_report(tmp_path / "c", comparison, before, after, ["a", "b"])
    page = read_page(tmp_path / "c")
    assert set(re.findall(r"row-\d\d", page)) == {f"row-{n}" for n in range(10, 30)}
    assert page.count("Reply A") == page.count("Reply B") == 20
    back = compare_runs(second.result(), first.result(), after, before, seed=0)
    assert back.metrics["exact_match"].verdict == "better"


def test_equal_runs_differ_in_nothing(tmp_path: Path) -> None:
    first, second = run(tmp_path, 30, "a"), run(tmp_path, 30, "b")
    before, after = pair_cases(first, second)
    comparison = compare_runs(first.result(), second.result(), before, after, seed=0)
    assert comparison.changed == {}
    assert comparison.metrics["f1"].verdict == "unclear"


def test_a_smaller_run_is_compared_on_its_own_cases(tmp_path: Path) -> None:
    first = run(tmp_path, 30, "a")
    path = tmp_path / "small.toml"
    second = run_suite(path, answering(30), output="b", limit=9)[1]
    before, after = pair_cases(first, second)
    assert len(before) == len(after) == 9
    assert [c.example for c in before] == [c.example for c in after]
    comparison = compare_runs(first.result(), second.result(), before, after, seed=0)
    assert comparison.changed["limit"] == (None, 9)


def test_runs_on_other_data_are_not_compared(tmp_path: Path) -> None:
    first = run(tmp_path, 30, "a")
    path = write_suite(tmp_path, SUITE, ROWS[:20])
    second = run_suite(path, answering(30), output="b")[1]
    with pytest.raises(InvalidInput, match="cannot be compared: files differs"):
        pair_cases(first, second)
    with pytest.raises(InvalidInput, match="is no directory of a run"):
        pair_cases(first, RunDirectory(tmp_path))


def test_words_that_differ_are_marked() -> None:
    assert mark_differences("the red cat", "the <b> cat") == "the <mark>&lt;b&gt;</mark> cat"
    assert mark_differences("a", "") == ""


# Plots


def numbers(svg: str, attribute: str) -> list[float]:
    return [float(found) for found in re.findall(rf'<rect[^>]* {attribute}="([-\d.]+)"', svg)]


def test_a_bar_is_as_long_as_its_value() -> None:
    svg = plot_bars([Bar("a", 0.25, 0.2, 0.3, "0.25"), Bar("b", 0.5, None, None, "0.5")])
    short, long = numbers(svg, "width")
    assert long == pytest.approx(2 * short, abs=0.2)
    assert svg.count('class="interval"') == 3


def test_a_negative_bar_ends_where_a_positive_one_begins() -> None:
    svg = plot_bars([Bar("a", -0.5, -0.6, -0.4, ""), Bar("b", 0.5, 0.4, 0.6, "")], highest=0.0)
    (left, right), (width, _) = numbers(svg, "x"), numbers(svg, "width")
    assert left + width == pytest.approx(right, abs=0.2)


def test_a_histogram_counts_every_value() -> None:
    svg = plot_histogram([[0.0, 0.1, 0.1, 5.0], [1.0]], " s")
    counts = [int(found) for found in re.findall(r": (\d+)</title>", svg)]
    assert sum(counts) == 5
    assert plot_histogram([[]], "") == ""


def test_a_reliability_diagram_has_a_dot_for_each_bin() -> None:
    svg = plot_reliability([Bin(0.5, 0.4, 10), Bin(0.9, 1.0, 90)])
    assert svg.count("<circle") == 2
    assert "10 choices: 40% right at 50%" in svg
    assert plot_reliability([]) == ""


def test_a_long_label_is_cut() -> None:
    svg = plot_bars([Bar("x" * 40, 1.0, None, None, "")])
    assert "x" * 33 + "…" in svg
    assert "x" * 34 not in svg


def test_labels_are_escaped() -> None:
    assert "<b>" not in plot_bars([Bar("<b>", 1.0, None, None, "<b>")])
