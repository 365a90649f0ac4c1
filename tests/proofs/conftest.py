"""The proofs report what they counted after the tests' own results."""

import pytest
from tests.proof_settings import SEED
from tests.proofs.report import Report

_report = pytest.StashKey[Report]()


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """Takes the `Line` of a property and what its twins did; shows them when the tests end."""
    config = request.config
    if _report not in config.stash:
        capture = config.pluginmanager.getplugin("capturemanager")

        def tell(line: str) -> None:
            with capture.global_and_fixture_disabled():
                print(line, flush=True)  # noqa: T201

        config.stash[_report] = Report(tell)
    return config.stash[_report]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever reports a property is a proof: too slow for the fast checks."""
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
