"""Schemas: the part of a tool's JSON schema that models and engines get.

A server's schema may be deep, endless by its references, or made to be slow. Only known keywords
are kept, local references are put in place, and nothing is ever loaded.
"""

from collections.abc import Mapping
from typing import Any

from palaver_plugins.tools.pinned.texts import clean_line

Json = Any  # JSON values
MAX_DEPTH = 16
MAX_NODES = 500
MAX_NAME_CHARACTERS = 100
"""Levels and subschemas of a schema; a deeper or larger one is refused."""

_TEXTS = frozenset({"title", "description"})
_VALUES = frozenset(
    {
        "type", "const", "default", "format",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
        "minLength", "maxLength", "minItems", "maxItems", "uniqueItems",
        "minProperties", "maxProperties",
    }
)  # fmt: skip
"""Keywords whose values stay as they are. No patterns: a regular expression may be slow."""
_SCHEMAS = frozenset({"items", "additionalProperties"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_PROPERTIES = "properties"
_REFERENCE = "$ref"


class UnusableSchema(ValueError):
    """Why a schema is not used."""


def simplify(schema: Mapping[str, Json], max_characters: int) -> dict[str, Json]:
    """Return a schema of an object without references. Its texts are cleaned, and cut at
    ``max_characters``. A part that contains itself may be anything at its second occurrence.

    Raises `UnusableSchema`.
    """
    simplified = _Simplification(schema, max_characters).part(schema, 0, ())
    if not isinstance(simplified, dict) or simplified.get("type", "object") != "object":
        raise UnusableSchema("its arguments are no object")
    return {"type": "object", _PROPERTIES: {}, **simplified}


def _check_name(name: str) -> str:
    if not name or clean_line(name, MAX_NAME_CHARACTERS) != name:
        raise UnusableSchema("an argument has a name that is too long or has hidden characters")
    return name


class _Simplification:
    def __init__(self, root: Mapping[str, Json], max_characters: int) -> None:
        self._root = root
        self._max_characters = max_characters
        self._nodes = 0

    def part(self, schema: Json, depth: int, within: tuple[str, ...]) -> Json:
        """Return a simplified subschema. ``within``: the references that led here."""
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise UnusableSchema(
                f"its schema has more than {MAX_DEPTH} levels or {MAX_NODES} parts"
            )
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise UnusableSchema("its schema is malformed")
        if _REFERENCE in schema:
            reference = schema[_REFERENCE]
            if reference in within:
                return {}
            target = self._find(reference)
            rest = {key: value for key, value in schema.items() if key != _REFERENCE}
            return self.part({**target, **rest}, depth + 1, (*within, reference))
        return {
            key: simplified
            for key, value in schema.items()
            if (simplified := self._keyword(key, value, depth, within)) is not None
        }

    def _keyword(self, key: str, value: Json, depth: int, within: tuple[str, ...]) -> Json | None:
        if key in _TEXTS:
            return clean_line(str(value), self._max_characters)
        if key == "enum" and isinstance(value, list):
            return value[:MAX_NODES]
        if key == "required" and isinstance(value, list):
            return [name for name in value if isinstance(name, str)]
        if key in _VALUES:
            return value
        if key in _SCHEMAS:
            return self.part(value, depth + 1, within)
        if key in _LISTS and isinstance(value, list):
            return [self.part(item, depth + 1, within) for item in value]
        if key == _PROPERTIES and isinstance(value, Mapping):
            return {
                _check_name(name): self.part(item, depth + 1, within)
                for name, item in value.items()
            }
        return None

    def _find(self, reference: Json) -> Mapping[str, Json]:
        """Return what a local reference such as ``#/$defs/Item`` names."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise UnusableSchema("its schema refers to another document, which is not loaded")
        found: Json = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            found = found.get(step) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            raise UnusableSchema("its schema refers to a part that is not there")
        return found
