"""Courtesies: fixed answers to the simplest small talk, in five languages.

A message gets the answer to the wording that is most like it, by words and parts of words.
"""

import math
import tomllib
from collections import Counter
from importlib import resources
from typing import NamedTuple

from palaver_skills.small_talk import read_features

LEAST_SIMILARITY = 0.65
"""Cosine of the features of a message and of the wording that it is like."""


class _Wording(NamedTuple):
    features: set[str]
    answer: str


def find_courtesy(text: str) -> str | None:
    """Return the answer to small talk that is like one of the wordings, or None."""
    features = read_features(text)
    best = max(_WORDINGS, key=lambda wording: _compare(features, wording.features))
    return best.answer if _compare(features, best.features) >= LEAST_SIMILARITY else None


def _compare(first: set[str], second: set[str]) -> float:
    """Return the cosine of two sets of features, of which rare ones weigh more."""
    return _weigh(first & second) / (math.sqrt(_weigh(first) * _weigh(second)) or 1)


def _weigh(features: set[str]) -> float:
    total = len(_WORDINGS)
    return sum(math.log(1 + total / (1 + _COUNTS[name])) ** 2 for name in features)


def _read_courtesies() -> list[tuple[tuple[str, ...], str]]:
    """Return the courtesies, as wordings and their answer."""
    text = resources.files("palaver_skills").joinpath("courtesies.toml").read_text("utf-8")
    return [(tuple(each["asked"]), each["answer"]) for each in tomllib.loads(text)["talk"]]


# Read at import: later it would block the event loop.
COURTESIES = _read_courtesies()
"""Wordings of a request, and their answer."""
_WORDINGS = [
    _Wording(read_features(text), answer) for asked, answer in COURTESIES for text in asked
]
_COUNTS = Counter(name for wording in _WORDINGS for name in wording.features)
