"""What every test of the house gets."""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

OURS = ["palaver", "palaver_skills", "palaver_plugins"]


@pytest.fixture(autouse=True)
def no_blocking() -> Iterator[BlockBuster]:
    """Our code that blocks a running event loop fails the test."""
    with blockbuster_ctx(OURS) as guard:
        yield guard
