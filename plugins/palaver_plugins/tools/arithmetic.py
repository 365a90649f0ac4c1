"""Tool ``calculate``: exact arithmetic, which a language model cannot guarantee."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from palaver import InvalidInput, tool

MAX_CHARACTERS = 200
"""Length of an expression."""
MAX_MAGNITUDE = 10**30
"""Limit of every intermediate result."""

_OPERATOR_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**", ",": None})
_BINARY_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY_OPERATORS: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


@tool(idempotent=True)
def calculate(
    expression: Annotated[
        str,
        Field(
            max_length=MAX_CHARACTERS,
            description="Numbers, + - * / // % ^ and brackets, such as 3*(4+5)",
        ),
    ],
) -> str:
    """Work out an arithmetic expression.

    A comma separates thousands. Raises `InvalidInput`.
    """
    return _format_number(evaluate(expression))


def evaluate(expression: str) -> float:
    """Return the value of an expression. Raises `InvalidInput` unless it is bounded arithmetic."""
    try:
        tree = ast.parse(expression.translate(_OPERATOR_SIGNS).strip(), mode="eval")
        return _evaluate_node(tree.body)
    except ZeroDivisionError:
        raise InvalidInput("A division by zero has no result.") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidInput(f"{expression[:60]!r} is not arithmetic that I can read.") from error


def _evaluate_node(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return _check_magnitude(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY_OPERATORS:
        return _UNARY_OPERATORS[type(node.op)](_evaluate_node(node.operand))
    if isinstance(node, ast.BinOp):
        left, right = _evaluate_node(node.left), _evaluate_node(node.right)
        return _check_magnitude(_apply_operator(node.op, left, right))
    raise InvalidInput("Only numbers, + - * / // % ^ and brackets can be calculated.")


def _apply_operator(op: ast.operator, left: float, right: float) -> float:
    if isinstance(op, ast.Pow):
        return _power(left, right)
    if type(op) not in _BINARY_OPERATORS:
        raise InvalidInput("Only numbers, + - * / // % ^ and brackets can be calculated.")
    return _BINARY_OPERATORS[type(op)](left, right)


def _power(base: float, exponent: float) -> float:
    """Return a power. Refuse one that is too large before it is computed, or not real."""
    if base < 0 and exponent != int(exponent):
        raise InvalidInput("That root is not a real number.")
    if abs(base) > 1 and exponent * math.log(abs(base)) > math.log(MAX_MAGNITUDE):
        raise InvalidInput("The result is too large.")
    if abs(exponent) > 10_000:
        raise InvalidInput("The exponent is too large.")
    return base**exponent  # type: ignore[no-any-return]  # typeshed: Any for unknown signs


def _check_magnitude(value: float) -> float:
    if abs(value) > MAX_MAGNITUDE:
        raise InvalidInput("The result is too large.")
    return value


def _format_number(value: float) -> str:
    """Format whole numbers without a point, others with up to 12 significant digits."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 10**15):
        return str(int(value))
    return f"{value:.12g}"
