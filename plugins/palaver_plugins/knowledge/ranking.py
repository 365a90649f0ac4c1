"""Ranking of passages: by the words of the question that they have, and by two rankings together.

Every store finds candidates in its own way; these functions order them, so that all answer alike.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from palaver_plugins.knowledge.terms import MAX_QUERY_CHARACTERS, written_words

TITLE_WEIGHT, SECTION_WEIGHT, BODY_WEIGHT = 4.0, 1.5, 1.0
"""Weight of a word by its position, measured by ``benchmarks/retrieval.py``."""
RERANKED_PASSAGES = 50
"""Passages that are ranked again by their coverage of the question."""
EXACT_WEIGHT = 1.0
"""Part of its score that a passage gets on top when it has all words as they are typed."""
WORDS_WEIGHT = 0.65
"""Weight of the words in a fused score; the rest is that of the vectors."""
FULL_COVERAGE = 0.25
"""Share of the question's words in the best passage from which on words have their whole weight: a
question in another language than the documents shares names with them, or nothing. Both numbers
are those that find most in SQuAD and SciTLDR."""
RELATED_COVERAGE = 0.3
"""Share of a question's words from which on a passage is related without any similarity."""


class Ranked(NamedTuple):
    """Key of a passage and its score; higher is better. ``coverage``: the share of the question's
    words that it has, weighted by rarity."""

    key: int
    score: float
    coverage: float = 0.0


class Missing(NamedTuple):
    """A passage without a vector, and the text to embed."""

    key: int
    text: str


def text_to_embed(title: str, section: str, text: str) -> str:
    """Return what is embedded of a passage, and compared with a question word by word."""
    return f"{title}\n{section}\n{text}"


def rank_by_coverage(
    question: str,
    scores: Mapping[int, float],
    matches: Sequence[Collection[int]],
    texts: Mapping[int, str],
) -> list[Ranked]:
    """Return candidates ranked by their BM25 ``scores`` times coverage, those first that have the
    words as they are typed: ``Masse``, not ``Maße``.

    BM25 alone prefers a passage that repeats one rare word. Coverage is the share of the question's
    words, weighted by rarity, that a passage contains. ``matches``: for each word of the question,
    the candidates with it.
    """
    coverage = _measure_coverage(scores, matches)
    typed = written_words(question[:MAX_QUERY_CHARACTERS])
    exact = {
        key: len(typed & written_words(text)) / max(1, len(typed)) for key, text in texts.items()
    }
    found = [
        Ranked(key, score * coverage[key] * (1 + EXACT_WEIGHT * exact.get(key, 0)), coverage[key])
        for key, score in scores.items()
    ]
    return sort_ranking(found)


def _measure_coverage(
    keys: Collection[int], matches: Sequence[Collection[int]]
) -> dict[int, float]:
    sums = dict.fromkeys(keys, 0.0)
    total = 0.0
    for matching in matches:
        rarity = 0.5 + math.log(1 + (len(keys) - len(matching) + 0.5) / (len(matching) + 0.5))
        total += rarity
        for key in matching:
            sums[key] += rarity
    return {key: share / total for key, share in sums.items()}


def sort_ranking(found: Sequence[Ranked]) -> list[Ranked]:
    """Return the passages, the best first; equal ones always in the same order."""
    return sorted(found, key=lambda ranked: (-ranked.score, ranked.key))


def rank_vectors(
    keys: Sequence[int], vectors: Sequence[Sequence[float]], query: Sequence[float]
) -> list[Ranked]:
    """Return the passages, those nearest to the query first."""
    scores = np.array(vectors, dtype=np.float32) @ np.asarray(query, dtype=np.float32)
    return sort_ranking(list(map(Ranked, keys, scores.tolist())))


def is_related(by_words: Sequence[Ranked], by_vector: Sequence[Ranked], floor: float) -> bool:
    """Return whether a question has to do with the passages: the nearest one has a similarity of
    ``floor``, or the first one enough of the question's words."""
    covered = by_words[0].coverage if by_words else 0.0
    return by_vector[0].score >= floor or covered >= RELATED_COVERAGE


def fuse_rankings(by_words: Sequence[Ranked], by_vector: Sequence[Ranked]) -> list[Ranked]:
    """Merge two rankings by the sum of their weighted scores, each scaled from 0 (its last) to 1
    (its first). Words weigh less where the first passage has few words of the question."""
    covered = min(1.0, by_words[0].coverage / FULL_COVERAGE) if by_words else 0.0
    scores: defaultdict[int, float] = defaultdict(float)
    for weight, ranking in ((WORDS_WEIGHT * covered, by_words), (1 - WORDS_WEIGHT, by_vector)):
        if not ranking:
            continue
        best, worst = ranking[0].score, ranking[-1].score
        for key, score, _ in ranking:
            scores[key] += weight * ((score - worst) / (best - worst) if best > worst else 1.0)
    return sort_ranking([Ranked(key, score) for key, score in scores.items()])
