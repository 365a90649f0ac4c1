"""The reference of settings: every key with its type, its default and what it does."""

import typing
from pathlib import Path

import pydantic
from pydantic.fields import FieldInfo

from palaver.inspection import Annotation, options, outer
from palaver.settings import Secret


class Row(typing.NamedTuple):
    """One key of the reference. ``key`` is dotted; ``default`` is TOML, or "" for required."""

    key: str
    type: str
    default: str
    description: str


def describe(model: type[pydantic.BaseModel], above: str = "") -> list[Row]:
    """Every key of ``model``, section by section, with what its docstring says."""
    rows = []
    for name, field in model.model_fields.items():
        key = f"{above}{name}"
        (option, *_) = options(field.annotation)
        inner = _table_of(option)
        if inner:
            named = outer(option) is dict
            rows += describe(inner, f"{key}.NAME." if named else f"{key}.")
        else:
            default = (
                ""
                if field.is_required()
                else _literal(field.get_default(call_default_factory=True, validated_data={}))
            )
            rows.append(Row(key, _kind(field.annotation), default, _flat(field.description)))
    return rows


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    return _literal(field.get_default(call_default_factory=True, validated_data={}))


def _table_of(option: Annotation) -> type[pydantic.BaseModel] | None:
    if outer(option) is dict:
        option = typing.get_args(option)[1]
    if not (isinstance(option, type) and issubclass(option, pydantic.BaseModel)):
        return None
    return None if issubclass(option, pydantic.RootModel) else option


def _flat(description: str | None) -> str:
    return " ".join((description or "").split())


WORDS: dict[Annotation, str] = {
    str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path",
    Secret: "secret", dict: "table",
}  # fmt: skip


def _kind(annotation: Annotation) -> str:
    kinds = []
    for option in options(annotation):
        origin, arguments = outer(option), typing.get_args(option)
        if origin is typing.Literal:
            kinds.append(" or ".join(f"`{argument}`" for argument in arguments))
        elif origin in (tuple, list, frozenset, set):
            kinds.append(f"list of {_kind(arguments[0])}")
        else:
            kinds.append(WORDS.get(origin or option, "text"))
    return " or ".join(dict.fromkeys(kinds))


def _literal(value: object) -> str:
    """A default as TOML would write it; "none" where TOML has no word for it."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:_}" if value >= 100_000 else f"{value:g}"
        case tuple() | list() | set() | frozenset():
            return f"[{', '.join(_literal(item) for item in value)}]"
        case pydantic.RootModel():
            return _literal(value.root)
        case dict():
            return "{}"
        case _:
            return f'"{value}"'
