"""The questions of the first minute, to the real server with the starter model."""

import pytest
from benchmarks.first_minute.asking import ask_questions, read_questions
from benchmarks.first_minute.judging import Question, judge

from palaver_skills.refusals import WAY_OUT

LEAST_PASSED = 24


@pytest.mark.live
@pytest.mark.openvino
def test_most_replies_pass_and_none_cites_what_is_wrong() -> None:
    pytest.importorskip("openvino_genai")
    verdicts = ask_questions(read_questions("questions"))
    passed = [each for each in verdicts if each.outcome in ("answered", "declined")]
    failed = {each.question.text: each.reply for each in verdicts if each not in passed}
    assert len(passed) >= LEAST_PASSED, failed
    assert not [each for each in verdicts if each.outcome == "wrong, with a citation"]


FACT = Question(kind="fact", language="de", text="Wie viele?", accept="28", cites="Holidays")
REFUSAL = f"Das kann ich leider nicht beantworten. {WAY_OUT['de']}"


@pytest.mark.parametrize(
    ("reply", "sections", "outcome"),
    [
        ("28 Tage. [1]", ("Holidays",), "answered"),
        ("28 Tage.", (), "answered"),
        ("28 Tage. [1]", ("Illness",), "wrong, with a citation"),
        ("30 Tage. [28]", ("Holidays",), "wrong, with a citation"),
        ("30 Tage.", (), "wrong"),
        (REFUSAL, (), "declined"),
        (REFUSAL, ("Holidays",), "wrong, with a citation"),
        ("Das kann ich nicht.", (), "wrong"),
        (f"I cannot answer that, sorry. {WAY_OUT['en']}", (), "wrong"),
    ],
)
def test_the_rules_tell_right_wrong_and_declined(
    reply: str, sections: tuple[str, ...], outcome: str
) -> None:
    assert judge(FACT, reply, sections).outcome == outcome


def test_a_question_that_the_model_must_answer_may_not_be_declined() -> None:
    question = Question(kind="qa", language="de", text="Wie viele?", accept="28", refuse=False)
    assert judge(question, REFUSAL, ()).outcome == "wrong"


@pytest.mark.parametrize(("code", "outcome"), [("x + 1", "answered"), ("x", "wrong")])
def test_code_is_run(code: str, outcome: str) -> None:
    question = Question(kind="code", language="en", text="?", accept="def", test="assert f(1) == 2")
    reply = f"```python\ndef add(x):\n    return {code}\n```\nIt adds one."
    assert judge(question, reply, ()).outcome == outcome
