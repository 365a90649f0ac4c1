"""Real agents are asked: one of the official SDK in a process, and a server of our own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.plugins.channels.a2a.support import BINDINGS
from tests.plugins.tools.a2a.support import (
    agent_settings,
    ask,
    call_context,
    effects,
    running_source,
    sdk_agent,
)
from tests.server.web.live_server import eventually

from palaver import InvalidInput, ToolFailed
from palaver.testing import MemoryLedger

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture(params=BINDINGS)
async def agent(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with sdk_agent(tmp_path, request.param) as url:
        yield url


async def test_an_agent_of_the_official_library_is_asked(agent: str, tmp_path: Path) -> None:
    async with running_source({"a": agent_settings(agent)}) as source:
        assert not source.problems
        tool = source.tools["ask_a"]
        assert tool.description == (
            "Ask the agent friendly: Does what it is told. Skills: Obey: Obeys."
        )
        assert await ask(source, "hello you", call_context("1")) == "hello you"
        assert await ask(source, "message x", call_context("2")) == "said x"
        assert await ask(source, "wait 0.5", call_context("3")) == "wait 0.5"
        with pytest.raises(ToolFailed, match=r"The agent failed: I am broken\."):
            await ask(source, "fail", call_context("4"))


async def test_a_question_is_answered_by_the_conversation_that_asked(
    agent: str, tmp_path: Path
) -> None:
    async with running_source({"a": agent_settings(agent)}) as source:
        asked = await ask(source, "ask me", call_context("1"))
        assert asked.startswith("The agent asks:\n\nWhich city?\n\n")
        task = asked.rpartition('"task": "')[2].partition('"')[0]
        for other in (call_context("2", thread="other"), call_context("2", person="eve")):
            with pytest.raises(InvalidInput, match="has asked nothing here"):
                await ask(source, "Oslo", other, task=task)
        assert await ask(source, "Oslo", call_context("3"), task=task) == "Oslo"
        assert effects(tmp_path) == ["ask", "Oslo"]


async def test_a_stopped_call_cancels_its_task(agent: str, tmp_path: Path) -> None:
    async with running_source({"a": agent_settings(agent)}) as source:
        calling = asyncio.create_task(ask(source, "wait 60"))
        await eventually(lambda: effects(tmp_path) == ["wait"])
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await eventually(lambda: effects(tmp_path) == ["wait", "cancelled"])


async def test_a_call_that_is_handed_over_goes_on(agent: str, tmp_path: Path) -> None:
    ledger, agents = MemoryLedger(), {"a": agent_settings(agent)}
    async with running_source(agents, records=ledger) as source:
        calling = asyncio.create_task(ask(source, "wait 1", call_context(is_handed_over=True)))
        await eventually(lambda: effects(tmp_path) == ["wait"])
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    async with running_source(agents, records=ledger, is_approved=False) as other:
        assert await ask(other, "wait 1") == "wait 1"
    assert effects(tmp_path) == ["wait"]


async def test_a_task_has_a_limit_of_time(agent: str, tmp_path: Path) -> None:
    async with running_source({"a": agent_settings(agent, max_timeout=0.5)}) as source:
        with pytest.raises(ToolFailed, match=r"did not finish within 0\.5 s"):
            await ask(source, "wait 60")
        await eventually(lambda: effects(tmp_path) == ["wait", "cancelled"])
