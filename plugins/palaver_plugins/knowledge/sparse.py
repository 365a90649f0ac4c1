"""Words as sparse vectors: each word is a dimension, and BM25 their product, times the rarity of
words that the store counts. The words are those of the SQLite store, with the same stems."""

import contextlib
import hashlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from palaver import is_unspaced
from palaver_plugins.knowledge.passages import PassageText
from palaver_plugins.knowledge.ranking import BODY_WEIGHT, SECTION_WEIGHT, TITLE_WEIGHT
from palaver_plugins.knowledge.terms import TOKENIZER, finish_word, index_terms, query_terms

SATURATION, LENGTH_WEIGHT = 1.2, 0.75
"""The parameters k1 and b of BM25."""
AVERAGE_WORDS = 100.0
"""Words of a passage with its headings, about. It only scales the penalty of long ones."""
_WEIGHTS = {"title": TITLE_WEIGHT, "section": SECTION_WEIGHT, "body": BODY_WEIGHT}


class SparseVector(NamedTuple):
    """Numbers of words in ascending order, and their weights."""

    indices: list[int]
    values: list[float]


def weigh_passages(title: str, passages: Sequence[PassageText]) -> list[SparseVector]:
    """Return the words of a document's passages, weighted by their frequency and position."""
    heading = index_terms(title)
    following = [*(text for _, text in passages[1:]), ""]
    texts = [
        (heading, index_terms(section), index_terms(finish_word(text, next_text)))
        for (section, text), next_text in zip(passages, following, strict=True)
    ]
    return list(map(_weigh_words, _count_stems(texts)))


def _weigh_words(counts: Counter[tuple[str, str]]) -> SparseVector:
    length = sum(counts.values())
    frequencies: defaultdict[int, float] = defaultdict(float)
    for (word, column), count in counts.items():
        for dimension in _find_dimensions(word):
            frequencies[dimension] += _WEIGHTS[column] * count
    penalty = SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * length / AVERAGE_WORDS)
    weights = {
        dimension: frequency * (SATURATION + 1) / (frequency + penalty)
        for dimension, frequency in frequencies.items()
    }
    return _make_vector(weights)


def weigh_question(question: str) -> SparseVector:
    """Return the words of a question, each with the weight 1."""
    terms = query_terms(question)
    beginnings = [term for term in terms if term.endswith("*")]
    whole = " ".join(term.strip('"') for term in terms if not term.endswith("*"))
    [counts] = _count_stems([("", "", whole)])
    words = [*(word for word, _ in counts), *(f"{term[1:-2]}*" for term in beginnings)]
    return _make_vector({_number_of(word): 1.0 for word in words})


def _find_dimensions(word: str) -> Iterator[int]:
    """Yield the numbers of a word and, in a script without spaces, of its beginning: a question may
    have a single character."""
    yield _number_of(word)
    if len(word) <= 2 and is_unspaced(word[0]):
        yield _number_of(f"{word[0]}*")


def _number_of(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())


def _make_vector(weights: dict[int, float]) -> SparseVector:
    indices = sorted(weights)
    return SparseVector(indices, [weights[index] for index in indices])


def _count_stems(texts: Sequence[tuple[str, str, str]]) -> list[Counter[tuple[str, str]]]:
    """Return how often each stem is in title, section and body of each text."""
    found: list[Counter[tuple[str, str]]] = [Counter() for _ in texts]
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute(
            f'CREATE VIRTUAL TABLE texts USING fts5(title, section, body, tokenize = "{TOKENIZER}")'
        )
        db.executemany("INSERT INTO texts VALUES (?, ?, ?)", texts)
        db.execute("CREATE VIRTUAL TABLE stems USING fts5vocab(texts, instance)")
        rows = db.execute("SELECT doc, term, col, count(*) FROM stems GROUP BY doc, term, col")
        for row, stem, column, count in rows:
            found[row - 1][stem, column] = count
    return found
