"""A real server that runs as a process: its tools are approved, and called in turns."""

import asyncio
import gc
import os
import sys
from pathlib import Path

import anyio
import pytest
from tests.plugins.tools.mcp.support import (
    Hostile,
    approve_all,
    call,
    effects,
    friendly,
    make_source,
    running_source,
    states,
)
from tests.server.web.live_server import eventually

from palaver import Conflict, NotFound, OutcomeUnknown, Skill, ToolFailed, Turn
from palaver.messages import ToolCalled
from palaver.testing import MemoryLedger, converse
from palaver_plugins.tools.mcp.settings import McpServerSettings
from palaver_plugins.tools.mcp.stdio import ServerProcess

pytestmark = pytest.mark.slow


class Caller(Skill):
    """Call a tool with two numbers."""

    name = "caller"

    async def answer(self, turn: Turn) -> None:
        await turn.say(await turn.call_tool(turn.message.text, a=2, b=3))


async def test_a_skill_calls_an_approved_tool(tmp_path: Path) -> None:
    ledger, source = MemoryLedger(), make_source({"real": friendly(tmp_path, read_only=["add"])})
    async with converse(Caller, ledger=ledger, tool_sources=[source]) as chat:
        await source.connected()
        assert ("real__add", "new") in states(source)
        assert "no tool 'real__add'" in str((await chat.say("real__add")).problem)
        await approve_all(source)
        reply = await chat.say("real__add")
        assert reply == "5"
        (event,) = [e for e in reply.events if isinstance(e, ToolCalled) and e.state == "done"]
        assert (event.name, event.result) == ("real__add", "5")
        added, noted = source.tools["real__add"], source.tools["real__note"]
        assert (added.untrusted, added.read_only, added.parallel) == (True, True, True)
        assert (noted.read_only, noted.idempotent, noted.needs_approval) == (False, False, False)
        assert source.tools["real__wipe"].needs_approval  # it says that it is destructive


async def test_a_turn_shows_a_lost_call_as_unknown(tmp_path: Path) -> None:
    source = make_source({"h": Hostile(tmp_path, "die").settings()})
    async with converse(Caller, tool_sources=[source]) as chat:
        await source.connected()
        await approve_all(source)
        reply = await chat.say("h__die")
        assert reply.problem
        assert reply.problem.code == "outcome_unknown"
        shown = [event.state for event in reply.events if isinstance(event, ToolCalled)]
        assert shown == ["started", "unknown"]


async def test_what_a_call_returns(tmp_path: Path) -> None:
    os.environ["PALAVER_TEST_SECRET"] = "not for programs"
    settings = friendly(tmp_path, max_result_characters=60)
    try:
        async with running_source({"s": settings}) as source:
            assert (await call(source, "s__pictures")).startswith("Look:\n\n[image, image/png, 8")
            assert await call(source, "s__point") == '{\n  "x": 1,\n  "y": 2\n}'
            with pytest.raises(ToolFailed, match="fail"):
                await call(source, "s__fail", reason="no")
            names = set((await call(source, "s__environment")).split())
            assert "EFFECTS" in names
            assert names <= {"EFFECTS", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH",
                             "TMPDIR", "TZ", "USER"}  # fmt: skip
            with pytest.raises(
                ToolFailed, match="validation error"
            ):  # the server judges the values
                await call(source, "s__add", a="two", b=1)
    finally:
        del os.environ["PALAVER_TEST_SECRET"]


async def test_a_server_that_dies_in_a_call_is_not_called_again(tmp_path: Path) -> None:
    async with running_source({"s": friendly(tmp_path)}) as source:
        with pytest.raises(OutcomeUnknown, match="may have run"):
            await call(source, "s__exits", text="once")
        assert effects(tmp_path) == ["once"]
        assert await call(source, "s__add", a=1, b=2) == "3"  # it is connected again


async def test_an_idempotent_tool_is_called_again_once(tmp_path: Path) -> None:
    async with running_source({"s": friendly(tmp_path, idempotent=["exits"])}) as source:
        with pytest.raises(OutcomeUnknown):
            await call(source, "s__exits", text="again")
        assert effects(tmp_path) == ["again", "again"]


