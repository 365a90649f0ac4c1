"""What every test of the house gets."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis.configuration import set_hypothesis_home_dir
from tests.proof import LONG, SEED

# Its usual place in the root makes pytest warn, since the project sets `norecursedirs`.
set_hypothesis_home_dir(Path(__file__).parent.parent / ".pytest_cache" / "hypothesis")

OURS = ["palaver", "palaver_skills", "palaver_plugins"]


def pytest_report_header() -> str:
    return f"proofs: PALAVER_SEED={SEED}, {'long' if LONG else 'short'} form"


@pytest.fixture(autouse=True)
def no_blocking() -> Iterator[BlockBuster]:
    """Our code that blocks a running event loop fails the test."""
    with blockbuster_ctx(OURS) as guard:
        yield guard
