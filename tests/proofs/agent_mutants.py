"""Mutants of the agent loop: one of its rules removed, which the proof must detect."""

from palaver.ledger import Step
from palaver.turns.journal import Journal
from palaver.turns.tool_calls import PreparedCall, ToolCalls

IDEMPOTENCY = "idempotency ignored"
"""Tools that must not run twice are declared as idempotent: see `make_tools`."""
INTENT = "intent not stored before the effect"
RESULT = "result not recorded"
DECISION = "decision of the model not recorded"
MUTANTS = (INTENT, RESULT, DECISION, IDEMPOTENCY)
_UNRECORDED = {RESULT: "call_tool", DECISION: "agent"}
"""The verb of the steps whose results a mutant does not record."""


def install_mutant(name: str) -> None:
    """Remove a rule from the agent loop of this process."""
    assert name in MUTANTS, name
    if name == INTENT:
        ToolCalls._store_intent = _show_only  # type: ignore[method-assign, assignment]
    elif name in _UNRECORDED:
        _leave_out_results(_UNRECORDED[name])


async def _show_only(calls: ToolCalls, call: PreparedCall) -> None:
    calls._show(call, "started")


def _leave_out_results(verb: str) -> None:
    record = Journal.record_result

    def record_others(journal: Journal, step: Step, result: object) -> None:
        if step.verb != verb:
            record(journal, step, result)

    Journal.record_result = record_others  # type: ignore[method-assign, assignment]
