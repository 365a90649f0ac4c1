"""Grammars of engine ``llamacpp``, in the language of llguidance, which llama.cpp contains.

llama.cpp ignores a grammar with an error, and generates any text. So each one is checked first,
with the package of llguidance.
"""

import json
import re
from typing import assert_never

from palaver import Choice, InvalidInput, JsonSchema, Regex, Structure
from palaver_plugins.optional_packages import import_packages

HEADER = "%llguidance {}\n"
COMPACT = {"x-guidance": {"whitespace_flexible": False}}
"""Without white space: a small model may write it without end."""


def build_grammar(structure: Structure) -> str:
    """Return the grammar. Raises `InvalidInput` when the structure cannot be compiled."""
    (llguidance,) = import_packages("engine", "llamacpp", "llguidance")
    grammar = f"{HEADER}start: {_start_rule(structure)}"
    if problem := llguidance.LLMatcher.validate_grammar(grammar, None):
        kind = type(structure).__name__
        raise InvalidInput(f"invalid {kind}: {problem.partition(chr(10))[0]}")
    return grammar


def _start_rule(structure: Structure) -> str:
    match structure:
        case JsonSchema(schema):
            return f"%json {json.dumps(schema | COMPACT)}"
        case Choice(options):
            return " | ".join(map(_quoted, options))
        case Regex(pattern):
            return f"/{_delimited(pattern)}/"
        case _:
            assert_never(structure)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _delimited(pattern: str) -> str:
    """Return ``pattern`` with slashes and line ends escaped."""
    escaped = {"/": r"\/", "\n": r"\n", "\r": r"\r"}
    return re.sub(r"\\.|[/\n\r]", lambda found: escaped.get(found[0], found[0]), pattern)
