"""Reports: one HTML page about a run, or about two, which opens without a network."""

import difflib
import html
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import msgspec
import numpy as np

from palaver.evaluation.cases import Case, Example, Output
from palaver.evaluation.comparison import Comparison
from palaver.evaluation.metrics import CALIBRATION_BINS, Metric, read_confidence
from palaver.evaluation.plots import Bar, Bin, plot_bars, plot_histogram, plot_reliability
from palaver.evaluation.results import (
    REPORT_FILE,
    RESULT_FILE,
    Result,
    RunDirectory,
    ScoreRecord,
    metrics_of,
)
from palaver.messages import encode
from palaver.private_files import make_private_directory, write_private_file

WORST = 30
"""Cases that a report shows."""
CONFUSIONS = 15
SHOWN_DOCUMENTS = 10
MAX_SHOWN = 3_000
"""Characters of a text in a report."""
_PERCENT = ("bleu", "chrf")
_pages = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class ShownCase(NamedTuple):
    """A case as a page shows it: a column for what is expected and one for each run."""

    id: str
    text: str
    note: str
    score: str
    columns: tuple[tuple[str, str, str], ...]
    """Heading, text as HTML, and what is noted below it."""


def write_run_report(directory: RunDirectory, result: Result, cases: Sequence[Case]) -> None:
    """Write the page about a run into its directory."""
    metrics = metrics_of(result.about)
    values = metrics[0].measure(cases).values
    page = _pages.get_template("report.html.jinja").render(
        title=result.about.suite,
        runs=[result],
        names=[directory.path.name],
        started=[_format_time(result)],
        scores=result.scores,
        format=format_number,
        changes=None,
        changed={},
        cases=result.cases,
        bars=_score_bars(metrics, result),
        plots=list(_run_plots(metrics, [cases])),
        confusions=_confusions(cases) if result.about.target == "router" else [],
        worst=[_show_case([case], value) for case, value in _find_worst(cases, values)],
        order=f"The lowest {metrics[0].title} first." if values is not None else "",
    )
    write_private_file(directory.path / REPORT_FILE, page.encode())


def write_comparison_report(
    directory: Path,
    comparison: Comparison,
    before: Sequence[Case],
    after: Sequence[Case],
    names: Sequence[str],
) -> None:
    """Write the page about two runs, which it calls by ``names``, and the comparison as JSON, into
    ``directory``."""
    metrics = [m for m in metrics_of(comparison.first.about) if m.name in comparison.metrics]
    old, new = (metrics[0].measure(cases).values for cases in (before, after))
    changes = np.zeros(len(before)) if old is None or new is None else new - old
    pairs = zip(before, after, np.nan_to_num(changes), strict=True)
    moved = sorted((p for p in pairs if p[2] or old is None), key=lambda p: -abs(p[2]))[:WORST]
    runs = [comparison.first, comparison.second]
    page = _pages.get_template("report.html.jinja").render(
        title=f"{comparison.first.about.suite}: two runs",
        runs=runs,
        names=names,
        started=[_format_time(run) for run in runs],
        scores={name: found.change for name, found in comparison.metrics.items()},
        format=format_number,
        changes=comparison.metrics,
        changed=comparison.changed,
        cases=comparison.cases,
        bars=_change_bars(metrics, comparison),
        plots=list(_run_plots(metrics, [before, after])),
        confusions=[],
        worst=[_show_case([a, b], change, sign="+") for a, b, change in moved],
        order=f"The largest changes of {metrics[0].title} first.",
    )
    make_private_directory(directory)
    write_private_file(directory / RESULT_FILE, msgspec.json.format(encode(comparison)) + b"\n")
    write_private_file(directory / REPORT_FILE, page.encode())


def format_number(value: float | None, unit: str = "", sign: str = "") -> str:
    if value is None:
        return "–"
    return f"{value:{sign}.3g}{unit and ' ' + unit}" if abs(value) < 1000 else f"{value:{sign}.0f}"


