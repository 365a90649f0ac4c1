"""Fixtures of the live suites."""

from pathlib import Path

import pytest
from tests.server.models import copies


@pytest.fixture
def streaming_model(tmp_path: Path) -> str:
    """The setting of a model whose replies are shown while it writes them."""
    return copies.streaming_model(tmp_path / "model")
