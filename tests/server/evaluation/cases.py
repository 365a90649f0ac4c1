"""Cases for tests of metrics."""

from palaver.evaluation.cases import Case, Example, Output
from palaver.messages import Usage
from palaver.routing.router import EXAMPLES_REASON


def case(
    expected: str | tuple[str, ...] = (),
    text: str = "",
    *,
    id: str = "0",
    relevant: tuple[str, ...] = (),
    rating: str = "",
    passed: tuple[bool, ...] = (),
    **output: object,
) -> Case:
    """Return a case whose output has ``text``; with ``passed``, one output for each."""
    alternatives = (expected,) if isinstance(expected, str) else expected
    example = Example(
        id=id, text="question", expected=alternatives, relevant=relevant, rating=rating
    )
    fields = {"outcome": "done", "seconds": 1.0, "usage": Usage(), "text": text, **output}
    first = Output(**fields)  # type: ignore[arg-type]
    outputs = tuple(Output(**fields, passed=each) for each in passed)  # type: ignore[arg-type]
    return Case(example, outputs or (first,))


def chosen(expected: str, skill: str, score: float | None = None) -> Case:
    """Return a case of the router."""
    return case(expected, skill=skill, score=score, reason=EXAMPLES_REASON)
