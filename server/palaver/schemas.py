"""JSON schemas: checks values by schemas that others have written.

Nothing is loaded from another place. Patterns are matched in linear time, as in `palaver.patterns`:
they have neither lookaround nor references to groups. A schema that applies its parts very often
to one value, as parts that refer to each other can, is refused: `_check_applications`.
"""

import functools
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jsonschema_rs
import msgspec

MAX_CACHED_BYTES = 16 << 10
"""Size of a schema that is remembered; there are at most `MAX_CACHED` of them."""
MAX_CACHED = 512
MAX_PATTERN_MEMORY = 1 << 20  # bytes of one compiled pattern
MAX_APPLICATIONS = 10_000
"""Applications of a part of the schema to a part of a value, for one value."""
MAX_PROBLEMS, MAX_PROBLEM_LENGTH = 3, 200
"""What is wrong with a value is told with at most so many sentences of so many characters."""


class SchemaValidator:
    """Checks values by one JSON schema. Raises `ValueError` for what is no schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        _check_references(schema)
        try:
            self._validator = jsonschema_rs.validator_for(
                dict(schema),
                retriever=_retrieve,
                pattern_options=jsonschema_rs.RegexOptions(
                    size_limit=MAX_PATTERN_MEMORY, dfa_size_limit=MAX_PATTERN_MEMORY
                ),
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
            raise ValueError(_describe(error)) from error

    def problem(self, value: object) -> str:
        """Return what is wrong with ``value``, a JSON value; an empty string when nothing is."""
        problems: list[str] = []
        try:
            _check_applications(self._schema, value)
            for error in self._validator.iter_errors(value):
                if len(problems) == MAX_PROBLEMS:
                    problems.append("…")
                    break
                problems.append(_describe(error))
        except ValueError as error:  # it is nested too deeply, or has half a surrogate pair
            return _cut(str(error))
        return "; ".join(problems)


def validator_of(schema: Mapping[str, Any]) -> SchemaValidator:
    """Return a validator, the same as before for a schema of a few kilobytes that comes again.

    Raises `ValueError` for what is no schema.
    """
    try:
        encoded = msgspec.json.encode(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON value: {error}") from error
    if len(encoded) > MAX_CACHED_BYTES:
        return SchemaValidator(schema)
    return _cached_validator(encoded)


@functools.lru_cache(maxsize=MAX_CACHED)
def _cached_validator(encoded: bytes) -> SchemaValidator:
    return SchemaValidator(msgspec.json.decode(encoded))


def _retrieve(uri: str) -> NoReturn:
    raise ValueError("a schema may refer only to itself")


def _describe(error: Exception) -> str:
    if not isinstance(error, jsonschema_rs.ValidationError):
        return _cut(str(error))
    path = ".".join(map(str, error.instance_path))
    return f"{_cut(path)}: {_cut(error.message)}" if path else _cut(error.message)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_PROBLEM_LENGTH else text[: MAX_PROBLEM_LENGTH - 1] + "…"


# The number of applications

_POINTER = re.compile("#(/.*)?", re.DOTALL)
_UNSUPPORTED = ("$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor", "$recursiveAnchor")


def _check_applications(schema: Mapping[str, Any], value: object) -> None:
    """Raise `ValueError` when checking ``value`` may take very long.

    It counts each application of a part of ``schema`` to a part of ``value`` and evaluates nothing,
    so that the count is at least that of the validator, which may take the same steps.
    """
    pending: list[tuple[object, object]] = [(schema, value)]
    count = 0
    while pending:
        part, member = pending.pop()
        if not isinstance(part, Mapping):
            continue
        count += 1
        if count > MAX_APPLICATIONS:
            raise ValueError("the schema is too complex to check this value")
        applied = list(_applied(part, schema, member))
        # What is left unevaluated is found by applying the other parts again.
        times = 2 if part.keys() & {"unevaluatedProperties", "unevaluatedItems"} else 1
        pending += applied * times


def _applied(
    part: Mapping[str, Any], schema: Mapping[str, Any], value: object
) -> Iterator[tuple[object, object]]:
    """Yield the parts of ``schema`` that ``part`` applies, each with the part of ``value``."""
    for keyword, argument in part.items():
        match keyword:
            case "$ref":
                yield _resolve(schema, argument), value
            case "allOf" | "anyOf" | "oneOf":
                yield from ((it, value) for it in argument)
            case "not" | "if" | "then" | "else":
                yield argument, value
            case "dependentSchemas" | "dependencies":
                yield from ((it, value) for it in argument.values())
    if isinstance(value, dict):
        yield from _applied_to_members(part, value)
    elif isinstance(value, list):
        yield from _applied_to_items(part, value)


def _applied_to_members(
    part: Mapping[str, Any], value: dict[str, object]
) -> Iterator[tuple[object, object]]:
    properties = part.get("properties", {})
    yield from ((properties[name], value[name]) for name in properties.keys() & value.keys())
    others = [part.get(it) for it in ("additionalProperties", "propertyNames")]
    others += [part.get("unevaluatedProperties"), *part.get("patternProperties", {}).values()]
    for each in others:
        if isinstance(each, Mapping):
            yield from ((each, member) for member in value.values())


def _applied_to_items(
    part: Mapping[str, Any], value: list[object]
) -> Iterator[tuple[object, object]]:
    for keyword in ("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"):
        argument = part.get(keyword)
        if isinstance(argument, Mapping):
            yield from ((argument, item) for item in value)
        elif isinstance(argument, list):
            yield from zip(argument, value, strict=False)


def _resolve(schema: Mapping[str, Any], reference: str) -> object:
    """Return the part of ``schema`` that a JSON pointer names."""
    part: Any = schema
    for key in reference.removeprefix("#").split("/")[1:]:
        key = urllib.parse.unquote(key).replace("~1", "/").replace("~0", "~")
        part = part[int(key)] if isinstance(part, list) else part[key]
    return part


def _check_references(schema: object) -> None:
    """Raise `ValueError` for references that are not JSON pointers within ``schema``."""
    pending = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        elif isinstance(part, Mapping):
            reference = part.get("$ref", "#")
            if isinstance(reference, str) and not _POINTER.fullmatch(reference):
                raise ValueError(f"a schema may refer only to itself, not to {_cut(reference)!r}")
            for key in _UNSUPPORTED if part is schema else (*_UNSUPPORTED, "$id"):
                if isinstance(part.get(key), str):
                    raise ValueError(f"a schema with {key!r} is not supported")
            pending += part.values()
