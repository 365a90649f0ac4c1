"""Runs: one suite from its files to its result and report."""

import asyncio
import contextlib
import hashlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from palaver.app import BackendBuilder
from palaver.config.settings import KnowledgeSettings, Settings
from palaver.engine import Engine
from palaver.errors import InvalidInput
from palaver.evaluation.cases import Case
from palaver.evaluation.data import SuiteData, read_data
from palaver.evaluation.metrics import Prices, cost_metrics, suite_metrics
from palaver.evaluation.reports import write_run_report
from palaver.evaluation.results import (
    About,
    Result,
    RunDirectory,
    metrics_of,
    score_cases,
)
from palaver.evaluation.running import (
    TENANT,
    LogprobEngine,
    NoEngine,
    build_server,
    run_examples,
)
from palaver.evaluation.suites import Suite, load_suite
from palaver.knowledge import Document, FolderReader, KnowledgeBase, SearchByMeaning
from palaver.plugins import PluginRegistry
from palaver.server import Server, read_limits
from palaver.version import __version__

OnProgress = Callable[[int, int], None]
"""Called with the numbers of complete cases and of all cases."""


class RunOptions(NamedTuple):
    """What a run does with its suite. ``limit`` rows are chosen by ``seed``; None: all."""

    limit: int | None = None
    seed: int = 0
    parallel: int = 4
    run_code: bool = False
    prices: Prices | None = None


def new_directory(suite: Path) -> Path:
    """Return the directory of a run of a suite that begins now."""
    return Path("evaluations") / time.strftime(f"{suite.stem}-%Y%m%d-%H%M%S")


class Run:
    """One run of the suite in ``path``, whose files are in the directory ``data``.

    Raises `ConfigurationError` and `InvalidInput` for what is wrong with the suite or its data.
    """

    def __init__(
        self,
        path: Path,
        data: Path,
        options: RunOptions,
        settings: Settings,
        registry: PluginRegistry,
    ) -> None:
        self.suite: Suite = load_suite(path)
        self.metrics = suite_metrics(self.suite)
        if self.suite.program is not None and not options.run_code:
            raise InvalidInput(
                "the suite runs code that the model writes; allow that with --run-code. The code "
                "gets no network and no files but Python's own"
            )
        self._path = path
        self._suite_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self._options = options
        self._settings = settings
        self._registry = registry
        skills = registry.skills
        if self.suite.skill and self.suite.skill not in skills:
            known = ", ".join(sorted(skills))
            raise InvalidInput(f"there is no skill {self.suite.skill!r}; there are: {known}")
        self.data: SuiteData = read_data(
            self.suite,
            data,
            limit=options.limit,
            seed=options.seed,
            skills=skills.values(),
            read_files=self._read_files,
        )

    def _read_files(self, paths: Sequence[Path]) -> tuple[Document, ...]:
        base = BackendBuilder(self._settings, self._registry).knowledge()
        if not isinstance(base, FolderReader):
            name = self._settings.knowledge.use
            raise InvalidInput(f"the knowledge base {name!r} reads no files; name documents.files")
        return asyncio.run(base.read_files(paths, read_limits(self._settings.knowledge)))

    def metric_names(self, *, has_model: bool) -> list[str]:
        """Return the names of the scores that the result will have."""
        costs = cost_metrics(self._options.prices, has_model=has_model)
        return [metric.name for metric in (*self.metrics, *costs)]

    def run(
        self,
        directory: RunDirectory,
        engine: Engine | None,
        on_progress: OnProgress,
        *,
        settings_given: Mapping[str, str],
        models: Mapping[str, Engine] | None = None,
    ) -> Result:
        """Run what is not done yet, and write the result and the report.

        ``engine`` None: nothing is generated. ``models`` are the engines of ``engine.models``.
        ``settings_given`` are named in the report.
        """
        wants_logprobs = engine is not None and "perplexity" in self.suite.metrics
        logprobs = LogprobEngine(engine) if wants_logprobs and engine else None
        unused = {name: NoEngine() for name in self._settings.engine.models}
        with tempfile.TemporaryDirectory(prefix="palaver-evaluation-") as stores:
            server = build_server(
                self.suite,
                self.data,
                self._settings,
                self._registry,
                engine=logprobs or engine or NoEngine(),
                models={**unused, **(models or {})},
                stores=Path(stores),
            )
            running = self._run(server, directory, logprobs, on_progress, settings_given)
            result, cases = asyncio.run(running)
        return finish(directory, result, cases)

    async def _run(
        self,
        server: Server,
        directory: RunDirectory,
        logprobs: LogprobEngine | None,
        on_progress: OnProgress,
        settings: Mapping[str, str],
    ) -> tuple[Result, list[Case]]:
        """Run what is not done yet. Return the result without scores, and all cases."""
        async with server, self._documents_in(server.knowledge):
            if isinstance(server.knowledge, SearchByMeaning):
                await server.knowledge.wait_until_embedded()
            about = self._describe(server.engine_info.model, settings)
            result = Result(about=about, started_at=time.time())
            done = await asyncio.to_thread(directory.open_cases, result)
            known = {case.example.id for case in done}
            writing = asyncio.Lock()

            async def on_case(case: Case) -> None:
                async with writing:
                    await asyncio.to_thread(directory.append, case)
                done.append(case)
                on_progress(len(done), len(self.data.examples))

            on_progress(len(done), len(self.data.examples))
            await run_examples(
                self.suite,
                server,
                [each for each in self.data.examples if each.id not in known],
                on_case,
                parallel=self._options.parallel,
                seed=self._options.seed,
                logprobs=logprobs,
            )
        return result, done

    @contextlib.asynccontextmanager
    async def _documents_in(self, knowledge: KnowledgeBase) -> AsyncIterator[None]:
        """Store the documents for a run. A store that outlives it keeps none of them."""
        outlives = self._settings.knowledge.use != KnowledgeSettings().use
        if outlives:  # those of a run that was killed
            await _remove_documents(knowledge)
        await knowledge.add(TENANT, self.data.documents)
        try:
            yield
        finally:
            if outlives:
                await _remove_documents(knowledge)

    def _describe(self, model: str, settings: Mapping[str, str]) -> About:
        options, suite = self._options, self.suite
        return About(
            suite=self._path.stem,
            suite_sha256=self._suite_sha256,
            description=suite.description,
            target=suite.target,
            metrics=suite.metrics,
            split=suite.rows.split,
            files=self.data.files,
            total=self.data.total,
            limit=options.limit,
            seed=options.seed,
            dropped_examples=self.data.dropped_examples,
            documents=len(self.data.documents),
            version=__version__,
            model=model,
            skills={
                name: str(self._registry.owners["skills", name])
                for name in sorted(self._registry.skills)
            },
            settings=dict(settings),
            prices=options.prices,
        )


async def _remove_documents(knowledge: KnowledgeBase) -> None:
    for info in await knowledge.documents(TENANT):
        await knowledge.remove(TENANT, info.id)


def finish(directory: RunDirectory, result: Result, cases: list[Case]) -> Result:
    """Score the cases, and write the result and its report."""
    cases = sorted(cases, key=lambda case: case.example.id)
    metrics = metrics_of(result.about)
    scored = msgspec.structs.replace(
        result, cases=len(cases), scores=score_cases(metrics, cases, result.about.seed)
    )
    directory.store(scored)
    write_run_report(directory, scored, cases)
    return scored
