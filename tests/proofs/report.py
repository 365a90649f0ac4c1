"""Report: the results of a run of the proofs, one line per property, printed and as JSON."""

import asyncio
import contextlib
import datetime
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.findings import KINDS, Findings
from tests.proof_settings import IS_LONG_RUN, SEED
from tests.proofs.machine import machine

FOLDER = Path(__file__).parents[2] / "build"
PROGRESS_SECONDS = 10.0

FigureValue = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyResult:
    """Result of one property. ``figures``: further measurements, such as ``seconds``."""

    property: str
    turns: int = 0
    kills: int = 0
    findings: Findings = field(default_factory=Findings)
    figures: dict[str, FigureValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantResult:
    """Result of the same run with a ``mutation``, such as "fence off"."""

    property: str
    detected: bool
    mutation: str


class Report:
    """Results of a test run. ``print_line`` prints at once, past pytest's capture."""

    def __init__(self, print_line: Callable[[str], None], folder: Path = FOLDER) -> None:
        self._print_line = print_line
        self._folder = folder
        self._results: dict[str, PropertyResult] = {}
        self._mutants: list[MutantResult] = []
        self._others: dict[str, dict[str, FigureValue]] = {}

    def add(self, result: PropertyResult) -> None:
        """Add a result. Call it before the assertions, so that a failed run is reported as well."""
        self._results[result.property] = result

    def add_mutant(self, property: str, detected: bool, mutation: str) -> None:
        """Add the result of a mutant, which must be detected."""
        self._mutants.append(MutantResult(property=property, detected=detected, mutation=mutation))

    def add_records(self, records: Mapping[str, dict[str, FigureValue]]) -> None:
        """Add the records of another process of this run."""
        self._others |= records

    @contextlib.asynccontextmanager
    async def progress(self, describe: Callable[[], str]) -> AsyncIterator[None]:
        """Print ``describe()`` every `PROGRESS_SECONDS` during a long run."""

        async def print_progress() -> None:
            while IS_LONG_RUN:
                await asyncio.sleep(PROGRESS_SECONDS)
                self._print_line(describe())

        task = asyncio.create_task(print_progress())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def lines(self) -> Iterator[str]:
        """Yield ``property=… turns=… kills=… lost=0 … mutants=detected`` for each property."""
        for name, values in self.records().items():
            yield " ".join(f"{key}={value}" for key, value in ({"property": name} | values).items())

    def records(self) -> dict[str, dict[str, FigureValue]]:
        """Return the values of the lines by property."""
        names = dict.fromkeys([*self._results, *(mutant.property for mutant in self._mutants)])
        own = {name: self._counts(name) | self._mutant_verdict(name) for name in names}
        return self._others | own

    def _counts(self, name: str) -> dict[str, FigureValue]:
        result = self._results.get(name)
        if result is None:
            return {}
        findings = {kind: getattr(result.findings, kind) for kind in KINDS}
        return {"turns": result.turns, "kills": result.kills} | findings | result.figures

    def _mutant_verdict(self, name: str) -> dict[str, FigureValue]:
        mutants = [mutant for mutant in self._mutants if mutant.property == name]
        undetected = [mutant.mutation for mutant in mutants if not mutant.detected]
        if undetected:
            return {"mutants": f"undetected({', '.join(undetected)})"}
        if len(mutants) > 1:
            return {"mutants": f"detected({', '.join(mutant.mutation for mutant in mutants)})"}
        return {"mutants": "detected"} if mutants else {}

    def save(self) -> Path:
        """Write the records to a JSON file; those of other properties in it are kept."""
        path = self._folder / f"proofs-{'long' if IS_LONG_RUN else 'short'}.json"
        records: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        about = {"date": _now(), "seed": SEED, "machine": machine()}
        records |= {name: about | values for name, values in self.records().items()}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n")
        return path


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
