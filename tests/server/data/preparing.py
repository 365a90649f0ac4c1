"""Preparations of training data in tests, by the real program in this process."""

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from palaver.data.program import PrepareProgram
from palaver.data.recipe import load_recipe
from palaver.jobs.folder import JobFolder, JobProgram, Json, read_object
from palaver.jobs.people import MANIFEST, SNAPSHOTS, PeopleNames
from palaver.jobs.store import JobStore

TakeSnapshots = Callable[[PeopleNames, Path], None]


def write_rows(file: Path, rows: list[Json]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def create_job(
    directory: Path, recipe: str, *, name: str = "prepared", snapshots: TakeSnapshots | None = None
) -> JobFolder:
    """Create the job of a recipe whose files are in a directory."""
    path = directory / f"{name}.toml"
    path.write_text(recipe, "utf-8")
    loaded = load_recipe(path)
    names = [name for source in loaded.sources for name in (*source.files, source.sql) if name]
    files = {name: str(directory / name) for name in names}
    job = JobStore(directory / "jobs", in_background=False).create(
        "data",
        [sys.executable, "-m", "palaver.data"],
        {"recipe": loaded.model_dump(mode="json"), "files": files},
        inputs=[Path(file) for file in files.values()],
        name=name,
    )
    people = PeopleNames.create(job.path)
    (job.path / SNAPSHOTS).mkdir()
    if snapshots is not None:
        snapshots(people, job.path / SNAPSHOTS)
    return job


def run(job: JobFolder) -> JobFolder:
    with _keeping_signals(), JobProgram(job.path) as program:
        program.finish(PrepareProgram(program).run())
    return job


@contextlib.contextmanager
def _keeping_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def prepare(directory: Path, recipe: str, *, name: str = "prepared") -> JobFolder:
    return run(create_job(directory, recipe, name=name))


def manifest(job: JobFolder) -> Json:
    return read_object(job.path / MANIFEST)


def rows_of(job: JobFolder, part: str = "") -> list[dict[str, Any]]:
    """Return the rows of a part, or of all parts."""
    names = [part] if part else ["train", "validation", "test"]
    files = [job.path / "data" / f"{name}.jsonl" for name in names]
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def files_of(job: JobFolder) -> dict[str, bytes]:
    """Return what a preparation has written, by path."""
    found = [*sorted((job.path / "data").iterdir()), job.path / MANIFEST]
    found += [job.path / "profile.html", job.path / "dropped.jsonl"]
    return {str(file.relative_to(job.path)): file.read_bytes() for file in found}
