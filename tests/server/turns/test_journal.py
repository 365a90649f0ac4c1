"""The journal of a turn's steps."""

import pytest

from palaver.errors import LimitExceeded
from palaver.ledger import Step
from palaver.turns.journal import Journal


def journal(*steps: Step, max_bytes: int = 100) -> Journal:
    return Journal(steps, lambda _: None, max_bytes)


def recorded(*results: str) -> tuple[Step, ...]:
    """Return the steps of a run that searched for each result."""
    first = journal(max_bytes=1_000)
    for result in results:
        first.record_result(first.next_step("search", result), result)
    return first.steps


def test_steps_that_are_dropped_take_no_room() -> None:
    later = journal(*recorded("x" * 40, "y" * 40))
    step = later.next_step("search", "something else")
    later.record_result(step, "z" * 80)
    assert [step.number for step in later.steps] == [0]


def test_steps_of_the_turns_that_asked_before_take_room() -> None:
    continued = journal()
    continued.resume(recorded("x" * 40, "a question"), "y" * 40)
    continued.next_step("search", "x" * 40)
    continued.next_step("search", "a question")
    with pytest.raises(LimitExceeded):
        continued.record_result(continued.next_step("search", "more"), "z" * 40)


def test_a_step_that_is_only_started_is_among_the_steps() -> None:
    running = journal()
    step = running.next_step("tool", "pay")
    running.record_start(step)
    assert running.steps == (step,)
    assert running.was_started(step)


def test_results_may_take_exactly_the_limit() -> None:
    exact = journal(max_bytes=len('"zz"'))
    exact.record_result(exact.next_step("search", "x"), "zz")
    assert exact.steps[0].done


def test_a_step_that_was_withdrawn_is_performed_again_and_leaves_those_beside_it() -> None:
    written: list[Step] = []
    first = Journal((), written.append, 100)
    withdrawn, beside = first.next_step("call_tool", "a"), first.next_step("call_tool", "b")
    first.record_start(withdrawn)
    first.record_result(beside, "b")
    first.withdraw(withdrawn)
    later = journal(*{step.number: step for step in written}.values())
    again = later.next_step("call_tool", "a")
    assert not later.was_started(again)
    assert later.recorded_result(later.next_step("call_tool", "b"), str) == "b"
