"""What a run of the proofs found: a line per property, on the screen and as JSON."""

import asyncio
import contextlib
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.chaos.history import Findings
from tests.proof_settings import IS_LONG_RUN, SEED

FOLDER = Path(__file__).parents[2] / "build"
PROGRESS_SECONDS = 10.0

Figure = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One property's run. ``figures``: what else was measured, such as ``gap_p999_ms``."""

    property: str
    turns: int = 0
    kills: int = 0
    findings: Findings = field(default_factory=Findings)
    figures: dict[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """The same run with ``what`` (such as "fence off"). ``failed``: the checker saw it."""

    property: str
    failed: bool
    what: str


class Report:
    """Collects the lines of a test run. ``tell`` shows a line at once, past pytest's capture."""

    def __init__(self, tell: Callable[[str], None], folder: Path = FOLDER) -> None:
        self._tell = tell
        self._folder = folder
        self._lines: dict[str, Line] = {}
        self._twins: list[Twin] = []

    def __call__(self, line: Line) -> None:
        """Call it before asserting anything, so that a run that found something is shown too."""
        self._lines[line.property] = line

    def twin(self, property: str, failed: bool, what: str) -> None:
        """A twin that must fail. ``what`` is missing or broken in it."""
        self._twins.append(Twin(property=property, failed=failed, what=what))

    @contextlib.asynccontextmanager
    async def progress(self, describe: Callable[[], str]) -> AsyncIterator[None]:
        """Meanwhile show, in the long form, what ``describe`` says every ten seconds."""

        async def show() -> None:
            while IS_LONG_RUN:
                await asyncio.sleep(PROGRESS_SECONDS)
                self._tell(describe())

        task = asyncio.create_task(show())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def lines(self) -> Iterator[str]:
        """``property=… turns=… kills=… lost=0 … twin=failed``, a line for each property."""
        for name, values in self.records().items():
            yield " ".join(f"{key}={value}" for key, value in ({"property": name} | values).items())

    def records(self) -> dict[str, dict[str, Figure]]:
        """What the lines say, by property."""
        names = dict.fromkeys([*self._lines, *(twin.property for twin in self._twins)])
        return {name: self._counts(name) | self._verdict(name) for name in names}

    def _counts(self, name: str) -> dict[str, Figure]:
        line = self._lines.get(name)
        if line is None:
            return {}
        found = line.findings
        return {
            "turns": line.turns,
            "kills": line.kills,
            "lost": found.lost,
            "duplicated": found.duplicated,
            "reordered": found.reordered,
            "gaps": found.gaps,
            "wrong": found.wrong,
        } | line.figures

    def _verdict(self, name: str) -> dict[str, Figure]:
        twins = [twin for twin in self._twins if twin.property == name]
        blind = [twin.what for twin in twins if not twin.failed]
        if blind:
            return {"twin": f"passed({', '.join(blind)})"}
        if len(twins) > 1:
            return {"twin": f"failed({', '.join(twin.what for twin in twins)})"}
        return {"twin": "failed"} if twins else {}

    def save(self) -> Path:
        """Write the records beside those of earlier runs of other properties."""
        path = self._folder / f"proofs-{'long' if IS_LONG_RUN else 'short'}.json"
        held: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        made = {"date": _now(), "seed": SEED, "machine": machine()}
        held |= {name: made | values for name, values in self.records().items()}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(held, indent=2, ensure_ascii=False) + "\n")
        return path


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@cache
def machine() -> dict[str, Figure]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        "redis": _redis(),
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        named = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        if named:
            return named[1]
    return platform.processor() or platform.machine()


def _redis() -> str:
    if shutil.which("redis-server") is None:
        return ""
    told = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"v=(\S+)", told.stdout)
    return version[1] if version else told.stdout.strip()
