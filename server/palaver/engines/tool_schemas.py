"""JSON schemas of what a model writes that calls tools."""

from collections.abc import Mapping, Sequence
from typing import Any

from palaver.engine import ToolDefinition

Schema = dict[str, Any]  # a JSON Schema document
ANY_OBJECT: Schema = {"type": "object"}
_DEFINITIONS = ("$defs", "definitions")
_VALUES = ("default", "const", "enum", "examples")
"""Keywords whose arguments are values, not schemas."""


def without_titles(schema: Any) -> Any:  # Any: a part of a schema
    """Return ``schema`` without the titles that pydantic writes: they only repeat the names."""
    if isinstance(schema, list):
        return [without_titles(it) for it in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: value if key in _VALUES else without_titles(value)
        for key, value in schema.items()
        if key != "title" or not isinstance(value, str)
    }


def output_schema(tools: Sequence[ToolDefinition], *, may_answer: bool) -> Schema:
    """Return the schema of a call of one of ``tools``, or of an answer."""
    return _one_of(tools, [_object_of(answer={"type": "string"})] if may_answer else [], "tool")


def call_schema(tools: Sequence[ToolDefinition], *, name_key: str) -> Schema:
    """Return the schema of a call of one of ``tools``: an object with its name, under
    ``name_key``, and its ``arguments``."""
    return _one_of(tools, [], name_key)


def _one_of(tools: Sequence[ToolDefinition], others: Sequence[Schema], name_key: str) -> Schema:
    definitions: Schema = {}
    forms = []
    for index, tool in enumerate(tools):
        arguments = _closed(_Nesting(f"tool{index}", definitions).nest(tool.parameters))
        forms.append(_object_of(**{name_key: {"const": tool.name}, "arguments": arguments}))
    forms += others
    schema: Schema = {"anyOf": forms} if len(forms) > 1 else forms[0]
    return schema | {"$defs": definitions} if definitions else schema


def _object_of(**properties: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _closed(parameters: Schema) -> Schema:
    """Return the schema of an object without members that it does not name, where it does not
    say whether there are others."""
    is_plain = parameters.keys() <= {"type", "properties", "required", "title", "description"}
    is_closed = is_plain and "properties" in parameters
    return parameters | {"additionalProperties": False} if is_closed else parameters


class _Nesting:
    """Makes a schema a part of another one, whose ``definitions`` get its own."""

    def __init__(self, name: str, definitions: Schema) -> None:
        self._name = name
        self._definitions = definitions

    def nest(self, schema: Schema) -> Schema:
        for keyword in _DEFINITIONS:
            for key, part in schema.get(keyword, {}).items():
                self._definitions[f"{self._name}_{key}"] = self._move(part)
        left_out = (*_DEFINITIONS, "$schema", "$id")
        rest = {key: part for key, part in schema.items() if key not in left_out}
        moved: Schema = self._move(rest)
        if self._name in self._definitions:
            self._definitions[self._name] = moved
        return moved

    def _move(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self._move(it) for it in part]
        if not isinstance(part, Mapping):
            return part
        moved = {key: value if key in _VALUES else self._move(value) for key, value in part.items()}
        if isinstance(reference := part.get("$ref"), str):
            moved["$ref"] = self._move_reference(reference)
        return moved

    def _move_reference(self, reference: str) -> str:
        for keyword in _DEFINITIONS:
            if reference.startswith(start := f"#/{keyword}/"):
                return f"#/$defs/{self._name}_{reference.removeprefix(start)}"
        self._definitions[self._name] = {}  # the whole schema, when it is complete
        return f"#/$defs/{self._name}{reference.removeprefix('#')}"
