"""Small talk: tells messages that talk with the assistant from those that want to know something.

A linear model over words, pairs of words and parts of words, in English, German, French, Spanish
and Chinese. ``training/starter/small_talk.py`` has fitted its weights, ``small_talk.txt``.
"""

import itertools
import math
import re
from collections.abc import Iterator
from importlib import resources

from palaver import is_unspaced

_TOKEN = re.compile(r"[^\W\d_]+|\d|[?!]")
_MOST_TOKENS = 24
"""Words, or runs of Chinese characters, of the longest message; a longer one wants something."""
_LONGEST_TOKEN = 24
_PARTS, _UNSPACED_PARTS = (3, 4), (1, 2, 3)
"""Characters of the parts of words."""


def is_small_talk(text: str) -> bool:
    """Return True for greetings, thanks, moods, questions about the assistant and the like."""
    tokens = _split(text)
    return 0 < len(tokens) <= _MOST_TOKENS and _score(set(_list_features(tokens))) > 0


def read_features(text: str) -> set[str]:
    """Return the features of a message."""
    return set(_list_features(_split(text)))


def _split(text: str) -> list[str]:
    text = text[: _MOST_TOKENS * _LONGEST_TOKEN].casefold().replace("’", "'")
    return [token[:_LONGEST_TOKEN] for token in _TOKEN.findall(text)]


def _list_features(tokens: list[str]) -> Iterator[str]:
    for token in tokens:
        if is_unspaced(token[0]):
            yield from _cut(token, _UNSPACED_PARTS)
        else:
            yield f"={token}"
            yield from _cut(f"<{token}>", _PARTS)
    yield from (f"{a} {b}" for a, b in itertools.pairwise(tokens) if not is_unspaced(a[0]))
    yield from (f"^{token}" for token in tokens[:1])


def _cut(token: str, sizes: tuple[int, ...]) -> Iterator[str]:
    return (token[at : at + size] for size in sizes for at in range(len(token) - size + 1))


def _score(features: set[str]) -> float:
    return sum(_WEIGHTS.get(name, 0.0) for name in features) / math.sqrt(len(features))


def _read_weights() -> dict[str, float]:
    """Return the weights by feature."""
    text = resources.files("palaver_skills").joinpath("small_talk.txt").read_text(encoding="utf-8")
    rows = (line.rpartition("\t") for line in text.splitlines())
    return {name: float(weight) for name, _, weight in rows}


# Read at import: later it would block the event loop.
_WEIGHTS = _read_weights()
