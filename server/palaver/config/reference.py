"""The reference of settings: every key with its type, default and description."""

import sys
import typing
from collections.abc import Mapping
from pathlib import Path

import pydantic
from pydantic.fields import FieldInfo

from palaver.config.loading import WELL_KNOWN
from palaver.config.settings import Secret, Settings
from palaver.config.validation import Annotation, generic_type, union_members

Models = Mapping[str, Mapping[str, type[pydantic.BaseModel]]]
"""Settings models of plugins: section → name → model."""


class SettingRow(typing.NamedTuple):
    """One key of the reference. ``key`` is dotted. ``default`` is TOML; "": the key is required."""

    key: str
    type: str
    default: str
    description: str


def list_settings(model: type[pydantic.BaseModel], prefix: str = "") -> list[SettingRow]:
    """Return a row for every key of ``model``, section by section."""
    rows = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        (option, *_) = union_members(field.annotation)
        inner = _nested_model(option)
        if inner:
            named = generic_type(option) is dict
            rows += list_settings(inner, f"{key}.NAME." if named else f"{key}.")
        else:
            kind, description = _describe_type(field.annotation), _join_lines(field.description)
            rows.append(SettingRow(key, kind, _default(field), description))
    return rows


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    return _format_default(field.get_default(call_default_factory=True, validated_data={}))


def _nested_model(option: Annotation) -> type[pydantic.BaseModel] | None:
    if generic_type(option) is dict:
        option = typing.get_args(option)[1]
    if not (isinstance(option, type) and issubclass(option, pydantic.BaseModel)):
        return None
    return None if issubclass(option, pydantic.RootModel) else option


def _join_lines(description: str | None) -> str:
    return " ".join((description or "").split())


TYPE_NAMES: dict[Annotation, str] = {
    str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path",
    Secret: "secret", dict: "table",
}  # fmt: skip


def _describe_type(annotation: Annotation) -> str:
    kinds = []
    for option in union_members(annotation):
        origin, arguments = generic_type(option), typing.get_args(option)
        if origin is typing.Literal:
            kinds.append(" or ".join(f"`{argument}`" for argument in arguments))
        elif origin in (tuple, list, frozenset, set):
            kinds.append(f"list of {_describe_type(arguments[0])}")
        else:
            kinds.append(TYPE_NAMES.get(origin or option, "text"))
    return " or ".join(dict.fromkeys(kinds))


def _format_default(value: object) -> str:
    """Return a default as TOML; "none" for None, which TOML cannot write."""
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
            return f"[{', '.join(_format_default(item) for item in value)}]"
        case pydantic.RootModel():
            return _format_default(value.root)
        case dict():
            return "{}"
        case _:
            return f'"{value}"'


# The page

INTRODUCTION = """\
<!-- Written by scripts/settings-reference from the settings models; edit those. -->

# Settings

For operators: every setting with its type and default, and how to set it.

    palaver --set server.port=8080 serve                    # a flag
    PALAVER__SERVER__PORT=8080 palaver serve                # the environment
    printf '[server]\\nport = 8080\\n' > palaver.toml         # a file

| source, later rows win | how |
| --- | --- |
| default | the tables below |
| common environment names | the table at the end of this page |
| file | `palaver.toml` in the working directory, or the file that `--config` or `PALAVER_CONFIG` \
names. `server.port` is `port` in the table `[server]`. |
| environment | `PALAVER__SERVER__PORT`: two underscores for each dot. A list is TOML \
(`["a", "b"]`) or has commas (`a,b`). |
| flag | `--set server.port=8080` before the command. `serve` has `--host` and `--port` too. |

A secret is a reference: `env:NAME` names an environment variable, `file:PATH` a file. An unknown
key is an error with a suggestion. `palaver check` explains what a configuration guarantees.
"""


def render_settings_page(models: Models) -> str:
    """Return ``docs/settings.md`` for plugins with these ``models``."""
    parts = [INTRODUCTION]
    for section, field in Settings.model_fields.items():
        parts.append(f"## {section}\n\n{_join_lines(field.description)}\n")
        model = _nested_model(field.annotation)
        parts += [_render_table(list_settings(model, f"{section}."))] if model else []
        for name, backend in sorted(models.get(section, {}).items()):
            rows = list_settings(backend, f"{section}.{name}.")
            parts += [f"### [{section}.{name}]\n", _render_table(rows)] if rows else []
    parts += ["## Common environment names\n", _render_environment_names()]
    return "\n".join(parts)


def _render_table(rows: list[SettingRow]) -> str:
    lines = ["| key | type | default | |", "| --- | --- | --- | --- |"]
    for row in rows:
        default = f"`{row.default}`" if row.default else "required"
        # Docstrings are reST, the page is Markdown.
        description = row.description.replace("``", "`").replace("|", "\\|")
        kind = row.type.replace("|", "\\|")
        lines.append(f"| `{row.key}` | {kind} | {default} | {description} |")
    return "\n".join(lines) + "\n"


def _render_environment_names() -> str:
    lines = ["| name | sets |", "| --- | --- |"]
    lines += [f"| `{name}` | `{'.'.join(keys)}` |" for name, (keys, _) in WELL_KNOWN.items()]
    return "\n".join(lines) + "\n"
