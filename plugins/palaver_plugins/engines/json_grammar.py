"""Grammars of compact JSON for JSON Schemas.

xgrammar, inside OpenVINO, compiles schemas itself, but then allows any amount of white space
between the parts, and a small model may generate it without end. So this module writes the grammar
of the part of JSON Schema that pydantic and our skills use, without white space.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]  # a JSON Schema document
KeywordTable = dict[str, tuple[str, Any]]
"""Keywords, each with the name of the argument that it becomes and its default."""

ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$defs", "definitions", "$schema", "$id", "$comment", "discriminator"}
)
"""Keywords that do not restrict the valid values."""
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
MAX_ENUMERATED_INTEGERS = 512
"""A bounded integer with more values is left to xgrammar."""


class UnsupportedSchemaError(Exception):
    """The schema has a keyword that this module does not support."""


def build_grammar(schema: Schema) -> str | None:
    """Return the grammar in xgrammar's EBNF, or None when only xgrammar can compile ``schema``."""
    try:
        return _GrammarWriter(schema).write()
    except UnsupportedSchemaError:
        return None


class _GrammarWriter:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rules: dict[str, str] = {}

    def write(self) -> str:
        root = self._expression(self._schema)
        rules = "\n".join(f"{name} ::= {body}" for name, body in self._rules.items())
        return f"root ::= {root}\n{rules}{BASE}"

    def _expression(self, schema: Schema | bool) -> str:
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise UnsupportedSchemaError
        keywords = schema.keys() - ANNOTATIONS
        match sorted(keywords):
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
            return union(self._expression(schema | {"type": member}) for member in kind)
        return self._typed(kind, {key: schema[key] for key in keywords - {"type"}})

    def _typed(self, kind: object, limits: Schema) -> str:
        match kind:
            case "object":
                return self._object(**arguments(limits, OBJECT))
            case "array":
                return self._array(**arguments(limits, ARRAY))
            case "string":
                return string(**arguments(limits, STRING))
            case "integer":
                return integer(**arguments(limits, INTEGER))
            case "number" | "boolean" | "null" if not limits:
                return kind
        raise UnsupportedSchemaError

    def _reference(self, reference: str) -> str:
        """Return the rule of a definition: a rule may refer to itself."""
        start, _, name = reference.rpartition("/")
        definitions = self._schema.get(start.removeprefix("#/"), {})
        if name not in definitions:
            raise UnsupportedSchemaError
        rule = f"def_{name.encode().hex()}"
        if rule not in self._rules:
            self._rules[rule] = ""
            self._rules[rule] = self._expression(definitions[name])
        return rule

    def _object(self, properties: Schema, required: list[str], additional: Any) -> str:
        if not properties:
            if additional is False:
                return '"{" "}"'
            inner = self._expression(additional)
            return f'"{{" (string ":" {inner} ("," string ":" {inner})*)? "}}"'
        if additional not in (True, False) or set(required) - properties.keys():
            raise UnsupportedSchemaError
        members = [
            (f"{literal(name)} {quoted(':')} {self._expression(part)}", name in required)
            for name, part in properties.items()
        ]
        return f'"{{" {self._members(members)} "}}"'

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """Return the rule of the members in their order; optional ones may be left out. For the
        rest after each member there is one rule with and one without a leading comma."""
        name = f"members{len(self._rules)}"
        self._rules[f"{name}_{len(members)}_first"] = self._rules[f"{name}_{len(members)}"] = '""'
        for index in reversed(range(len(members))):
            member, is_required = members[index]
            rest = f"{name}_{index + 1}"
            for suffix, comma in (("_first", ""), ("", '"," ')):
                body = f"{comma}{member} {rest}"
                self._rules[f"{name}_{index}{suffix}"] = (
                    body if is_required else f"{body} | {rest}{suffix}"
                )
        return f"{name}_0_first"

    def _array(self, items: Any, minimum: int, maximum: int | None) -> str:
        item = self._expression(items)
        if maximum == 0:
            return '"[" "]"'
        more = repeat(max(minimum - 1, 0), None if maximum is None else maximum - 1)
        inner = f'{item} ("," {item}){more}'
        return f'"[" {inner} "]"' if minimum else f'"[" ({inner})? "]"'


OBJECT: KeywordTable = {"properties": ("properties", {}), "required": ("required", [])} | {
    "additionalProperties": ("additional", True)
}
ARRAY: KeywordTable = {
    "items": ("items", True),
    "minItems": ("minimum", 0),
    "maxItems": ("maximum", None),
}
STRING: KeywordTable = {"minLength": ("minimum", 0), "maxLength": ("maximum", None)}
INTEGER: KeywordTable = {"minimum": ("minimum", None), "maximum": ("maximum", None)}


def arguments(limits: Schema, known: KeywordTable) -> Schema:
    """Return arguments from the keywords of a schema. Raises `UnsupportedSchemaError` for an
    unknown keyword."""
    if limits.keys() - known.keys():
        raise UnsupportedSchemaError
    return {name: limits.get(keyword, default) for keyword, (name, default) in known.items()}


def string(minimum: int, maximum: int | None) -> str:
    if not minimum and maximum is None:
        return "string"
    return rf'"\"" char{repeat(minimum, maximum)} "\""'


def integer(minimum: int | None, maximum: int | None) -> str:
    if maximum is None and minimum in (None, 0):
        return "integer" if minimum is None else "natural"
    if minimum is None or maximum is None or not 0 <= maximum - minimum < MAX_ENUMERATED_INTEGERS:
        raise UnsupportedSchemaError
    return union(literal(number) for number in range(int(minimum), int(maximum) + 1))


def repeat(minimum: int, maximum: int | None) -> str:
    if maximum is None:
        return f"{{{minimum},}}" if minimum else "*"
    return f"{{{minimum},{maximum}}}"


def literal(value: Any) -> str:
    """Return the grammar of exactly this JSON value, as compact JSON."""
    return quoted(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def quoted(text: str) -> str:
    """Return the grammar of exactly this text. A character beyond ASCII ends its string: xgrammar
    reads a hexadecimal digit after one as part of the character ("ße" becomes U+0DFE)."""
    runs = re.findall(r"[\x00-\x7f]*[^\x00-\x7f]|[\x00-\x7f]+", text)
    return " ".join(json.dumps(run, ensure_ascii=False) for run in runs)


def union(parts: Iterator[str]) -> str:
    alternatives = " | ".join(parts)
    if not alternatives:
        raise UnsupportedSchemaError
    return f"({alternatives})"
