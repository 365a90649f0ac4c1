"""Properties of the Discord channel: whatever happens to its connections, its servers and its
requests, each message for the bot has one reply, whole and in order, as people see it."""

import dataclasses

import pytest
from tests.proof_settings import IS_LONG_RUN, SEED, short_or_long
from tests.proofs.discord_mutants import (
    AnswersRepetitions,
    DropsEdits,
    PostsBlindly,
    WithoutLeases,
    WithoutMarks,
)
from tests.proofs.discord_run import LIMITS, Faults, Outcome, Run, Variant, run
from tests.proofs.report import PropertyResult, Report

CONNECTIONS, POSTS = "discord-connections", "discord-posts"
MUTANT_MESSAGES = short_or_long(300, 5_000)
"""Messages after which a mutant without findings counts as undetected."""
WITHOUT_NONCES = dataclasses.replace(LIMITS, nonce_seconds=0.0)


def break_connections(run: Run) -> Faults:
    return {
        run.connections.disturb: (0.05, 0.5),
        run.replicas.kill_soon: (0.2, 0.8),
        run.replicas.expire_leases: (1.0, 3.0),
    }


def break_requests(run: Run) -> Faults:
    run.requests.begin()
    return {
        run.requests.forget_nonces: (0.5, 2.0),
        run.replicas.kill_soon: (0.2, 0.8),
        run.replicas.cut_from_ledger: (1.0, 3.0),
    }


FAULTS = {CONNECTIONS: break_connections, POSTS: break_requests}


def prove(property: str, report: Report) -> Outcome:
    """Run a property and report its result."""
    outcome = run(short_or_long(500, 10_000), FAULTS[property], report, Variant())
    figures = {
        "sessions": outcome.sessions,
        "requests": outcome.requests,
        "lost_answers": outcome.lost_answers,
        **dict(sorted(outcome.counts.items())),
    }
    report.add(
        PropertyResult(
            property=property,
            turns=outcome.messages,
            kills=outcome.kills,
            findings=outcome.findings,
            figures={name: count for name, count in figures.items() if count},
        )
    )
    return outcome


def test_broken_connections_lose_and_double_nothing(report: Report) -> None:
    outcome = prove(CONNECTIONS, report)
    assert outcome.findings.is_clean, (SEED, outcome.findings)
    assert outcome.kills > 10
    assert outcome.sessions > 10
    assert len(outcome.counts) == 6, "a kind of fault never happened"


def test_lost_answers_and_refused_requests_lose_and_double_nothing(report: Report) -> None:
    outcome = prove(POSTS, report)
    assert outcome.findings.is_clean, (SEED, outcome.findings)
    assert outcome.kills > 10
    assert outcome.lost_answers > outcome.requests / 50
    assert outcome.counts["429"] > 0
    assert outcome.counts["503"] > 0


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A mutant, and the kind of violation of a property that it causes."""

    name: str
    property: str
    kind: str
    variant: Variant


MUTANTS = [
    Mutant("repetitions answered", CONNECTIONS, "duplicated", Variant(channel=AnswersRepetitions)),
]
RARE_MUTANTS = [
    Mutant("no backfill", CONNECTIONS, "lost", Variant(ledger=WithoutMarks)),
    Mutant("outboxes without lease", CONNECTIONS, "duplicated", Variant(ledger=WithoutLeases)),
    Mutant("no nonce", POSTS, "duplicated", Variant(limits=WITHOUT_NONCES)),
    Mutant("posts never found", POSTS, "duplicated", Variant(channel=PostsBlindly)),
    Mutant("edits dropped", POSTS, "lost", Variant(channel=DropsEdits)),
]
"""Mutants that a short run does not find with every seed."""
if IS_LONG_RUN:
    MUTANTS += RARE_MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=[each.name for each in MUTANTS])
def test_mutant_is_detected(mutant: Mutant, report: Report) -> None:
    faults = FAULTS[mutant.property]
    outcome = run(MUTANT_MESSAGES, faults, report, mutant.variant, is_mutant=True)
    detected = getattr(outcome.findings, mutant.kind) > 0
    report.add_mutant(mutant.property, detected, mutant.name)
    assert detected, (SEED, outcome.findings)
