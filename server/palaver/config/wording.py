"""Words for people about values that pydantic refused: settings, arguments of skills and tools."""

import re
from collections.abc import Mapping
from typing import Any

import pydantic

NUMBER = " must be a whole number"
KINDS = {
    "int": NUMBER,
    "float": " must be a number",
    "bool": " must be true or false",
    "string_type": " must be text",
    "path": " must be a path",
    "list": " must be a list",
    "tuple": " must be a list",
    "frozen": " must be a list",
    "dict": " must be a table",
    "model": " must be a table",
    "missing": " must be set",
    "extra": " is not known",
}
"""Words by pydantic's type of error, or by the type's first part."""
LIMITS = {"ge": " must be at least {}", "gt": " must be more than {}",
          "le": " must be at most {}", "lt": " must be less than {}"}  # fmt: skip
SHOWN = (NUMBER, KINDS["float"], KINDS["bool"])
_EXPECTATION = re.compile(r"\w+ should (?P<words>.+?)(?: after validation)?(?:, .*)?", re.DOTALL)
"""A message of pydantic, such as "Input should be a valid date, input is too short"."""


def describe_errors(error: pydantic.ValidationError, values: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with ``values`` (JSON), by key, in words that follow the key.

    The key of a nested value is dotted, the key of the whole is empty.
    """
    problems: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        words, value = describe_error(detail)
        instead = "" if value is None else f", not {value!r}"
        keys = find_keys(detail["loc"], values) or tuple(map(str, detail["loc"][:1]))
        problems.setdefault(".".join(keys), words + instead)
    return problems


def join_problems(problems: Mapping[str, str]) -> str:
    """Return one sentence: "argument 'age' must be a number; argument 'colour' is not known"."""
    return "; ".join(
        f"argument {name!r}{words}" if name else words.removeprefix(": ")
        for name, words in problems.items()
    )


def find_keys(location: tuple[int | str, ...], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return as much of pydantic's location as are keys; the rest names branches of unions."""
    keys: list[str] = []
    value: Any = values  # Any: TOML or JSON values
    for step in location:
        if not (isinstance(value, Mapping) and isinstance(step, str)):
            break
        keys.append(step)
        value = value.get(step)
    return tuple(keys)


def describe_error(detail: Any) -> tuple[str, object]:  # Any: pydantic's ErrorDetails
    """Return the words that follow the name, and the value where it cannot be a secret."""
    context = detail.get("ctx", {})
    kind: str = detail["type"]
    given = detail["input"]
    for limit, words in LIMITS.items():
        if limit in context:
            return words.format(context[limit]), given
    if kind in ("literal_error", "enum"):
        return f" must be {context['expected']}", given
    if kind in ("value_error", "assertion_error"):
        return f": {context['error']}", None
    words = KINDS.get(kind) or KINDS.get(kind.partition("_")[0]) or _describe_other(detail["msg"])
    return words, given if words in SHOWN and not isinstance(given, dict | list) else None


def _describe_other(message: str) -> str:
    expected = _EXPECTATION.fullmatch(message)
    return f" must {expected['words']}" if expected else " is not usable"
