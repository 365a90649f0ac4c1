"""Clients of other projects, unmodified, against a running server, and the table of docs/clients.md
that they fill."""

import pytest
from tests.clients.server import open_server
from tests.clients.table import (
    CLIENTS,
    DOCUMENT,
    PYTHON,
    examples,
    row_of,
    run_client,
    written_table,
)

pytestmark = pytest.mark.live


@pytest.mark.parametrize("script", CLIENTS)
def test_the_document_shows_what_the_script_runs(script: str) -> None:
    shown = DOCUMENT.read_text(encoding="utf-8")
    assert f"\n{examples()[script]}\n" in shown, f"docs/clients.md differs from {script}"


@pytest.mark.skipif(not PYTHON.exists(), reason="needs .venv-clients: scripts/install test")
@pytest.mark.parametrize("script", CLIENTS)
async def test_a_client_does_what_the_table_says(script: str) -> None:
    async with open_server() as url:
        passed = await run_client(script, url)
    row = row_of(script, passed)
    assert row in written_table(), f"python -m tests.clients.table would write {row}"