async def test_a_start_that_is_cancelled_leaves_no_process_behind(tmp_path: Path) -> None:
    settings = McpServerSettings(**friendly(tmp_path))
    for delay in (0.0, 0.001, 0.002, 0.004, 0.008):
        with anyio.move_on_after(delay):
            async with ServerProcess(settings).connect(asyncio.Event()):
                await anyio.sleep_forever()
    gc.collect()  # a process that is not waited for warns, and the warning is an error


STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open("pid", "w") as file:
    print(os.getpid(), file=file)
time.sleep(60)
"""


async def test_a_stop_that_is_cancelled_ends_the_process_all_the_same(tmp_path: Path) -> None:
    settings = McpServerSettings(
        command=sys.executable, args=("-c", STUBBORN), directory=str(tmp_path)
    )
    pid = tmp_path / "pid"

    async def connect() -> None:
        async with ServerProcess(settings).connect(asyncio.Event()):
            await anyio.sleep_forever()

    connecting = asyncio.create_task(connect())
    await eventually(lambda: pid.exists() and pid.read_text().endswith("\n"))
    for _ in range(5):
        connecting.cancel()
        await asyncio.sleep(0.05)
    await asyncio.wait([connecting])
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_the_end_of_a_turn_cancels_its_call(tmp_path: Path) -> None:
    async with running_source({"s": friendly(tmp_path)}) as source:
        calling = asyncio.create_task(call(source, "s__wait", steps=1_000, seconds=0.01))
        await call(source, "s__note", text="started")
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        assert calling.cancelled()
        await eventually(lambda: "cancelled" in effects(tmp_path))


async def test_progress_extends_a_call_up_to_a_limit(tmp_path: Path) -> None:
    settings = friendly(tmp_path, timeout=0.5, max_timeout=3.0)
    async with running_source({"s": settings}) as source:
        assert await call(source, "s__wait", steps=8, seconds=0.1) == "waited"
        with pytest.raises(OutcomeUnknown, match="in time"):
            await call(source, "s__wait", steps=1_000, seconds=0.1)
        with pytest.raises(OutcomeUnknown, match="in time"):
            await call(source, "s__wait", steps=1, seconds=100)


async def test_replicas_share_approvals(tmp_path: Path) -> None:
    ledger, hostile = MemoryLedger(), Hostile(tmp_path, "a")
    servers = {"h": hostile.settings()}
    async with (
        running_source(servers, ledger=ledger, is_approved=False) as here,
        running_source(servers, ledger=ledger, is_approved=False) as there,
    ):
        assert states(there) == [("h__a", "new")]
        await approve_all(here)
        await eventually(lambda: states(there) == [("h__a", "ready")])
        assert await call(there, "h__a") == "called a"


async def test_an_approval_is_for_the_definition_that_was_seen(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path, "a", "b")
    async with running_source({"h": hostile.settings()}, is_approved=False) as source:
        digests = {each.name: each.digest for each in source.offered()}
        with pytest.raises(Conflict, match="'h__b' has changed"):
            await source.approve(digests | {"h__b": "another"})
        with pytest.raises(NotFound, match="h__c"):
            await source.approve(digests | {"h__c": "x"})
        assert not source.tools
        await source.approve({"h__a": digests["h__a"]})
        assert set(source.tools) == {"h__a"}


async def test_a_server_that_is_down_delays_nothing(tmp_path: Path) -> None:
    source = make_source({"none": {"command": str(tmp_path / "no-such-program")}})
    async with converse(Caller, tool_sources=[source]) as chat:
        assert "no tool" in str((await chat.say("none__add")).problem)
        await source.connected()
        (problem,) = source.problems
        assert "no-such-program: No such file" in problem


async def test_the_directory_and_the_secrets_are_those_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOR_THE_PROGRAM", str(tmp_path / "effects"))
    settings = friendly(
        tmp_path, directory=str(tmp_path), secrets={"EFFECTS": "env:FOR_THE_PROGRAM"}
    )
    settings["env"] = {"EFFECTS": "relative"}
    async with running_source({"s": settings}) as source:
        await call(source, "s__note", text="here")
        assert effects(tmp_path) == ["here"]
    settings["secrets"] = {}
    async with running_source({"s": settings}) as source:
        await call(source, "s__note", text="there")
        assert (tmp_path / "relative").read_text() == "there\n"
