"""Profile of prepared data: one HTML page that opens without a network."""

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import msgspec

import palaver.evaluation
from palaver.data.cleaning import repetition, symbol_share
from palaver.data.kinds import TYPES, Example
from palaver.data.preparation import PARTS
from palaver.evaluation.plots import Bar, plot_bars, plot_histogram
from palaver.jobs.folder import Json, read_object
from palaver.jobs.people import MANIFEST, PROFILE, SHOWN
from palaver.private_files import write_private_file

MAX_BARS = 25
MAX_LENGTHS = 20_000
"""Rows whose lengths are in the plots; beyond that every second one, and so on."""
WORST = 12
SHOWN_CHARACTERS = 600
_pages = jinja2.Environment(
    loader=jinja2.FileSystemLoader([Path(__file__).parent, *palaver.evaluation.__path__]),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class WorstRow(NamedTuple):
    """A row that stayed, with the measure by which it is the worst."""

    score: float
    number: int
    part: str
    given: str
    wanted: str
    why: str


class Statistics:
    """What is counted over the rows of all parts."""

    def __init__(self) -> None:
        self.languages: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.labels: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
        self.given_lengths = Sample()
        self.wanted_lengths = Sample()
        self.people: set[str] = set()
        self.worst: list[WorstRow] = []
        self._number = 0

    def add(self, part: str, row: Json, example: Example) -> None:
        self._number += 1
        self.languages[row.get("language", "unknown")] += 1
        self.sources[row["source"]] += 1
        self.labels[part].update(labels_of(example))
        self.given_lengths.add(len(example.given))
        if example.wanted:
            self.wanted_lengths.add(len(example.wanted))
        self.people.update(row.get("people", ()))
        self._rank(part, example)

    def _rank(self, part: str, example: Example) -> None:
        measures = {
            "repetition": max(map(repetition, (example.given, example.wanted))),
            "symbols": max(map(symbol_share, (example.given, example.wanted))),
        }
        why, score = max(measures.items(), key=lambda each: each[1])
        texts = (example.given[:SHOWN_CHARACTERS], example.wanted[:SHOWN_CHARACTERS])
        row = WorstRow(score, -self._number, part, *texts, why)
        if len(self.worst) < WORST:
            heapq.heappush(self.worst, row)
        else:
            heapq.heappushpop(self.worst, row)


class Sample:
    """Every nth of many values, so that memory does not grow with their number."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._step, self._seen = 1, 0

    def add(self, value: float) -> None:
        if self._seen % self._step == 0:
            self.values.append(value)
        self._seen += 1
        if len(self.values) >= MAX_LENGTHS:
            self.values, self._step = self.values[::2], 2 * self._step


def labels_of(example: Example) -> list[str]:
    """Return what the balance of labels counts: labels, or those of the spans."""
    spans = getattr(example, "spans", [])
    return [span.label for span in spans] or list(filter(None, [example.distinction]))


def read_outputs(folder: Path, manifest: Json) -> Iterator[tuple[str, Json, Example]]:
    """Yield the part, the fields and the example of each row of prepared data."""
    kind = TYPES[manifest["kind"]]
    for name in manifest["outputs"]:
        with open(folder / name, "rb") as lines:
            for line in lines:
                row = json.loads(line)
                yield Path(name).stem, row, msgspec.convert(row, kind)


def write_profile(folder: Path) -> None:
    """Write the page about prepared data into its folder."""
    manifest = read_object(folder / MANIFEST)
    found = Statistics()
    for part, row, example in read_outputs(folder, manifest):
        found.add(part, row, example)
    dropped = [json.loads(line) for line in (folder / SHOWN).read_bytes().splitlines()]
    page = _pages.get_template("profile.html.jinja").render(
        name=folder.name,
        manifest=manifest,
        parts={Path(name).stem: each for name, each in manifest["outputs"].items()},
        groups=manifest["steps"]["split"]["groups"],
        found=found,
        funnel=_plot_counts({name: step["out"] for name, step in _rows_by_step(manifest)}),
        languages=_plot_counts(found.languages),
        sources=_plot_counts(found.sources),
        redactions=_plot_counts(manifest["steps"]["redact"]["redactions"]),
        labels=_plot_labels(found.labels),
        lengths=list(_plot_lengths(found)),
        drops=_group_drops(manifest, dropped),
        worst=sorted(found.worst, reverse=True),
    )
    write_private_file(folder / PROFILE, page.encode())


def _rows_by_step(manifest: Json) -> Iterator[tuple[str, Json]]:
    steps = manifest["steps"]
    yield "raw rows", {"out": steps["read"]["in"]}
    yield from steps.items()


def _plot_counts(counts: Mapping[str, int]) -> str:
    """Return bars, the longest for the largest count. Those beyond `MAX_BARS` are one."""
    rows = list(counts.items())
    if rest := sum(count for _, count in rows[MAX_BARS:]):
        rows = [*rows[:MAX_BARS], (f"{len(counts) - MAX_BARS} others", rest)]
    most = max((count for _, count in rows), default=0)
    bars = [Bar(name, count / most, None, None, f"{count:,}") for name, count in rows if most]
    return plot_bars(bars) if bars else ""


def _plot_labels(labels: Mapping[str, Counter[str]]) -> str:
    total: Counter[str] = sum(labels.values(), Counter())
    return _plot_counts(dict(total.most_common()))


def _plot_lengths(found: Statistics) -> Iterator[tuple[str, str]]:
    for title, sample in (
        ("what the model gets", found.given_lengths),
        ("what it should write", found.wanted_lengths),
    ):
        if sample.values:
            yield f"Characters of {title}", plot_histogram([sample.values], "")


def _group_drops(manifest: Json, dropped: list[Json]) -> list[dict[str, Any]]:
    """Return each reason with its step, its number of rows and some of their texts."""
    return [
        {
            "step": step,
            "reason": reason,
            "count": count,
            "texts": [
                each["text"]
                for each in dropped
                if (each["step"], each["reason"]) == (step, reason) and each["text"]
            ],
        }
        for step, report in manifest["steps"].items()
        for reason, count in report["dropped"].items()
    ]
