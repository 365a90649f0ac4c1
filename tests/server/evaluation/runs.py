"""Runs of small suites with the project's skills and a scripted engine."""

import importlib.metadata
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from palaver.config.settings import Settings
from palaver.engine import Engine
from palaver.evaluation.results import Result, RunDirectory
from palaver.evaluation.runs import Run, RunOptions
from palaver.plugins import PluginRegistry, load_plugins

PLUGINS = {
    "chat": "palaver_skills.chat",
    "codegen": "palaver_skills.codegen",
    "qa": "palaver_skills.qa",
    "translation": "palaver_skills.translation",
    "knowledge": "palaver_plugins.knowledge.sqlite",
    "ledger": "palaver_plugins.ledgers.sqlite",
}


def registry() -> PluginRegistry:
    points = [importlib.metadata.EntryPoint(*item, "palaver") for item in PLUGINS.items()]
    return load_plugins(points)


def write_suite(folder: Path, toml: str, rows: list[dict[str, Any]]) -> Path:
    """Write a suite and its rows, as ``rows.jsonl``; return its path."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, "utf-8")
    tomllib.loads(toml)
    path = folder / "small.toml"
    path.write_text(toml, "utf-8")
    return path


def ignore(done: int, total: int) -> None:
    pass


def run_suite(
    path: Path,
    engine: Engine | None = None,
    *,
    output: str = "run",
    on_progress: Callable[[int, int], None] = ignore,
    settings: Settings | None = None,
    plugins: PluginRegistry | None = None,
    models: Mapping[str, Engine] | None = None,
    **options: Any,
) -> tuple[Result, RunDirectory]:
    """Run a suite whose data is beside it; the results are in ``output`` beside it."""
    directory = RunDirectory(path.parent / output)
    run = Run(
        path, path.parent, RunOptions(**options), settings or Settings(), plugins or registry()
    )
    result = run.run(directory, engine, on_progress, settings_given={}, models=models)
    return result, directory
