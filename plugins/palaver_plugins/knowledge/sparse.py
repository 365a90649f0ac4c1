"""Words as numbers, for stores with an index of their own: the words of the SQLite store, with the
same stems. As a sparse vector, each word is a dimension; BM25 is the product of two, times the
rarity of words that the store counts."""

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


def count_words(title: str, passages: Sequence[PassageText]) -> list[Counter[tuple[int, str]]]:
    """Return how often each word is in the columns title, section and body of a document's
    passages, by the number of the word."""
    heading = index_terms(title)
    following = [*(text for _, text in passages[1:]), ""]
    texts = [
        (heading, index_terms(section), index_terms(finish_word(text, next_text)))
        for (section, text), next_text in zip(passages, following, strict=True)
    ]
    return list(map(_number_stems, _count_stems(texts)))


def number_question(question: str) -> list[int]:
    """Return the numbers of a question's words."""
    terms = query_terms(question)
    beginnings = [term for term in terms if term.endswith("*")]
    whole = " ".join(term.strip('"') for term in terms if not term.endswith("*"))
    [stems] = _count_stems([("", "", whole)])
    words = [*(stem for stem, _ in stems), *(f"{term[1:-2]}*" for term in beginnings)]
    return sorted(set(map(_number_of, words)))


def weigh_words(counts: Counter[tuple[int, str]]) -> SparseVector:
    """Return the words of a passage, weighted by their frequency and position."""
    frequencies: defaultdict[int, float] = defaultdict(float)
    for (number, column), count in counts.items():
        frequencies[number] += _WEIGHTS[column] * count
    length = sum(counts.values())
    penalty = SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * length / AVERAGE_WORDS)
    indices = sorted(frequencies)
    weights = (frequencies[number] for number in indices)
    return SparseVector(
        indices, [weight * (SATURATION + 1) / (weight + penalty) for weight in weights]
    )


def _number_stems(stems: Counter[tuple[str, str]]) -> Counter[tuple[int, str]]:
    numbered: Counter[tuple[int, str]] = Counter()
    for (stem, column), count in stems.items():
        for number in _find_numbers(stem):
            numbered[number, column] += count
    return numbered


def _find_numbers(word: str) -> Iterator[int]:
    """Yield the numbers of a word and, in a script without spaces, of its beginning: a question may
    have a single character."""
    yield _number_of(word)
    if len(word) <= 2 and is_unspaced(word[0]):
        yield _number_of(f"{word[0]}*")


def _number_of(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())


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
