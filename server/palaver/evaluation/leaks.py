"""Leaks: test rows that a measurement must not have seen as examples."""

import re
from collections.abc import Container, Sequence

from palaver.errors import InvalidInput
from palaver.search_terms import normalize_text

_WORD = re.compile(r"\w+")
_DIGITS = re.compile(r"\d+")
_NAMED_LEAKS = 3


def normal_form(text: str) -> str:
    """Return what is equal for near duplicates: the words in any order, without case, accents and
    punctuation, and with all numbers alike."""
    words = _WORD.findall(normalize_text(text))
    return " ".join(sorted(_DIGITS.sub("0", word) for word in words))


def refuse_leaks(examples: Sequence[str], tests: Container[str]) -> None:
    """Raise `InvalidInput` when an example is a near duplicate of a test row."""
    leaked = [text for text in examples if normal_form(text) in tests]
    if leaked:
        shown = ", ".join(repr(text[:60]) for text in leaked[:_NAMED_LEAKS])
        raise InvalidInput(
            f"{len(leaked)} examples are near duplicates of test rows, so that the suite would "
            f"measure what the router knows already: {shown}. Remove them from the test rows, or "
            "leave them out with examples.drop_near_duplicates"
        )
