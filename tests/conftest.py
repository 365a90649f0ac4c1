"""Fixtures of every test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis.configuration import set_hypothesis_home_dir
from tests.proof import LONG, SEED

if TYPE_CHECKING:
    from tests.server.web.live_server import LiveServer

# Its usual place in the root makes pytest warn, since the project sets `norecursedirs`.
set_hypothesis_home_dir(Path(__file__).parent.parent / ".pytest_cache" / "hypothesis")

OURS = ["palaver", "palaver_skills", "palaver_plugins"]


def pytest_report_header() -> str:
    return f"proofs: PALAVER_SEED={SEED}, {'long' if LONG else 'short'} form"


@pytest.fixture(autouse=True)
def no_blocking() -> Iterator[BlockBuster]:
    """Fail the test when our code blocks a running event loop."""
    with blockbuster_ctx(OURS) as guard:
        yield guard


@pytest_asyncio.fixture
async def live_server() -> AsyncIterator["LiveServer"]:
    """Yield a server with its web surface."""
    from tests.server.web.live_server import open_live_server  # loads the web framework

    async with open_live_server() as opened:
        yield opened
