"""Exact match and F1 of answers as SQuAD defines them (Rajpurkar et al., 2016 and 2018).

Both compare normalized answers: lower case, without punctuation and articles, white space as one
space. An empty answer says that there is none, and agrees only with another empty one.
"""

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, expected: str) -> float:
    return float(normalize_answer(answer) == normalize_answer(expected))


def token_f1(answer: str, expected: str) -> float:
    """Return the harmonic mean of precision and recall of the expected answer's tokens."""
    given, wanted = normalize_answer(answer).split(), normalize_answer(expected).split()
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted))