def _format_time(result: Result) -> str:
    return datetime.fromtimestamp(result.started_at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _score_bars(metrics: Sequence[Metric], result: Result) -> str:
    bars = []
    for metric in metrics:
        score, scale = result.scores[metric.name], _scale(metric)
        if score.value is not None and scale:
            bars.append(_bar(score, scale))
    return plot_bars(bars) if bars else ""


def _change_bars(metrics: Sequence[Metric], comparison: Comparison) -> str:
    bars = []
    for metric in metrics:
        found, scale = comparison.metrics[metric.name], _scale(metric)
        if found.change.value is not None and scale:
            bars.append(_bar(found.change, scale, kind=found.verdict, sign="+"))
    return plot_bars(bars, lowest=0.0, highest=0.0) if bars else ""


def _bar(score: ScoreRecord, scale: float, *, kind: str = "first", sign: str = "") -> Bar:
    value, low, high = (
        None if x is None else x / scale for x in (score.value, score.low, score.high)
    )
    assert value is not None
    return Bar(score.title, value, low, high, format_number(score.value, sign=sign), kind)


def _scale(metric: Metric) -> float:
    """Return the highest value of a metric, 0 where there is none."""
    if metric.unit or metric.name in ("perplexity", "prompt_tokens", "completion_tokens", "cost"):
        return 0.0
    return 100.0 if metric.name.startswith(_PERCENT) else 1.0


def _run_plots(
    metrics: Sequence[Metric], runs: Sequence[Sequence[Case]]
) -> Iterator[tuple[str, str]]:
    """Yield headings and plots of one run or two."""
    for metric in (metrics[0], *(m for m in metrics if m.unit == "s")):
        series = []
        for cases in runs:
            values = metric.measure(cases).values
            series.append([] if values is None else values[~np.isnan(values)].tolist())
        if any(len(set(values)) > 2 for values in series):
            yield f"{metric.title}, by case", plot_histogram(series, metric.unit and " s")
    is_of_router = any(metric.name == "calibration_error" for metric in metrics)
    if len(runs) == 1 and is_of_router and (bins := _reliability_bins(runs[0])):
        yield "Reliability of the router's probability", plot_reliability(bins)


def _reliability_bins(cases: Sequence[Case]) -> list[Bin]:
    confidence = read_confidence(cases)
    places = np.minimum((confidence.scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    found = []
    for place in sorted(set(places.tolist())):
        inside = places == place
        means = confidence.scores[inside].mean(), confidence.right[inside].mean()
        found.append(Bin(float(means[0]), float(means[1]), int(inside.sum())))
    return found


def _confusions(cases: Sequence[Case]) -> list[tuple[str, str, int]]:
    """Return the most frequent wrong choices: what was expected, what was chosen, how often."""
    wrong = Counter(
        (" or ".join(case.example.expected), case.output.skill)
        for case in cases
        if case.output.skill not in case.example.expected
    )
    return [(*pair, count) for pair, count in wrong.most_common(CONFUSIONS)]


def _find_worst(
    cases: Sequence[Case], values: Any
) -> list[tuple[Case, float]]:  # Any: an array of numpy, or None
    """Return cases with their values, the lowest first, those without a value last."""
    if values is None:
        return [(case, math.nan) for case in cases[:WORST]]

    def rank(pair: tuple[Case, float]) -> tuple[bool, float, bool]:
        case, value = pair
        is_known = not math.isnan(value)
        return not is_known, value if is_known else 0.0, case.output.outcome != "failed"

    return sorted(zip(cases, values.tolist(), strict=True), key=rank)[:WORST]


def _show_case(cases: Sequence[Case], score: float, *, sign: str = "") -> ShownCase:
    example = cases[0].example
    columns = list(_show_expected(example, cases[0].output))
    for number, case in enumerate(cases):
        heading = "Reply" if len(cases) == 1 else f"Reply {'AB'[number]}"
        columns.append((heading, *_show_output(case)))
    return ShownCase(
        id=example.id,
        text=_cut(example.text),
        note=example.note,
        score="" if math.isnan(score) else f"{score:{sign}.3g}",
        columns=tuple(columns),
    )


def _show_expected(example: Example, output: Output) -> Iterator[tuple[str, str, str]]:
    """Yield the column with what an example expects, if it does."""
    if example.program is not None:
        yield "Test", html.escape(_cut(example.program.test)), ""
    elif example.expected:
        texts = "\n— or —\n".join(dict.fromkeys(example.expected))
        yield "Expected", html.escape(_cut(texts)), example.rating
    elif example.relevant and output.text:
        yield "Expected", "no answer", ""
    elif example.relevant:
        yield "Expected", html.escape("\n".join(example.relevant[:SHOWN_DOCUMENTS])), ""


def _show_output(case: Case) -> tuple[str, str]:
    """Return the output as HTML, and what is noted below it."""
    example, output = case.example, case.output
    documents = list(dict.fromkeys(output.documents))
    notes = [output.error]
    if output.score is not None:
        notes += [output.reason, f"probability {output.score:.2f}"]
    if documents and example.relevant:
        ranks = [n for n, name in enumerate(documents, 1) if name in example.relevant]
        notes.append(f"right document at rank {ranks[0]}" if ranks else "no right document")
    body = html.escape(_cut(output.reply or output.text))
    if not body and documents:
        body = "\n".join(
            f"<b>{html.escape(name)}</b>" if name in example.relevant else html.escape(name)
            for name in documents[:SHOWN_DOCUMENTS]
        )
    elif not body:
        body = html.escape(output.skill)
    elif example.expected:
        body = mark_differences(_cut(example.expected[0]), _cut(output.reply or output.text))
    return body, "; ".join(filter(None, notes))


def mark_differences(expected: str, text: str) -> str:
    """Return ``text`` as HTML, with the words marked that are not in ``expected`` at that place."""
    wanted, given = expected.split(), text.split()
    blocks = difflib.SequenceMatcher(None, wanted, given, autojunk=False).get_opcodes()
    parts = []
    for kind, _, _, start, end in blocks:
        words = html.escape(" ".join(given[start:end]))
        if words:
            parts.append(words if kind == "equal" else f"<mark>{words}</mark>")
    return " ".join(parts)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} […]"
