"""Agents among strangers: whatever a model, a tool's result or a page says, nothing happens that
the person has not approved.

Each episode has a model that follows every instruction of strangers and invents calls, tools that
return hostile, huge and never-ending results, and a web server that wants a secret; some have an
MCP server whose descriptions give orders and whose definitions change after they were approved.
A person answers the questions carelessly, and a guest answers them, too.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mcp.types import CallToolResult
from tests.chaos.findings import Findings
from tests.proof_settings import SEED, short_or_long
from tests.proofs.evil_mcp import MCP_PATH
from tests.proofs.report import PropertyResult, Report
from tests.proofs.untrusted_world import HUGE, OFFERED, Rig, hostile_server, run_episode

from palaver import Tool, pipeline
from palaver.turns import agent, approvals
from palaver_plugins.tools.mcp import source
from palaver_plugins.tools.mcp.results import render
from palaver_plugins.tools.pinned.definition import Definition
from palaver_plugins.tools.pinned.source import Program

pytestmark = pytest.mark.slow
PROPERTY = "untrusted"
EPISODES = short_or_long(500, 50_000)
MAX_MUTANT_EPISODES = 500


async def test_nothing_happens_that_nobody_has_approved(report: Report) -> None:
    findings, effects, generations = Findings(), 0, 0
    async with hostile_server() as evil, report.progress(lambda: f"{generations} generations"):
        for number in range(EPISODES):
            world = await run_episode(number, SEED, evil, findings, Rig())
            effects += world.effects
            generations += world.generations
    requests = sum(not request.path.startswith(MCP_PATH) for request in evil.requests)
    figures = {
        "episodes": EPISODES,
        "generations": generations,
        "effects": effects,
        "requests": requests,
    }
    report.add(PropertyResult(property=PROPERTY, findings=findings, figures={**figures}))
    assert findings.is_clean, findings
    assert effects > EPISODES / 10, "calls that are approved do run"
    assert requests > EPISODES / 10, "pages are fetched"


def changing(**properties: Any) -> Callable[[Tool], Tool]:
    """Return a change of the tools that have other values of these properties."""

    def change(tool: Tool) -> Tool:
        return dataclasses.replace(tool, **properties)

    return change


def fetch_reads_only(tool: Tool) -> Tool:
    return dataclasses.replace(tool, read_only=tool.read_only or tool.name == "fetch")


@contextlib.contextmanager
def replaced(holder: object, name: str, value: object) -> Iterator[None]:
    """Replace an attribute for a while."""
    original = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, original)


def present_as_it_is(text: str, special_tokens: object = ()) -> str:
    return f"<result>\n{text}\n</result>"


def always_ready(server: object, definition: Definition) -> str:
    return "ready"


def render_all(result: CallToolResult, limit: int) -> str:
    return render(result, HUGE)


MUTANTS: dict[str, tuple[Rig, Callable[[], contextlib.AbstractContextManager[None]]]] = {
    "untrusted results are trusted": (
        Rig(change_tool=changing(untrusted=False)),
        contextlib.nullcontext,
    ),
    "no approvals": (Rig(change_tool=changing(needs_approval=False)), contextlib.nullcontext),
    "fetch counts as reading": (Rig(change_tool=fetch_reads_only), contextlib.nullcontext),
    "any address is fetched": (Rig(fetches_everything=True), contextlib.nullcontext),
    "all tools are offered": (Rig(offered=(*OFFERED, "wipe")), contextlib.nullcontext),
    "results are not cut": (Rig(result_bytes=10_000_000), contextlib.nullcontext),
    "steps are not limited": (Rig(steps=100), contextlib.nullcontext),
    "control tokens stay": (Rig(), lambda: replaced(agent, "present_result", present_as_it_is)),
    "any answer approves": (
        Rig(),
        lambda: replaced(approvals.ApprovalAnswer, "approves", property(lambda answer: True)),
    ),
    "pins are ignored": (
        Rig(mcp_share=1),
        lambda: replaced(Program, "state", always_ready),
    ),
    "results of MCP servers are not cut": (
        Rig(mcp_share=1),
        lambda: replaced(source, "render", render_all),
    ),
    "descriptions are not cut": (
        Rig(mcp_share=1, mcp={"max_description_characters": HUGE}),
        contextlib.nullcontext,
    ),
    "hints of MCP servers are believed": (
        Rig(mcp_share=1, mcp={"trust_annotations": True}),
        contextlib.nullcontext,
    ),
    "anybody approves": (
        Rig(),
        lambda: replaced(pipeline, "may_answer", lambda claim, question: True),
    ),
}


@pytest.mark.parametrize("mutation", MUTANTS)
async def test_mutants_are_detected(mutation: str, report: Report) -> None:
    rig, install = MUTANTS[mutation]
    findings = Findings()
    async with hostile_server() as evil:
        with install():
            for number in range(MAX_MUTANT_EPISODES):
                await run_episode(number, SEED, evil, findings, rig)
                if not findings.is_clean:
                    break
    report.add_mutant(PROPERTY, not findings.is_clean, mutation)
    assert not findings.is_clean
