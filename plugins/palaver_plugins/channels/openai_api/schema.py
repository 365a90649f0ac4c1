"""JSON schemas in requests of OpenAI's chat API: what no engine could follow is refused at once."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import msgspec

from palaver_plugins.channels.openai_api.errors import InvalidSchema, SchemaTooLarge

MAX_SCHEMA_BYTES = 16_384
MAX_SCHEMA_DEPTH = 32
MAX_REPETITION = 1_000
"""Times that a JSON schema may repeat something: an engine's grammar may hold each of them."""
COUNTS = frozenset(f"{end}{what}" for end in ("min", "max") for what in ("Length", "Items"))
TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
PARAM = "response_format"

Json = dict[str, Any]  # JSON values
_REPETITIONS = re.compile(r"[{,](\d+)(?=[,}])")


def check_schema(schema: Json, param: str = PARAM) -> None:
    """Raise `InvalidSchema` or `SchemaTooLarge` for a schema, the value of ``param``, that cannot
    be used."""
    if len(msgspec.json.encode(schema)) > MAX_SCHEMA_BYTES:
        raise SchemaTooLarge(param, f"the JSON schema has more than {MAX_SCHEMA_BYTES} bytes")
    _check_repetitions(schema, param)
    found, checked = [schema], set[str]()
    for part in found:
        for keyword, value in part.items():
            found += [each for each in _parts_of(keyword, value, param) if isinstance(each, dict)]
        _check_reference(schema, part, checked, param)


def _check_repetitions(schema: Json, param: str) -> None:
    """Refuse what a grammar would have to repeat very often, or that is nested deeply."""
    level: list[object] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        following: list[object] = []
        for value in level:
            if isinstance(value, dict):
                for key, item in value.items():
                    _check_repetition(key, item, param)
                following += value.values()
            elif isinstance(value, list):
                following += value
        level = following
        if not level:
            return
    raise SchemaTooLarge(param, f"the JSON schema is nested more than {MAX_SCHEMA_DEPTH} times")


def _check_repetition(key: str, value: object, param: str) -> None:
    if key in COUNTS and isinstance(value, int | float) and value > MAX_REPETITION:
        raise SchemaTooLarge(param, f"{key} is {value}, at most {MAX_REPETITION} is possible")
    if key == "pattern" and isinstance(value, str):
        repeated = [int(number[:9]) for number in _REPETITIONS.findall(value)]
        if math.prod(max(number, 1) for number in repeated) > MAX_REPETITION:
            raise SchemaTooLarge(param, "the pattern repeats more than possible; use * or +")


# The form of a schema


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and _is_number(value) and value >= 0 and value % 1 == 0


def _is_type(value: object) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and bool(value)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_string(value: object) -> bool:
    return isinstance(value, str)


Check = Callable[[object], bool]
FORMS: dict[str, tuple[Check, str]] = {
    "type": (_is_type, f"one or several of {', '.join(sorted(TYPES))}"),
    "enum": (_is_list, "a list of values, and not an empty one"),
    "required": (_is_names, "a list of names"),
    "pattern": (_is_string, "a text"),
    "$ref": (_is_string, "a text"),
    **dict.fromkeys((*COUNTS, "minProperties", "maxProperties"), (_is_count, "a whole number")),
    **dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        (_is_number, "a number"),
    ),
}
NAMED_SCHEMAS = frozenset(
    {"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"}
)
SCHEMA_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
SCHEMAS = frozenset(
    {"items", "additionalProperties", "unevaluatedProperties", "propertyNames", "contains", "not"}
)


def _parts_of(keyword: str, value: object, param: str) -> Iterator[object]:
    """Yield the schemas within a keyword's value. Raises `InvalidSchema` for a wrong value."""
    if keyword in FORMS:
        is_valid, expected = FORMS[keyword]
        _require(is_valid(value), keyword, value, expected, param)
    elif keyword in NAMED_SCHEMAS:
        parts = value.values() if isinstance(value, dict) else None
        _require(parts is not None, keyword, value, "an object of schemas", param)
        yield from _schemas(keyword, parts or (), param)
    elif keyword in SCHEMA_LISTS:
        _require(_is_list(value), keyword, value, "a list of schemas, and not an empty one", param)
        yield from _schemas(keyword, value if isinstance(value, list) else (), param)
    elif keyword in SCHEMAS:
        yield from _schemas(keyword, (value,), param)


def _schemas(
    keyword: str, parts: Any, param: str
) -> Iterator[object]:  # an iterable of JSON values
    for part in parts:
        _require(isinstance(part, dict | bool), keyword, part, "a schema", param)
        yield part


def _require(is_valid: bool, keyword: str, value: object, expected: str, param: str) -> None:
    if not is_valid:
        shown = msgspec.json.encode(value).decode()[:60]
        raise InvalidSchema(param, f"{keyword!r} is {shown} in the schema; expected {expected}")


def _check_reference(schema: Json, part: object, checked: set[str], param: str) -> None:
    """Refuse a reference to nothing within the schema, or to itself; skip those ``checked``."""
    passed: set[str] = set()
    while isinstance(part, dict) and "$ref" in part:
        reference = str(part["$ref"])
        if reference in checked:
            break
        part = _find(schema, reference)
        if reference in passed or not isinstance(part, dict | bool):
            raise InvalidSchema(
                param,
                f"'$ref' is {reference[:60]!r} in the schema; expected '#/$defs/…', "
                f"the path of another part of the schema",
            )
        passed.add(reference)
    checked |= passed


def _find(schema: Json, reference: str) -> object:
    if not reference.startswith("#"):
        return None
    found: object = schema
    for name in reference.removeprefix("#").split("/")[1:]:
        key = unquote(name).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            found = found.get(key) if isinstance(found, dict) else None
    return found
