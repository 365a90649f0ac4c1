"""A grammar of compact JSON for a JSON Schema.

xgrammar, inside OpenVINO, compiles schemas itself, but then allows any amount of white space
between the parts, and a weak model never gets out of it. So the part of JSON Schema that our own
models and pydantic use is written out here, without white space.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]  # a JSON Schema document
Known = dict[str, tuple[str, Any]]
"""Keywords, with the argument that each becomes and its default."""

SILENT = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$defs", "definitions", "$schema", "$id", "$comment", "discriminator"}
)
"""Keywords that do not narrow what is valid."""
BASE = r"""
boolean ::= "true" | "false"
null ::= "null"
integer ::= "-"? natural
natural ::= "0" | [1-9] [0-9]{0,15}
number ::= integer ("." [0-9]{1,15})? ([eE] [+-]? [0-9]{1,2})?
string ::= "\"" char* "\""
plain ::= [ !#-\[\]-~\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]
char ::= plain | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})
array ::= "[" (value ("," value)*)? "]"
object ::= "{" (string ":" value ("," string ":" value)*)? "}"
value ::= object | array | string | number | boolean | null
"""
MOST_NUMBERS = 512
"""Bounded integers are written out one by one up to this many."""


class BeyondError(Exception):
    """The schema says something that is not written out here."""


def grammar(schema: Schema) -> str | None:
    """The grammar in xgrammar's EBNF, or None when ``schema`` needs xgrammar's own compiler."""
    try:
        return _Writer(schema).whole()
    except BeyondError:
        return None


class _Writer:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rules: dict[str, str] = {}

    def whole(self) -> str:
        root = self._expression(self._schema)
        rules = "\n".join(f"{name} ::= {body}" for name, body in self._rules.items())
        return f"root ::= {root}\n{rules}{BASE}"

    def _expression(self, schema: Schema | bool) -> str:
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise BeyondError
        said = schema.keys() - SILENT
        match sorted(said):
            case []:
                return "value"
            case ["$ref"]:
                return self._reference(schema["$ref"])
            case ["const"] | ["const", "type"]:
                return literal(schema["const"])
            case ["enum"] | ["enum", "type"]:
                return union(map(literal, schema["enum"]))
            case ["anyOf"]:
                return union(map(self._expression, schema["anyOf"]))
            case ["allOf"] if len(schema["allOf"]) == 1:
                return self._expression(schema["allOf"][0])
        kind = schema.get("type")
        if isinstance(kind, list):
            return union(self._expression(schema | {"type": one}) for one in kind)
        return self._typed(kind, {key: schema[key] for key in said - {"type"}})

    def _typed(self, kind: object, limits: Schema) -> str:
        match kind:
            case "object":
                return self._object(**keywords(limits, OBJECT))
            case "array":
                return self._array(**keywords(limits, ARRAY))
            case "string":
                return string(**keywords(limits, STRING))
            case "integer":
                return integer(**keywords(limits, INTEGER))
            case "number" | "boolean" | "null" if not limits:
                return kind
        raise BeyondError

    def _reference(self, reference: str) -> str:
        """A definition becomes a rule, so that it may refer to itself."""
        start, _, name = reference.rpartition("/")
        place = self._schema.get(start.removeprefix("#/"), {})
        if name not in place:
            raise BeyondError
        rule = f"def_{name.encode().hex()}"
        if rule not in self._rules:
            self._rules[rule] = ""
            self._rules[rule] = self._expression(place[name])
        return rule

    def _object(self, properties: Schema, required: list[str], others: Any) -> str:
        if not properties:
            if others is False:
                return '"{" "}"'
            inner = self._expression(others)
            return f'"{{" (string ":" {inner} ("," string ":" {inner})*)? "}}"'
        if others not in (True, False) or set(required) - properties.keys():
            raise BeyondError
        members = [
            (f"{literal(name)} {quoted(':')} {self._expression(part)}", name in required)
            for name, part in properties.items()
        ]
        return f'"{{" {self._members(members)} "}}"'

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """The members in their order; those that are not required may be left out. There is one
        rule for the rest after each member, with and without a comma before it."""
        name = f"members{len(self._rules)}"
        self._rules[f"{name}_{len(members)}_first"] = self._rules[f"{name}_{len(members)}"] = '""'
        for index in reversed(range(len(members))):
            member, needed = members[index]
            rest = f"{name}_{index + 1}"
            for suffix, comma in (("_first", ""), ("", '"," ')):
                body = f"{comma}{member} {rest}"
                self._rules[f"{name}_{index}{suffix}"] = (
                    body if needed else f"{body} | {rest}{suffix}"
                )
        return f"{name}_0_first"

    def _array(self, items: Any, least: int, most: int | None) -> str:
        item = self._expression(items)
        if most == 0:
            return '"[" "]"'
        more = f'("," {item}){repeat(max(least - 1, 0), None if most is None else most - 1)}'
        inner = f"{item} {more}"
        return f'"[" {inner} "]"' if least else f'"[" ({inner})? "]"'


OBJECT: Known = {"properties": ("properties", {}), "required": ("required", [])} | {
    "additionalProperties": ("others", True)
}
ARRAY: Known = {"items": ("items", True), "minItems": ("least", 0), "maxItems": ("most", None)}
STRING: Known = {"minLength": ("least", 0), "maxLength": ("most", None)}
INTEGER: Known = {"minimum": ("least", None), "maximum": ("most", None)}


def keywords(limits: Schema, known: Known) -> Schema:
    """Arguments from the keywords of a schema; raises `BeyondError` for one that is not known."""
    if limits.keys() - known.keys():
        raise BeyondError
    return {name: limits.get(keyword, default) for keyword, (name, default) in known.items()}


def string(least: int, most: int | None) -> str:
    if not least and most is None:
        return "string"
    return rf'"\"" char{repeat(least, most)} "\""'


def integer(least: int | None, most: int | None) -> str:
    if least is None and most is None:
        return "integer"
    if least == 0 and most is None:
        return "natural"
    if least is None or most is None or not 0 <= most - least < MOST_NUMBERS:
        raise BeyondError
    return union(literal(number) for number in range(int(least), int(most) + 1))


def repeat(least: int, most: int | None) -> str:
    if most is None:
        return "*" if not least else f"{{{least},}}"
    return f"{{{least},{most}}}"


def literal(value: Any) -> str:
    """The grammar of exactly this JSON value, as compact JSON."""
    return quoted(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def quoted(text: str) -> str:
    """The grammar of exactly this text. A character beyond ASCII ends its string: xgrammar reads
    a hexadecimal digit after one as part of the character ("ße" becomes U+0DFE)."""
    runs = re.findall(r"[\x00-\x7f]*[^\x00-\x7f]|[\x00-\x7f]+", text)
    return " ".join(json.dumps(run, ensure_ascii=False) for run in runs)


def union(parts: Iterator[str]) -> str:
    found = " | ".join(parts)
    if not found:
        raise BeyondError
    return f"({found})"
