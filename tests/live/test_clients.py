"""Clients of other projects, unmodified, against a running server, and the table of docs/clients.md
that they fill."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.clients.table import (
    CLIENTS,
    DOCUMENT,
    PYTHON,
    ClientRuns,
    client_runs,
    examples,
    row_of,
    written_table,
)

pytestmark = pytest.mark.live


@pytest.mark.parametrize("script", CLIENTS)
def test_the_document_shows_what_the_script_runs(script: str) -> None:
    shown = DOCUMENT.read_text(encoding="utf-8")
    assert f"\n{examples()[script]}\n" in shown, f"docs/clients.md differs from {script}"


@pytest_asyncio.fixture(name="runs", scope="module", loop_scope="module")
async def opened_runs() -> AsyncIterator[ClientRuns]:
    async with client_runs() as runs:
        yield runs


@pytest.mark.skipif(not PYTHON.exists(), reason="needs .venv-clients: scripts/install test")
@pytest.mark.parametrize("script", CLIENTS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_does_what_the_table_says(script: str, runs: ClientRuns) -> None:
    passed = await runs.passed(script)
    row = row_of(script, passed)
    assert row in written_table(), f"python -m tests.clients.table would write {row}"
