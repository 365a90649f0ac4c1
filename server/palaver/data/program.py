"""The program of a preparation: runs the steps, each once, and writes the manifest."""

import importlib.metadata
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from palaver.data.kinds import TYPES
from palaver.data.preparation import PARTS, OnRow, Preparation, StepResult
from palaver.data.profile import write_profile
from palaver.data.recipe import Recipe
from palaver.data.rows import writing
from palaver.data.steps import STEPS
from palaver.errors import Conflict
from palaver.jobs.folder import JobFolder, JobProgram, Json, read_object
from palaver.jobs.people import (
    MANIFEST,
    OUTPUTS,
    SHOWN,
    SNAPSHOTS,
    WORK,
    PeopleNames,
    changing_rows,
    describe_rows,
    finish_erasures,
    write_names,
)
from palaver.jobs.store import compute_sha256
from palaver.version import __version__

LIBRARIES = ("numpy", "rensa", "py3langid", "phonenumbers", "pyarrow")
ROWS_PER_REPORT = 1_000
PERCENT = 100


class Stopped(Exception):
    """Somebody has asked the job to end; the steps that are complete stay."""


class PrepareProgram:
    """Runs the steps of one job. A step that is complete is not run again."""

    def __init__(self, job: JobProgram) -> None:
        self._job = job
        self._folder = JobFolder(job.path)
        config = job.config
        names = PeopleNames.of(job.path)
        assert names is not None, "the command that creates the job writes the key"
        self._task = Preparation(
            recipe=Recipe.model_validate(config["recipe"]),
            files={name: Path(path) for name, path in config["files"].items()},
            snapshots=job.path / SNAPSHOTS,
            work=job.path / WORK,
            outputs=job.path / OUTPUTS,
            names=names,
        )

    def run(self) -> Json:
        """Run what is not done yet. Return the result of the job. Raises `Stopped`."""
        manifest = self._job.path / MANIFEST
        if not manifest.exists():
            self._check_inputs()
            self._task.work.mkdir(exist_ok=True)
            reports = self._run_steps()
            self._write_shown()
            described = self._describe(reports)
        with changing_rows(self._job.path):
            if not manifest.exists():
                write_names(self._job.path, described)
                self._folder.write(MANIFEST, described)
            finish_erasures(self._folder)
            write_profile(self._job.path)
        for directory in (self._task.work, self._task.snapshots):
            shutil.rmtree(directory, ignore_errors=True)  # people's words, before the redaction
        self._job.report(step=len(STEPS) * PERCENT, steps=len(STEPS) * PERCENT, doing="profile")
        found = read_object(manifest)
        return {Path(name).stem: output["rows"] for name, output in found["outputs"].items()}

    def _check_inputs(self) -> None:
        for path, sha256 in self._folder.describe().inputs.items():
            if compute_sha256(Path(path)) != sha256:
                raise Conflict(f"{path!r} has changed since the job was created; prepare it again")

    def _run_steps(self) -> dict[str, Json]:
        reports: dict[str, Json] = {}
        rows = 0
        for number, (name, run_step) in enumerate(STEPS.items()):
            done = f"{WORK}/{name}.json"
            if not (self._job.path / done).exists():
                result = run_step(self._task, self._reporter(number, name, rows))
                self._write_drops(name, result)
                self._folder.write(done, _describe_step(result))
            reports[name] = read_object(self._job.path / done)
            rows = reports[name]["out"]
        return reports

    def _reporter(self, number: int, name: str, rows: int) -> OnRow:
        steps = len(STEPS) * PERCENT

        def on_row(done: int) -> None:
            if done % ROWS_PER_REPORT == 1:
                at = number * PERCENT + (PERCENT * done // max(rows, done) if rows else 0)
                self._job.report(step=at, steps=steps, doing=name, rows=done)
                if self._job.is_stop_requested:
                    raise Stopped

        return on_row

    def _write_drops(self, name: str, result: StepResult) -> None:
        with writing(self._task.work / f"{name}.dropped.jsonl") as write:
            for row in result.drops.shown:
                write(row)

    def _write_shown(self) -> None:
        """Put the shown rows of all steps into one file, which an erasure can change."""
        content = b"".join(
            (self._task.work / f"{name}.dropped.jsonl").read_bytes() for name in STEPS
        )
        (self._job.path / SHOWN).write_bytes(content)

    def _describe(self, reports: Mapping[str, Json]) -> Json:
        recipe = self._task.recipe
        hashes = self._folder.describe().inputs
        snapshots = sorted(self._task.snapshots.glob("*.jsonl"))
        files = {f"{OUTPUTS}/{part}.jsonl": self._task.outputs / f"{part}.jsonl" for part in PARTS}
        return {
            "kind": recipe.kind,
            "recipe": recipe.model_dump(mode="json"),
            "inputs": {
                **{name: {"sha256": hashes[str(file)]} for name, file in self._task.files.items()},
                **{f"{SNAPSHOTS}/{path.name}": describe_rows(path) for path in snapshots},
            },
            "steps": dict(reports),
            "outputs": {name: describe_rows(path) for name, path in files.items()},
            "schema": msgspec.json.schema(TYPES[recipe.kind]),
            "versions": _versions(),
            "erased_rows": 0,
        }


def _describe_step(result: StepResult) -> Json:
    dropped = dict(result.drops.counts.most_common())
    return {"in": result.rows_in, "out": result.rows_out, "dropped": dropped, **result.figures}


def _versions() -> Json:
    found = {"palaver-server": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        found[name] = importlib.metadata.version(name)
    return found
