"""A browser for each module, a server for each test."""

import re
from collections.abc import AsyncIterator

import pytest_asyncio
from tests.live.browsers import browser, pytest_generate_tests  # noqa: F401
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.engine import GenerationRequest
from palaver.testing import ScriptedEngine


def make_title(request: GenerationRequest) -> str:
    """Return the first message, without its command: the titles of the page's conversations."""
    return re.sub(r"^/\S+ ", "", request.messages[-1].content.partition("\n\n")[0])


@pytest_asyncio.fixture(loop_scope="module")
async def live_server() -> AsyncIterator[LiveServer]:
    async with open_live_server(engine=ScriptedEngine(make_title)) as opened:
        yield opened
