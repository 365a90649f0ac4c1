"""Results: the directory of a run, with what was run, its cases, and its scores."""

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from palaver.errors import InvalidInput
from palaver.evaluation.cases import Case
from palaver.evaluation.data import DataFile
from palaver.evaluation.measures import Interval, draw_weights, interval_of, score_all
from palaver.evaluation.metrics import Metric, Prices, cost_metrics, find_metric
from palaver.messages import encode
from palaver.private_files import make_private_directory, write_private_file

RESULT_FILE, CASES_FILE, REPORT_FILE = "result.json", "cases.jsonl", "report.html"


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What was run. Two runs with the same value measure the same thing."""

    suite: str
    suite_sha256: str
    description: str
    target: str
    metrics: tuple[str, ...]
    split: str
    files: tuple[DataFile, ...]
    total: int
    limit: int | None
    seed: int
    dropped_examples: int
    documents: int
    version: str
    model: str
    skills: dict[str, str]
    settings: dict[str, str]
    prices: Prices | None = None


class ScoreRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A metric's score with its 95 % confidence interval; None where there is none."""

    title: str
    value: float | None
    low: float | None
    high: float | None
    is_better_high: bool
    unit: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run; ``scores`` by metric, empty until it has ended."""

    format: int = 1
    about: About
    started_at: float
    cases: int = 0
    scores: dict[str, ScoreRecord] = {}


class RunDirectory:
    """The directory of one run. Other users may not read it: replies may quote anything."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open_cases(self, result: Result) -> list[Case]:
        """Create the directory for a run, or return the cases that are done when it is the same.

        Raises `InvalidInput` for a directory of something else.
        """
        if (self.path / RESULT_FILE).exists():
            problem = describe_difference(self.result().about, result.about)
            if problem:
                raise InvalidInput(
                    f"{str(self.path)!r} has another run: {problem}. Name another --output"
                )
            return self._recover_cases()
        if self.path.exists() and any(self.path.iterdir()):
            raise InvalidInput(f"{str(self.path)!r} holds files that are not of a run")
        make_private_directory(self.path)
        self.store(result)
        return []

    def _recover_cases(self) -> list[Case]:
        """Return the stored cases, and cut off one that a kill has left incomplete."""
        path = self.path / CASES_FILE
        if path.exists():
            with path.open("rb+") as stream:
                stream.truncate(stream.read().rfind(b"\n") + 1)
        return self.cases()

    def append(self, case: Case) -> None:
        """Add a case to the file of cases."""
        with (self.path / CASES_FILE).open("ab") as stream:
            stream.write(encode(case) + b"\n")

    def store(self, result: Result) -> None:
        write_private_file(self.path / RESULT_FILE, msgspec.json.format(encode(result)) + b"\n")

    def result(self) -> Result:
        """Return the result. Raises `InvalidInput` when this is no directory of a run."""
        try:
            return msgspec.json.decode((self.path / RESULT_FILE).read_bytes(), type=Result)
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidInput(f"{str(self.path)!r} is no directory of a run: {error}") from error

    def cases(self) -> list[Case]:
        """Return the stored cases."""
        path = self.path / CASES_FILE
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [msgspec.json.decode(line, type=Case) for line in lines]


def describe_difference(before: About, now: About) -> str:
    """Return the first difference between two runs, empty when they are the same."""
    for name in About.__struct_fields__:
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            return f"{name} is {str(old)[:80]!r} there and {str(new)[:80]!r} now"
    return ""


def metrics_of(about: About) -> list[Metric]:
    """Return the metrics of a run: those of the suite, then time, tokens and cost."""
    own = [find_metric(name) for name in about.metrics]
    return own + cost_metrics(about.prices, has_model=bool(about.model))


def score_cases(
    metrics: Sequence[Metric], cases: Sequence[Case], seed: int
) -> dict[str, ScoreRecord]:
    """Return the scores of the cases by metric, with intervals from resamples by ``seed``."""
    scores = {}
    for metric in metrics:
        measure = metric.measure(cases)
        resampled = map(measure.score, draw_weights(len(cases), seed))
        interval = interval_of(score_all(measure, len(cases)), resampled)
        scores[metric.name] = record_score(metric, interval)
    return scores


def record_score(metric: Metric, interval: Interval) -> ScoreRecord:
    value, low, high = (None if math.isnan(number) else number for number in interval)
    return ScoreRecord(
        title=metric.title,
        value=value,
        low=low,
        high=high,
        is_better_high=metric.is_better_high,
        unit=metric.unit,
    )
