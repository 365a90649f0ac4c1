"""A preparation: what its steps need, and what each of them returns."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from palaver.data.kinds import Example
from palaver.data.recipe import Recipe
from palaver.data.rows import Drops, RowReader, WorkRow
from palaver.jobs.folder import Json
from palaver.jobs.people import PeopleNames

PARTS = ("train", "validation", "test")
SUITES_FILE = ".suites.jsonl"
"""Texts of the suites that no row may be like, among the snapshots."""
OnRow = Callable[[int], None]
"""Called with the number of rows that a step has done."""


@dataclasses.dataclass(frozen=True, slots=True)
class Preparation:
    """What the steps need: the recipe, the files that it names by their names, snapshots of the
    ledger and the knowledge base, a directory for the rows, and the people's names."""

    recipe: Recipe
    files: Mapping[str, Path]
    snapshots: Path
    work: Path
    outputs: Path
    names: PeopleNames

    def rows(self, step: str) -> Iterator[tuple[WorkRow, Example]]:
        return RowReader(self.recipe.kind).read(self.work / f"{step}.jsonl")


@dataclasses.dataclass(frozen=True, slots=True)
class StepResult:
    """How many rows a step had and left, which it has dropped, and what else it has counted."""

    rows_in: int
    rows_out: int
    drops: Drops
    figures: Json = dataclasses.field(default_factory=dict)
