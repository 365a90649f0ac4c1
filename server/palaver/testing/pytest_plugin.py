"""Fixtures and scenario files for skill packages. Installing palaver brings them; they import
nothing until used."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from palaver.testing import ChatClient

Begin = Callable[..., "Awaitable[ChatClient]"]
SCENARIO = ".scenario.toml"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "ScenarioFile | None":
    """Collect each scenario file as a test."""
    if not file_path.name.endswith(SCENARIO):
        return None
    return ScenarioFile.from_parent(parent, path=file_path)


class ScenarioFile(pytest.File):
    """A file ``*.scenario.toml``, see `palaver.testing.scenarios`."""

    def collect(self) -> "Iterator[ScenarioItem]":
        yield ScenarioItem.from_parent(self, name=self.path.name.removesuffix(SCENARIO))


class ScenarioItem(pytest.Item):
    """The test of one scenario."""

    def runtest(self) -> None:
        from palaver.testing.scenarios import load_scenario, run_scenario

        asyncio.run(run_scenario(load_scenario(self.path), self.path.parent))

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None
    ) -> Any:  # Any: as pytest declares them
        """Show what differs; the code that compares is of no interest."""
        from palaver.errors import ConfigurationError

        if isinstance(excinfo.value, AssertionError | ConfigurationError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"scenario {self.name}"


@pytest_asyncio.fixture
async def begin() -> AsyncIterator[Begin]:
    """Begin conversations that end with the test::

    async def test_haiku(begin):
        chat = await begin(Haiku, engine=ScriptedEngine("Old pond."))
        assert "pond" in await chat.say("write a haiku about a frog")

    Takes what `palaver.testing.converse` takes.
    """
    from palaver.testing import converse  # a test run without skills should not pay for it

    async with contextlib.AsyncExitStack() as stack:

        async def begin(*skills: Any, **parts: Any) -> "ChatClient":  # Any: as converse takes them
            return await stack.enter_async_context(converse(*skills, **parts))

        yield begin
