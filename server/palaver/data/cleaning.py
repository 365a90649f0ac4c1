"""Cleaning: texts in one form, and the reasons for which rows are dropped."""

import re
import unicodedata
from collections.abc import Sequence

from palaver.data.kinds import Example, Spans
from palaver.data.languages import Detector, is_accepted
from palaver.data.recipe import CleanTable
from palaver.patterns import compile_pattern

_LINE_END = re.compile(r"\r\n?|[\u0085\u2028\u2029]")
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff]"
)
_SPACES = re.compile(r"[^\S\n\t]+")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_WORD = re.compile(r"\w+")
GRAM_WORDS, GRAM_CHARACTERS = 3, 12
MIN_WORDS = 20
"""Words of a text in which repetition counts."""


def normalize(text: str) -> str:
    """Return the text in Unicode's form NFC, without characters that nobody sees, and with at most
    one empty line and one space in a row."""
    text = _UNSEEN.sub("", _LINE_END.sub("\n", text))
    text = _SPACES.sub(" ", unicodedata.normalize("NFC", text))
    return _BLANK_LINES.sub("\n\n", text)


def repetition(text: str) -> float:
    """Return the share of the runs of words, or of characters in scripts without spaces, that the
    text had before."""
    words = _WORD.findall(text)
    if len(words) >= MIN_WORDS:
        runs: Sequence[object] = [
            tuple(words[at : at + GRAM_WORDS]) for at in range(len(words) - GRAM_WORDS + 1)
        ]
    elif len(text) >= 4 * GRAM_CHARACTERS:
        runs = [text[at : at + GRAM_CHARACTERS] for at in range(len(text) - GRAM_CHARACTERS + 1)]
    else:
        return 0.0
    return 1 - len(set(runs)) / len(runs)


def symbol_share(text: str) -> float:
    """Return the share of characters that are neither letters, marks, digits nor spaces."""
    kinds = [unicodedata.category(letter)[0] for letter in text if not letter.isspace()]
    return sum(kind not in "LMN" for kind in kinds) / len(kinds) if kinds else 0.0


def normalize_example(example: Example) -> Example:
    """Return the row with all of its texts in one form."""
    if isinstance(example, Spans):  # a space at the end of a piece stands between two words
        return example.edit(normalize)
    return example.edit(lambda text: normalize(text).strip())


class Cleaner:
    """Finds the reason to drop a row."""

    def __init__(self, rules: CleanTable) -> None:
        self._rules = rules
        self._detector = Detector()
        self._boilerplate = list(map(compile_pattern, rules.boilerplate))

    def language(self, example: Example) -> str:
        return self._detector.language(example.given)

    def reason(self, example: Example, language: str) -> str:
        """Return why the row is dropped, empty for one that stays."""
        rules, texts = self._rules, [example.given, example.wanted]
        text = "\n".join(filter(None, texts))
        if len(text) < rules.min_characters:
            return "too short"
        if len(text) > rules.max_characters:
            return "too long"
        if any(pattern.search(text) for pattern in self._boilerplate):
            return "boilerplate"
        if not is_accepted(language, rules.languages):
            return f"language {language}"
        if max(map(repetition, texts)) > rules.max_repetition:
            return "repetition"
        if max(map(symbol_share, texts)) > rules.max_symbols:
            return "symbols"
        return ""
