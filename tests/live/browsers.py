"""Browsers for the tests of a folder: its conftest imports `browser` and
`pytest_generate_tests`."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser
from tests.live.chromium import chromium
from tests.live.firefox import firefox

BROWSERS = {"chromium": chromium, "firefox": firefox}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with the mark `firefox` in both browsers, the others in Chromium."""
    if "browser" in metafunc.fixturenames:
        is_core = metafunc.definition.get_closest_marker("firefox") is not None
        names = list(BROWSERS) if is_core else ["chromium"]
        metafunc.parametrize("browser", names, indirect=True, scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(request: pytest.FixtureRequest) -> AsyncIterator[Browser]:
    async with BROWSERS[request.param]() as browser:
        yield browser
