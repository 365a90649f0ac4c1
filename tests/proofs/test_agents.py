"""Property: of agents whose servers are killed every one to three seconds, no call with an effect
is made twice, none is lost, and each reply is right."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from tests.chaos.findings import Findings
from tests.chaos.load import LoadProfile
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.agent_mutants import MUTANTS
from tests.proofs.agent_plugin import ONCE, Plan, PlannedCall, ToolName
from tests.proofs.agent_replicas import PROGRAM, SETTINGS
from tests.proofs.cluster import running_cluster
from tests.proofs.replica_program import tool_log
from tests.proofs.report import PropertyResult, Report

from palaver.ledger import HistoryEntry, Ledger
from palaver.messages import Conversation, Message, ToolCalled
from palaver.testing import RecordingSubscriber

pytestmark = needs_redis

PROPERTY = "agents"
PROFILE = LoadProfile(conversations=48, messages=4, deliveries=(1, 2), branching_rate=0.0)
MUTANT_PROFILE = LoadProfile(
    conversations=24, messages=2, deliveries=(1, 1), branching_rate=0.0, idle_seconds=5.0
)
PACE = 0.02


class AgentEffects:
    """Effects of tools: as the tools logged them, and as the replies report them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._states: dict[str, dict[str, list[str]]] = {}
        """By turn and call: the states in their order."""
        self._keys: dict[str, str] = {}
        """By call: the key of its effect."""
        self.unknown_count = 0

    def collect(self, recorder: RecordingSubscriber) -> None:
        """Collect the calls that a client has received."""
        for turn in recorder.events:
            calls: dict[str, list[str]] = {}
            for event in recorder.events_of(turn, ToolCalled):
                calls.setdefault(event.call, []).append(event.state)
                key = event.arguments.get("key") or event.arguments.get("text")
                self._keys[event.call] = f"{event.name} {key}"
            self._states[turn] = calls

    def check(self) -> Findings:
        """Compare the calls of the replies with the log of the tools."""
        findings = Findings()
        log = [line.rsplit(" ", 1) for line in tool_log(self._folder).read_text().splitlines()]
        runs = Counter(effect for effect, _ in log)
        calls_of_effect: dict[str, set[str]] = {}
        for effect, call in log:
            calls_of_effect.setdefault(effect, set()).add(call)
        for effect, count in runs.items():
            if effect.split()[0] in ONCE and count > 1:
                findings.record("duplicated", f"{effect} ran {count} times")
        for effect, ids in calls_of_effect.items():
            if len(ids) > 1:
                findings.record("duplicated", f"{effect} ran in the calls {sorted(ids)}")
        for turn, calls in self._states.items():
            self._check_turn(turn, calls, runs, findings)
        return findings

    def _check_turn(
        self, turn: str, calls: dict[str, list[str]], runs: Counter[str], findings: Findings
    ) -> None:
        for call, states in calls.items():
            effect = self._keys[call]
            if "done" in states[:-1]:
                findings.record("wrong", f"{turn}: {effect} has the states {states}")
            is_tool = not effect.startswith("errand ")
            if states[-1] == "done" and is_tool and not runs[effect]:
                findings.record("lost", f"{turn}: {effect} is reported done and did not run")
            self.unknown_count += states[-1] == "unknown"


async def find_lost_steps(ledger: Ledger) -> Findings:
    """Compare the calls in the histories of all conversations with the plans."""
    findings = Findings()
    number = 1
    while history := await _read_history(ledger, number):
        number += 1
        tasks = {entry.turn: entry.text for entry in history if entry.role == "user"}
        for entry in history:
            if entry.outcome == "done":
                _check_entry(entry, Plan.of(tasks[entry.turn]), findings)
    return findings


async def _read_history(ledger: Ledger, number: int) -> Sequence[HistoryEntry]:
    """Return the history of the load's conversation with that number."""
    conversation = Conversation("default", "web", f"{SEED}-{number}")
    return (await ledger.snapshot(conversation, 1_000, 100_000_000)).history


def _check_entry(entry: HistoryEntry, plan: Plan, findings: Findings) -> None:
    called = [
        PlannedCall(cast(ToolName, use.name), use.arguments["key"])
        for use in entry.tools or ()
        if use.name != "errand" and use.state in ("done", "unknown")
    ]
    for call in plan.effects:
        if called.count(call) != 1:
            kind = "duplicated" if call in called else "lost"
            findings.record(
                kind, f"{entry.turn}: {call} is in the history {called.count(call)} times"
            )


def expected_reply(message: Message) -> str:
    return Plan.of(message.text).reply


async def test_killed_servers_repeat_and_lose_no_step_of_an_agent(
    report: Report, tmp_path: Path
) -> None:
    turns, kills = short_or_long(500, 20_000), short_or_long(20, 800)
    effects = AgentEffects(tmp_path)
    async with running_cluster(
        tmp_path,
        profile=PROFILE,
        program=PROGRAM,
        expected=expected_reply,
        effects=effects,
        settings=SETTINGS,
        pace=PACE,
    ) as cluster:
        replica_set = cluster.replica_set

        def is_enough() -> bool:
            return cluster.turn_count >= turns and replica_set.kill_count >= kills

        async with report.progress(cluster.progress):
            await cluster.run_load({replica_set.kill_random: (1.0, 3.0)}, until=is_enough)
        findings = await cluster.settled_findings()
        findings.merge(await find_lost_steps(cluster.ledger))
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=cluster.turn_count,
            kills=replica_set.kill_count,
            findings=findings,
            figures={"unknown": effects.unknown_count},
        )
    )
    assert findings.is_clean, (SEED, findings)
    assert effects.unknown_count > 0, "no kill has met a tool that ran"


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_mutant_is_detected(mutant: str, report: Report, tmp_path: Path) -> None:
    effects = AgentEffects(tmp_path)
    async with running_cluster(
        tmp_path,
        profile=MUTANT_PROFILE,
        program=PROGRAM,
        expected=expected_reply,
        effects=effects,
        settings=SETTINGS,
        pace=PACE,
        mutant=mutant,
    ) as cluster:

        def is_decided() -> bool:
            return cluster.is_mutant_decided() or not effects.check().is_clean

        await cluster.run_load({cluster.replica_set.kill_random: (0.5, 1.0)}, until=is_decided)
        findings = await cluster.settled_findings(timeout_seconds=1.0)
        findings.merge(await find_lost_steps(cluster.ledger))
    detected = findings.duplicated + findings.lost + findings.wrong > 0
    report.add_mutant(PROPERTY, detected, mutant)
    assert detected
