"""Runs of tests in a copy of the working tree, each in a fork of a process that has imported the
libraries."""

import contextlib
import importlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from pathlib import Path

import coverage
import pytest

LIBRARIES = (
    "aiohttp.test_utils",
    "aiohttp.web",
    "blockbuster",
    "hypothesis.strategies",
    "jinja2",
    "msgspec",
    "numpy",
    "pluggy",
    "prometheus_client",
    "pydantic",
    "re2",
    "redis.asyncio",
)
"""Imported once; a fork has them without reading them again."""
OPTIONS = (
    "-q", "--tb=no", "--no-header", "-p", "no:cacheprovider", "-p", "no:schemathesis",
    "-m", "not live and not redis and not slow and not proof",
    "-W", "ignore::pytest.PytestAssertRewriteWarning",  # the libraries are imported already
)  # fmt: skip
MIN_SECONDS = 60.0
"""A run has at least so long: the tests bound their own waits."""
SLOWDOWN = 10.0
"""A run that takes so many times as long as without a mutant is ended: the mutant is killed."""


class Coverage:
    """The tests that reach each line of a module, and how long they take."""

    def __init__(
        self, tests_by_line: dict[int, list[str]], seconds: dict[str, float], failed: set[str]
    ) -> None:
        self.failed = failed
        """Tests that fail without a mutant, and so tell nothing."""
        self._tests_by_line = tests_by_line
        self._seconds = seconds

    def tests_of(self, *lines: int) -> tuple[list[str], float]:
        """Return the tests that reach one of ``lines``, the quickest first, and their seconds. A
        line that runs at the import has all."""
        tests = [test for line in lines for test in self._tests_by_line.get(line, [])]
        if "" in tests:
            tests = list(self._seconds)
        tests = sorted(
            set(tests) - {""} - self.failed, key=lambda test: self._seconds.get(test, 0.0)
        )
        return tests, sum(self._seconds.get(test, 0.0) for test in tests)


class CoveragePlugin:
    """A pytest plugin that measures which tests reach the lines of some modules."""

    def __init__(self, root: Path, modules: Collection[str]) -> None:
        self._seconds: dict[str, float] = {}
        self._failed: list[str] = []
        self._paths = {module: str(root / module) for module in modules}
        self._coverage = coverage.Coverage(
            data_file=None, include=list(self._paths.values()), config_file=False
        )
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._coverage.switch_context(item.nodeid)
        began = time.monotonic()
        result = yield
        self._seconds[item.nodeid] = time.monotonic() - began
        self._coverage.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.append(report.nodeid)

    def write(self, path: Path) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        contexts = {name: data.contexts_by_lineno(path) for name, path in self._paths.items()}
        path.write_text(json.dumps([contexts, self._seconds, self._failed]))


class Tree:
    """A copy of the working tree in which tests run."""

    def __init__(self, root: Path, original: Path) -> None:
        self.root = root
        self._original = original
        self._mtimes = itertools.count(1_000_000_000)
        for name in LIBRARIES:
            importlib.import_module(name)

    @contextlib.contextmanager
    def replaced(self, path: Path, source: str) -> Iterator[None]:
        """Put ``source`` into a file for the block."""
        original, mtime = path.read_bytes(), path.stat().st_mtime
        try:
            path.write_text(source, "utf-8")
            cached = next(self._mtimes)  # by it Python sees that its compiled file is of another
            os.utime(path, (cached, cached))
            yield
        finally:
            path.write_bytes(original)
            os.utime(path, (mtime, mtime))

    def passes(self, tests: list[str], seconds: float) -> bool:
        """Run tests. Return False when one fails, or when they hang."""
        return self._fork(
            lambda: pytest.main(["-x", *OPTIONS, *tests]), MIN_SECONDS + SLOWDOWN * seconds
        )

    def measure(self, modules: Collection[str], tests: Sequence[str]) -> dict[str, Coverage]:
        """Run tests without a mutant, and return what they reach of the modules."""
        path = self.root / "coverage.json"

        def run() -> int:
            plugin = CoveragePlugin(self.root, modules)
            pytest.main([*OPTIONS, *tests], plugins=[plugin])
            plugin.write(path)
            return 0

        if not self._fork(run, 3600.0):
            output = (self.root / "output.txt").read_text("utf-8", "replace")
            raise SystemExit(f"{tests} do not run:\n{output[-2000:]}")
        contexts, seconds, failed = json.loads(path.read_text())
        return {
            module: Coverage(
                {int(line): names for line, names in lines.items()}, seconds, set(failed)
            )
            for module, lines in contexts.items()
        }

    def _fork(self, run: Callable[[], int], timeout: float) -> bool:
        """Return whether ``run`` in a fork of this process returns 0 within ``timeout`` seconds."""
        child = os.fork()
        if not child:
            os.setsid()
            code = 3
            with contextlib.suppress(BaseException):
                self._enter()
                code = run()
            os._exit(code)
        deadline = time.monotonic() + timeout
        status: int | None = None
        while status is None and time.monotonic() < deadline:
            ended, found = os.waitpid(child, os.WNOHANG)
            status = found if ended else None
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # also what the tests have started and left
        if status is None:
            os.waitpid(child, 0)
        return status == 0

    def _enter(self) -> None:
        """Make this process, a fork, import the copy."""
        output = os.open(self.root / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        folders = ["server", "plugins", "skills", ""]
        originals = {str(self._original / folder) for folder in folders}
        copies = [str(self.root / folder) for folder in folders]
        sys.path[:] = copies + [path for path in sys.path if path not in originals]
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [*copies, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        )
        for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
            del sys.modules[name]
        sys.pycache_prefix = str(self.root / "pycache")
        sys.dont_write_bytecode = False
