"""The tool that works out arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver import InvalidInput
from palaver_plugins.tools.arithmetic import MAX_MAGNITUDE, calculate, evaluate


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("12*7", "84"),
        ("2 + 3 * 4", "14"),
        ("(2 + 3) × 4", "20"),
        ("7 ÷ 2", "3.5"),
        ("7 // 2", "3"),
        ("7 % 4", "3"),
        ("2^10", "1024"),
        ("2^-1", "0.5"),
        ("-3 − 4", "-7"),
        ("1,000,000 + 1", "1000001"),
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.333333333333"),
        ("4 / 2", "2"),
        ("(-8)^2", "64"),
    ],
)
def test_it_calculates(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "x + 1",
        "'a' * 3",
        "[1] * 9",
        "1 if 2 else 3",
        "(lambda: 1)()",
        "1 < 2",
        "~1",
        "1 << 3",
        "2j + 1",
        "",
        "1 +",
        "9**9**9",
        "10^31",
        "1e300 * 10",
        "1 / 0",
        "5 % 0",
        "0 ^ -1",
        "(-8) ^ 0.5",
        "1 ^ 99999",
        "(" * 150 + ")" * 10,
        "1\0",
    ],
)
def test_what_is_not_bounded_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(InvalidInput):
        evaluate(expression)


@given(st.text(st.sampled_from("0123456789.+-*/%^() ,e"), max_size=30))
def test_any_expression_is_worked_out_or_refused_at_once(expression: str) -> None:
    try:
        value = evaluate(expression)
    except InvalidInput:
        return
    assert abs(value) <= MAX_MAGNITUDE
