"""Comparison of two runs of a suite, case by case, with bootstrap confidence intervals."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from palaver.errors import InvalidInput
from palaver.evaluation.cases import Case
from palaver.evaluation.measures import draw_weights, interval_of, score_all
from palaver.evaluation.results import (
    About,
    Result,
    RunDirectory,
    ScoreRecord,
    metrics_of,
    record_score,
)

SAME = ("suite", "split", "files")
"""Fields of `About` in which compared runs must agree."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One metric in both runs: the scores, and ``change``, the second minus the first."""

    first: float | None
    second: float | None
    change: ScoreRecord

    @property
    def verdict(self) -> str:
        """Return ``better`` or ``worse`` when the whole interval says so, else ``unclear``."""
        low, high = self.change.low, self.change.high
        if low is None or high is None or low <= 0 <= high:
            return "unclear"
        return "better" if (low > 0) == self.change.is_better_high else "worse"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs on the same cases. ``changed``: by field of `About`, the values of both."""

    first: Result
    second: Result
    cases: int
    changed: dict[str, tuple[Any, Any]]  # Any: JSON values
    metrics: dict[str, Difference]


def pair_cases(first: RunDirectory, second: RunDirectory) -> tuple[list[Case], list[Case]]:
    """Return the cases of both runs that have the same example, in the same order.

    Raises `InvalidInput` when the runs measure different data.
    """
    about, other = first.result().about, second.result().about
    for field in SAME:
        if getattr(about, field) != getattr(other, field):
            raise InvalidInput(
                f"the runs cannot be compared: {field} differs: {getattr(about, field)!r} and "
                f"{getattr(other, field)!r}"
            )
    found = {case.example.id: case for case in second.cases()}
    pairs = [
        (case, found[case.example.id])
        for case in first.cases()
        if case.example.id in found and found[case.example.id].example.text == case.example.text
    ]
    if not pairs:
        raise InvalidInput("the runs have no example in common")
    return [before for before, _ in pairs], [after for _, after in pairs]


def compare_runs(
    first: Result,
    second: Result,
    before: Sequence[Case],
    after: Sequence[Case],
    *,
    seed: int,
) -> Comparison:
    """Compare the cases of two runs: both get the same resamples."""
    every = {metric.name: metric for metric in metrics_of(first.about)}
    common = [every[m.name] for m in metrics_of(second.about) if m.name in every]
    differences = {}
    for metric in common:
        old, new = metric.measure(before), metric.measure(after)
        values = [score_all(old, len(before)), score_all(new, len(after))]
        weights = draw_weights(len(before), seed)
        changes = (new.score(block) - old.score(block) for block in weights)
        change = record_score(metric, interval_of(values[1] - values[0], changes))
        shown = [None if np.isnan(value) else value for value in values]
        differences[metric.name] = Difference(first=shown[0], second=shown[1], change=change)
    return Comparison(
        first=first,
        second=second,
        cases=len(before),
        changed=_find_changes(first.about, second.about),
        metrics=differences,
    )


def _find_changes(first: About, second: About) -> dict[str, tuple[Any, Any]]:
    """Return what differs; of settings and skills, the single ones."""
    old, new = _flatten(first), _flatten(second)
    names = [*old, *(name for name in new if name not in old)]
    return {
        name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)
    }


def _flatten(about: About) -> dict[str, Any]:  # Any: JSON values
    flat: dict[str, Any] = {}
    for name in About.__struct_fields__:
        value = getattr(about, name)
        if isinstance(value, dict):
            flat |= {f"{name}: {key}": each for key, each in value.items()}
        else:
            flat[name] = value
    return flat
