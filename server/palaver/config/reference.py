"""The reference of settings: every key with its type, its default and what it does."""

import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic
from pydantic.fields import FieldInfo

from palaver.config.loading import WELL_KNOWN, plugin_models
from palaver.config.settings import Secret, Settings
from palaver.config.validation import Annotation, options, outer

if TYPE_CHECKING:
    from palaver.plugins import PluginRegistry


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
        case sys.executable:
            return "the server's own interpreter"
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


# The page

INTRODUCTION = """\
<!-- Written by scripts/settings-reference from the settings models; edit those. -->

# Settings

Values come from, in rising order: the defaults below, the bare environment names at the end of
this page, one TOML file, the environment, flags.

- **File**: `palaver.toml` in the working directory, or the one that `--config` or
  `PALAVER_CONFIG` names. A key such as `server.port` is `port` in the table `[server]`.
- **Environment**: `PALAVER__SERVER__PORT=8080`. Two underscores stand for each dot. A list is
  written as TOML (`["a", "b"]`) or with commas (`a,b`).
- **Flags**: `palaver --set server.port=8080 serve`.

A secret is given by reference: `env:NAME` is read from the environment, `file:PATH` from a file.
A key that does not exist is refused, with a suggestion. `palaver check` tells what a configuration
guarantees and what it does not.
"""


def settings_page(registry: "PluginRegistry") -> str:
    """``docs/settings.md`` for these plugins."""
    parts = [INTRODUCTION]
    models = plugin_models(registry)
    for section, field in Settings.model_fields.items():
        parts.append(f"## {section}\n\n{_flat(field.description)}\n")
        model = _table_of(field.annotation)
        parts += [_table(describe(model, f"{section}."))] if model else []
        for name, backend in sorted(models.get(section, {}).items()):
            rows = describe(backend, f"{section}.{name}.")
            parts += [f"### [{section}.{name}]\n", _table(rows)] if rows else []
    parts += ["## Bare environment names\n", _bare_names()]
    return "\n".join(parts)


def _table(rows: list[Row]) -> str:
    lines = ["| key | type | default | |", "| --- | --- | --- | --- |"]
    for row in rows:
        default = f"`{row.default}`" if row.default else "required"
        # Docstrings are written in the reST of Python's world.
        description = row.description.replace("``", "`").replace("|", "\\|")
        kind = row.type.replace("|", "\\|")
        lines.append(f"| `{row.key}` | {kind} | {default} | {description} |")
    return "\n".join(lines) + "\n"


def _bare_names() -> str:
    lines = ["| name | fills |", "| --- | --- |"]
    lines += [f"| `{name}` | `{'.'.join(keys)}` |" for name, (keys, _) in WELL_KNOWN.items()]
    return "\n".join(lines) + "\n"
