"""Filling of a skill's typed arguments: from the message, else by the engine, else by asking."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import pydantic
from pydantic.fields import FieldInfo

from palaver.config.wording import describe_errors, join_problems
from palaver.errors import InvalidInput, UnusableAnswer
from palaver.text_pool import run_on_text
from palaver.turns.answers import MAX_QUESTIONS
from palaver.turns.turn import Turn

ValuesT = TypeVar("ValuesT", bound=Mapping[str, Any])
ResultT = TypeVar("ResultT")


_OPTION = re.compile(
    r"\s*+--([a-z][a-z0-9_-]{0,39})(?:=|[ \t]++)(?:\"([^\"\n]*+)\"|(\S++))(?:\s|$)"
)
"""An option of a command: ``--name value``, ``--name=value`` or ``--name "a value"``."""


def take_options(text: str, model: type[pydantic.BaseModel]) -> tuple[dict[str, str], str]:
    """Return the arguments that a command names at its beginning, and the text after them.

    An argument is named as in ``model``, or as its field's ``json_schema_extra`` says under
    ``"option"``. Anything else belongs to the text.
    """
    names = {_name_option(name, field): name for name, field in model.model_fields.items()}
    names |= {name: name for name in model.model_fields}
    found: dict[str, str] = {}
    at = 0
    while (option := _OPTION.match(text, at)) and option[1] in names:
        found[names[option[1]]] = option[3] if option[2] is None else option[2]
        at = option.end()
    return found, text[at:]


def _name_option(name: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get("option", name)) if isinstance(extra, dict) else name


async def fill_arguments(
    turn: Turn, model: type[pydantic.BaseModel], given: Mapping[str, Any], *, from_program: bool
) -> pydantic.BaseModel:
    """Return validated arguments for the turn.

    The person is asked for missing and invalid values, unless the values come ``from_program``:
    then `InvalidInput` names the invalid ones. Raises `UnusableAnswer` after `MAX_QUESTIONS`.
    """

    def find_problems(values: Mapping[str, Any]) -> dict[str, str]:
        return _find_problems(model, values)

    problems = await _run_on_values(find_problems, given)
    if not problems:
        return await _run_on_values(model.model_validate, dict(given))
    if (from_program and given) or "" in problems:
        raise InvalidInput(f"Skill {turn.skill!r}: {join_problems(problems)}")
    wrong = {name.partition(".")[0] for name in problems}
    values = {key: value for key, value in given.items() if key not in wrong}
    rejected = {key: value for key, value in given.items() if key in wrong}
    if "json_schema" in turn.engine.capabilities and not turn.engine.demonstration:
        values |= await _extract(turn, model, wrong)
    still_wrong = await _run_on_values(find_problems, values)
    for name in {name.partition(".")[0]: None for name in still_wrong}:
        await _ask_for(turn, model, name, values, rejected.get(name))
    return await _run_on_values(model.model_validate, values)


async def _run_on_values(work: Callable[[ValuesT], ResultT], values: ValuesT) -> ResultT:
    """Return ``work(values)``, outside the event loop when one of them is a long text."""
    if not values:
        return work(values)
    texts = (value for value in values.values() if isinstance(value, str))
    return await run_on_text(lambda _: work(values), max(texts, key=len, default=""))


def _find_problems(model: type[pydantic.BaseModel], given: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with ``given``, by argument, in words that follow the name."""
    unknown = {name: " is not known" for name in given if name not in model.model_fields}
    known = {name: value for name, value in given.items() if name not in unknown}
    try:
        model.model_validate(known)
    except pydantic.ValidationError as error:
        return unknown | describe_errors(error, known)
    return unknown


async def _extract(
    turn: Turn, model: type[pydantic.BaseModel], names: Iterable[str]
) -> dict[str, Any]:
    """Let the engine read the named arguments from the message; null means not said."""
    missing: dict[str, Any] = {
        name: (field.annotation | None, None)  # type: ignore[operator]
        for name, field in model.model_fields.items()
        if name in names
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
    suggestions = [str(example) for example in field.examples or ()]
    for _ in range(MAX_QUESTIONS):
        answer = await turn.ask(prefix + _write_question(name, field), suggestions=suggestions)
        values[name] = answer.strip()
        problems = await _run_on_values(lambda given: _find_problems(model, given), values)
        words = problems.get(name)
        if words is None:
            return
        prefix = f"{words.removeprefix(': ') if words.startswith(':') else f'That{words}'}"
        prefix = f"{prefix.rstrip('.')}. "
    raise UnusableAnswer(f"I asked {MAX_QUESTIONS} times and got no usable value for {name!r}.")


def _write_question(name: str, field: FieldInfo) -> str:
    """Return the field's title if it is a question, else ask for its description or name."""
    if field.title and field.title.endswith("?"):
        return field.title
    return f"Please tell me: {field.description or name.replace('_', ' ')}"
