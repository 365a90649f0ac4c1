"""The `report` fixture, and its summary after pytest's own."""

from typing import Any

import pytest
from tests.proof_settings import SEED
from tests.proofs.report import Report

_report = pytest.StashKey[Report]()


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """Return the report of this test run, to which proofs add their results."""
    return _report_of(request.config)


def _report_of(config: pytest.Config) -> Report:
    if _report not in config.stash:
        capture = config.pluginmanager.getplugin("capturemanager")

        def print_line(line: str) -> None:
            with capture.global_and_fixture_disabled():
                print(line, flush=True)  # noqa: T201

        config.stash[_report] = Report(print_line)
    return config.stash[_report]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker process: send the records to the process that prints them."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None and _report in session.config.stash:
        output["proofs"] = session.config.stash[_report].records()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # Any: xdist has no types
    """Take the records of a worker process."""
    if records := getattr(node, "workeroutput", {}).get("proofs"):
        _report_of(node.config).add_records(records)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses `report` as a proof: it is too slow for the fast checks."""
    for item in items:
        if isinstance(item, pytest.Function) and "report" in item.fixturenames:
            item.add_marker("proof")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    report = config.stash.get(_report, None)
    if report is None or not report.records():
        return
    terminalreporter.section("proofs")
    for line in report.lines():
        terminalreporter.line(line)
    terminalreporter.line(f"seed {SEED}, written to {report.save()}")
