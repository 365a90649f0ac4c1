"""Fixtures of every test."""

import gc
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir
from tests.proof_settings import IS_LONG_RUN, SEED

if TYPE_CHECKING:
    from tests.server.web.live_server import LiveServer

# Its usual place in the root makes pytest warn, since the project sets `norecursedirs`.
set_hypothesis_home_dir(Path(__file__).parent.parent / ".pytest_cache" / "hypothesis")

# A deadline would fail an example for being slow on a busy machine.
settings.register_profile("full", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=20)  # `make check`
settings.load_profile("full")

_MODULE_MARKS = re.compile(r"^pytestmark = (?:\[[^]]*\]|.*)", re.MULTILINE)
_EXCLUDED = re.compile(r"not (\w+)(?: and |$)")
OURS = ["palaver", "palaver_skills", "palaver_plugins"]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give the property tests the seed of the run, before Hypothesis reads its option."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = SEED


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not load modules that ``-m "not a and not b"`` leaves out as a whole."""
    wanted: str = config.option.markexpr
    excluded = set(_EXCLUDED.findall(wanted))
    if collection_path.suffix != ".py" or not excluded or _EXCLUDED.sub("", wanted):
        return None
    marks = _MODULE_MARKS.search(collection_path.read_text("utf-8"))
    return True if marks and excluded & set(re.findall(r"[a-z]+", marks[0])) else None


def pytest_report_header() -> str:
    return f"proofs: PALAVER_SEED={SEED}, {'long' if IS_LONG_RUN else 'short'} form"


def pytest_collection_finish() -> None:
    """Spare the garbage collector the thousands of collected tests: they live until the end."""
    gc.collect()
    gc.freeze()


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
