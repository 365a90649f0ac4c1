"""Fills a skill's typed arguments: from the message, else by the engine, else by asking."""

from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic.fields import FieldInfo

from palaver.errors import InvalidInput, SkillError
from palaver.turns.turn import Turn

TRIES = 3
"""Times that one argument is asked for before the turn fails."""


async def fill_arguments(
    turn: Turn, model: type[pydantic.BaseModel], given: Mapping[str, Any], *, from_program: bool
) -> pydantic.BaseModel:
    """Validated arguments for the turn.

    Values that do not validate are asked for anew, unless ``named``: then a program gave them, and
    `InvalidInput` tells it what is wrong. Raises `SkillError` when the person does not tell.
    """
    problems = _problems(model, given)
    if not problems:
        return model.model_validate(dict(given))
    if from_program and given:
        raise InvalidInput("; ".join(f"argument {k!r}: {v}" for k, v in problems.items()))
    values = {key: value for key, value in given.items() if key not in problems}
    rejected = {key: value for key, value in given.items() if key in problems}
    if "json_schema" in turn.engine.capabilities and not turn.engine.demonstration:
        values |= await _extract(turn, model, problems)
    for name in _problems(model, values):
        await _ask_for(turn, model, name, values, rejected.get(name))
    return model.model_validate(values)


def _problems(model: type[pydantic.BaseModel], given: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with ``given``, by argument. An argument nobody knows is wrong as well."""
    wrong = {name: "there is no such argument" for name in given if name not in model.model_fields}
    try:
        model.model_validate({k: v for k, v in given.items() if k not in wrong})
    except pydantic.ValidationError as error:
        for detail in error.errors():
            where = str(detail["loc"][0]) if detail["loc"] else ""
            if not where:
                raise SkillError(f"arguments {model.__qualname__}: {detail['msg']}") from error
            wrong[where] = detail["msg"].removeprefix("Value error, ")
    return wrong


async def _extract(
    turn: Turn, model: type[pydantic.BaseModel], problems: Mapping[str, str]
) -> dict[str, Any]:
    """Let the engine read the missing arguments from the message; null means not said."""
    missing: dict[str, Any] = {
        name: (model.model_fields[name].annotation | None, None)  # type: ignore[operator]
        for name in problems
        if name in model.model_fields
    }
    partial = pydantic.create_model("Missing", **missing)
    found = await turn.extract(
        partial,
        turn.message.text,
        system="Read the values from the message. Use null for what it does not say.",
    )
    return {name: value for name, value in found.model_dump().items() if value is not None}


async def _ask_for(
    turn: Turn,
    model: type[pydantic.BaseModel],
    name: str,
    values: dict[str, Any],
    rejected: object,
) -> None:
    field = model.model_fields[name]
    prefix = f"I cannot use {str(rejected)[:60]!r}. " if rejected else ""
    for _ in range(TRIES):
        answer = await turn.ask(prefix + _question(name, field), _options(field))
        values[name] = answer.strip()
        problem = _problems(model, values).get(name)
        if problem is None:
            return
        prefix = f"{problem.rstrip('.')}. "
    raise SkillError(f"no usable value for argument {name!r} after {TRIES} questions")


def _question(name: str, field: FieldInfo) -> str:
    """The field's title if it is a question, else one made from its description or name."""
    if field.title and field.title.endswith("?"):
        return field.title
    return f"Please tell me: {field.description or name.replace('_', ' ')}"


def _options(field: FieldInfo) -> tuple[str, ...]:
    return tuple(str(example) for example in field.examples or ())
