"""Support: the passage that says what an answer says, and that is about the question.

For models whose answers are copied from passages. All content words and numbers of the answer must
stand in one sentence of a passage, and enough of the question in it, in its heading or in the
sentence before; names of the question must be in the passage. Where another part of that sentence
with a number of its own is closer to the question, the answer has taken the wrong number; so it has
where the question is about the most and the sentence about the least.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from palaver import is_unspaced, split_terms

LEAST_COVERED = 0.5
"""Least share of the question's content words that the sentence is about."""
MOST_BEHIND = 0.26
"""How much of that share another sentence may have more."""
_LEAST_COPIED = 0.99
"""Least share of the answer's content words that the sentence has."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_CLAUSE = re.compile(r"[,;:，；：]\s|[，；：]|\s(?:and|but|und|aber|et|mais|y|pero)\s")
_NUMBER_WORDS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve fifteen twenty thirty "
    "forty fifty sixty seventy eighty ninety hundred thousand".split()
)
_LIGHT = frozenset(
    "a about after ahead all also an and any are as at be been before but by can could did do "
    "does every far for from get gets got had has have he her his how if in is it its least "
    "long many may me might more most much must my need needs no not of often on or our per "
    "shall she should so some than that the their them then there these they this those to "
    "until us was we were what when where which who whom whose why will with would yes you "
    "your".split()
)
"""English words that say too little; words of fewer than three letters count as such in all
languages with spaces."""
_NAME = re.compile(r"(?<=[\w,] )[A-Z][\w-]+")
_LOWER_BOUND = frozenset("least minimum minimal shortest fewest earliest".split())
_UPPER_BOUND = frozenset("most maximum maximal longest latest".split())
_YES_OR_NO = frozenset(("yes", "no"))
_SHORTEST_STEM, _LONGEST_ENDING = 4, 5
_SHORTEST_RUN = 2
"""Chinese or Japanese characters of the shortest term."""


class _Sentence(NamedTuple):
    """A sentence of a passage. ``context``: terms of it, its heading and the sentence before;
    ``known``: those of the whole passage and of the title."""

    passage: int
    text: str
    terms: frozenset[str]
    context: frozenset[str]
    known: frozenset[str]


def find_support(
    answer: str, question: str, passages: Sequence[str], titles: Sequence[str]
) -> int | None:
    """Return the number of the passage that supports an answer to a question, or None.

    The first line of a passage counts as its heading. ``titles`` are those of their documents.
    """
    said, asked = _content_terms(answer), _content_terms(question)
    is_decision = not said and not _YES_OR_NO.isdisjoint(split_terms(answer))
    if not asked or not (is_decision or said - asked):
        return None
    names = set(split_terms(" ".join(_NAME.findall(question))))
    sentences = list(_read_sentences(passages, titles))
    closest = max((_cover(asked, each.context) for each in sentences), default=0.0)
    least = 1.0 if is_decision else max(LEAST_COVERED, closest - MOST_BEHIND)
    fitting = [
        each
        for each in sentences
        if _cover(said, each.terms) >= _LEAST_COPIED
        and _cover(asked, each.context) >= least
        and _cover(names, each.known) == 1.0
        and not _has_rival(said, asked, each.text)
        and not _is_other_bound(frozenset(split_terms(question)), each.terms)
    ]
    best = max(fitting, key=lambda each: _cover(asked, each.context), default=None)
    return best.passage if best else None


def _read_sentences(passages: Sequence[str], titles: Sequence[str]) -> Iterator[_Sentence]:
    for number, (passage, title) in enumerate(zip(passages, titles, strict=False), 1):
        known = frozenset(split_terms(f"{title}\n{passage}"))
        heading = frozenset(split_terms(passage.partition("\n")[0]))
        before: frozenset[str] = frozenset()
        for text in filter(None, map(str.strip, _SENTENCE.split(passage))):
            terms = frozenset(split_terms(text))
            yield _Sentence(number, text, terms, terms | heading | before, known)
            before = terms


def _has_rival(said: set[str], asked: set[str], sentence: str) -> bool:
    """Return True when a clause with another number is closer to the question than the answer's."""
    numbers = set(filter(_is_number, said))
    clauses = [frozenset(split_terms(clause)) for clause in _CLAUSE.split(sentence)]
    if not numbers or len(clauses) < 2:
        return False
    own = max((_cover(asked, each) for each in clauses if numbers & each), default=1.0)
    return any(
        _cover(asked, each) > own
        for each in clauses
        if not numbers & each and any(map(_is_number, each))
    )


def _is_other_bound(question: frozenset[str], sentence: frozenset[str]) -> bool:
    """Return True when one is about the least, and the other about the most."""
    return any(
        wanted & question and other & sentence and not wanted & sentence
        for wanted, other in ((_LOWER_BOUND, _UPPER_BOUND), (_UPPER_BOUND, _LOWER_BOUND))
    )


def _is_number(term: str) -> bool:
    return term.isdigit() or term in _NUMBER_WORDS


def _content_terms(text: str) -> set[str]:
    return {
        term
        for term in split_terms(text)
        if term not in _LIGHT
        and (term.isdigit() or len(term) >= (_SHORTEST_RUN if is_unspaced(term[0]) else 3))
    }


def _cover(wanted: set[str], terms: frozenset[str]) -> float:
    """Return the share of the wanted terms that are among ``terms``, in any form of the word."""
    if not wanted:
        return 1.0
    return sum(any(_is_form(each, term) for term in terms) for each in wanted) / len(wanted)


def _is_form(first: str, second: str) -> bool:
    """Return True for the same word, but for its ending."""
    if first == second:
        return True
    if first.isdigit() or second.isdigit() or is_unspaced(first[0]):
        return False
    shorter, longer = sorted((len(first), len(second)))
    stem = max(_SHORTEST_STEM, shorter - 2)
    return (
        shorter >= _SHORTEST_STEM
        and longer - shorter <= _LONGEST_ENDING
        and first[:stem] == second[:stem]
    )
