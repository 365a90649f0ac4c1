"""Tool ``calculate``: arithmetic, which a language model cannot guarantee."""

import math
import operator
import re
import unicodedata
from collections.abc import Callable
from typing import Annotated, NoReturn

from pydantic import Field

from palaver import InvalidInput, tool

MAX_CHARACTERS = 200
"""Length of an expression."""
MAX_MAGNITUDE = 10**30
"""Limit of every intermediate result."""
MAX_DEPTH = 30
"""Brackets, signs and powers inside each other."""

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("×·∙⋅✕✖＊", "*"),
        **dict.fromkeys("÷∕⁄／", "/"),
        **dict.fromkeys("−–—－﹣‐", "-"),
        **dict.fromkeys("[{（［", "("),
        **dict.fromkeys("]}）］", ")"),
        **dict.fromkeys("$€£¥", None),
        **{"＋": "+", "％": "%", "＝": "=", "^": "**", "√": " sqrt ", "π": " pi "},
        **{"，": ",", "．": "."},
    }
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_LATEX = re.compile(r"\\(times|cdot|div|left|right)(?![a-zA-Z])")
_LATEX_SIGNS = {"times": "*", "cdot": "*", "div": "/", "left": "", "right": ""}
_TIMES = re.compile(r"(?<=[\d)])\s*[xX]\s*(?=[\d(.])")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:([,_'’    ])\d{3})(?:\1\d{3})*(?![\d,_'’])")
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|([a-z]+)|(\*\*|//|[-+*/%(),]))")
_BINARY: dict[str, Callable[[float, float], float]] = {
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sqrt": math.sqrt,
    "abs": abs,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "ln": math.log,
    "exp": math.exp,
}
_CONSTANTS = {"pi": math.pi}


@tool(read_only=True, parallel=True)
def calculate(
    expression: Annotated[
        str,
        Field(
            max_length=MAX_CHARACTERS,
            description=(
                "Numbers, + - * / // ^ and brackets, such as 3*(4+5)^2; also 15% of 80, 7 % 4 for "
                "the remainder, sqrt, abs, round, floor, ceil, ln, exp and pi. A point separates "
                "decimals, a comma thousands"
            ),
        ),
    ],
) -> str:
    """Work out an arithmetic expression. Use it for every calculation.

    Raises `InvalidInput`.
    """
    return _format_number(evaluate(expression))


def evaluate(expression: str) -> float:
    """Return the value of an expression. Raises `InvalidInput` unless it is bounded arithmetic."""
    if len(expression) > MAX_CHARACTERS:
        raise InvalidInput(f"An expression has at most {MAX_CHARACTERS} characters.")
    try:
        return _Parser(expression, _tokenize(expression)).parse()
    except ZeroDivisionError:
        raise InvalidInput("A division by zero has no result.") from None
    except OverflowError:
        raise InvalidInput("The result is too large.") from None


def _tokenize(expression: str) -> list[str]:
    text = _normalize(expression)
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            _refuse(expression)
        tokens.append(match[0].strip())
        position = match.end()
    return tokens


def _normalize(expression: str) -> str:
    """Return an expression with the signs that programs use."""
    text = _RAISED.sub(lambda run: f"**({run[0].translate(_SUPERSCRIPTS)})", expression)
    text = _LATEX.sub(lambda name: _LATEX_SIGNS[name[1]], text)
    text = "".join(map(_ascii_digit, text.translate(_SIGNS)))
    text = text.strip().removesuffix("?").rstrip().removesuffix("=").removeprefix("=").strip()
    if "=" in text:
        raise InvalidInput("Give the left side alone, without '=' and what follows.")
    text = _GROUPED.sub(lambda number: re.sub(r"\D", "", number[0]), text)
    if re.search(r"\d\s*,\s*\d", text):
        raise InvalidInput("A comma separates thousands: write 1.5 for one and a half.")
    return _TIMES.sub("*", text)


def _ascii_digit(character: str) -> str:
    digit = None if character.isascii() else unicodedata.decimal(character, None)
    return character if digit is None else str(digit)


def _refuse(expression: str) -> NoReturn:
    raise InvalidInput(
        f"{expression[:60]!r} is not arithmetic: only numbers, + - * / // % ^, brackets and "
        f"{', '.join(_FUNCTIONS)} can be calculated."
    )


class _Parser:
    """Parser of one expression, by recursive descent."""

    def __init__(self, expression: str, tokens: list[str]) -> None:
        self._expression = expression
        self._tokens = tokens
        self._position = 0
        self._depth = 0
        self._is_percent = False
        """Whether the term that was read last is a percentage alone, such as 10%."""

    def parse(self) -> float:
        value = self._read_sum()
        if self._position < len(self._tokens):
            _refuse(self._expression)
        return value

    def _peek(self) -> str:
        return self._tokens[self._position] if self._position < len(self._tokens) else ""

    def _take(self, *wanted: str) -> str:
        """Return the next token if it is one of ``wanted``; else an empty text."""
        token = self._peek()
        if token not in wanted:
            return ""
        self._position += 1
        return token

    def _read_sum(self) -> float:
        value = self._read_product()
        while sign := self._take("+", "-"):
            term = self._read_product()
            if self._is_percent:  # 200 + 10% is 220, as on every pocket calculator
                term *= value
            value = _check(value + term if sign == "+" else value - term)
            self._is_percent = False
        return value

    def _read_product(self) -> float:
        value = self._read_signed()
        while sign := self._take("*", "/", "//", "%", "of"):
            right = self._read_signed()
            value = _check(_BINARY["*" if sign == "of" else sign](value, right))
            self._is_percent = False
        return value

    def _read_signed(self) -> float:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidInput("The brackets of the expression are too deep.")
        sign = self._take("+", "-")
        value = self._read_signed() if sign else self._read_power()
        self._depth -= 1
        return -value if sign == "-" else value

    def _read_power(self) -> float:
        base = self._read_operand()
        self._is_percent = False
        if self._take("**"):
            return _check(_power(base, self._read_signed()))
        if self._peek() == "%" and not self._begins_operand(self._position + 1):
            self._position += 1
            self._is_percent = True
            return base / 100
        return base

    def _begins_operand(self, position: int) -> bool:
        token = self._tokens[position] if position < len(self._tokens) else ""
        return token[:1].isdigit() or token[:1] == "." or token == "(" or token in _NAMES

    def _read_operand(self) -> float:
        token = self._peek()
        self._position += 1
        if token == "(":
            value = self._read_sum()
            if not self._take(")"):
                _refuse(self._expression)
            return value
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token in _FUNCTIONS:
            return _apply(token, self._read_argument())
        if not token or not (token[0].isdigit() or token[0] == "."):
            _refuse(self._expression)
        return _check(int(token) if token.isdigit() else float(token))

    def _read_argument(self) -> float:
        """Return the argument of a function: an operand, so that sqrt 16 + 9 is 13."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidInput("The brackets of the expression are too deep.")
        value = self._read_operand()
        self._depth -= 1
        return value


_NAMES = _FUNCTIONS.keys() | _CONSTANTS.keys()


def _apply(name: str, value: float) -> float:
    try:
        return _check(_FUNCTIONS[name](value))
    except ValueError:
        raise InvalidInput(f"{name} of {_format_number(value)} is not a real number.") from None


def _power(base: float, exponent: float) -> float:
    """Return a power. Refuse one that is too large before it is computed, or not real."""
    if base < 0 and exponent != int(exponent):
        raise InvalidInput("That root is not a real number.")
    if abs(base) > 1 and exponent * math.log(abs(base)) > math.log(MAX_MAGNITUDE):
        raise InvalidInput("The result is too large.")
    if abs(exponent) > 10_000:
        raise InvalidInput("The exponent is too large.")
    return base**exponent  # type: ignore[no-any-return]  # typeshed: Any for unknown signs


def _check(value: float) -> float:
    if abs(value) > MAX_MAGNITUDE:
        raise InvalidInput("The result is too large.")
    return value


def _format_number(value: float) -> str:
    """Format whole numbers without a point, others with up to 12 significant digits."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 10**15):
        return str(int(value))
    return f"{value:.12g}"
