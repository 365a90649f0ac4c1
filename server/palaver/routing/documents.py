"""Document matcher: tells whether the knowledge base answers a question.

A search always finds something that is a bit like the question. What counts is how near a sentence
of the passages comes to it: by vectors, or without an embedder by the share of its words.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from palaver.embedding import Embeddings
from palaver.knowledge import KnowledgeBase, Passage
from palaver.search_terms import split_terms
from palaver.text_pool import run_on_text

PASSAGES = 3
"""Passages of a search that are compared with the question."""
SENTENCES, SENTENCE_CHARACTERS = 12, 300
"""Sentences of a passage that are compared, and their length. Their vectors are cached."""
SIMILARITY_MIDPOINT, SIMILARITY_SLOPE = 0.19, 30.0
"""The similarity of vectors at which a match is as likely as none, and its steepness: questions
that a document answers are above it, in any language, and other questions below."""
SHARE_MIDPOINT, SHARE_SLOPE = 0.3, 12.0
"""The same for the share of a question's words that a passage has."""
LEAST_LETTERS = 4
"""Letters of a word that counts, where words are separated."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n\s*\n")


class Match(NamedTuple):
    """The nearest passage, and the probability that it answers the question."""

    probability: float
    document: str = ""
    section: str = ""


NO_MATCH = Match(0.001)


class DocumentMatcher:
    """Compares questions with what the knowledge base finds."""

    def __init__(self, knowledge: KnowledgeBase, embeddings: Embeddings | None) -> None:
        self._knowledge = knowledge
        self._embeddings = embeddings

    async def match(
        self,
        tenant: str,
        question: str,
        collections: frozenset[str] | None = None,
        *,
        embedded: bool,
    ) -> Match:
        """Return the best match in these collections, by vectors if the question is ``embedded``.
        Raises what the knowledge base and the embedder raise."""
        passages = await self._knowledge.search(tenant, question, PASSAGES, collections)
        if not passages:
            return NO_MATCH
        if self._embeddings is None or not embedded:
            return await run_on_text(_match_words, question, passages)
        return await self._match_vectors(self._embeddings, question, passages)

    async def _match_vectors(
        self, embeddings: Embeddings, question: str, passages: Sequence[Passage]
    ) -> Match:
        pairs = [(passage, text) for passage in passages for text in _sentences(passage)]
        own, *others = await embeddings([question, *(text for _, text in pairs)])
        similarities = np.array(others) @ np.array(own)
        best = int(similarities.argmax())
        chance = _sigmoid(SIMILARITY_SLOPE * (float(similarities[best]) - SIMILARITY_MIDPOINT))
        return _describe(pairs[best][0], chance)


def _sentences(passage: Passage) -> Iterator[str]:
    """Yield the passage's sentences under their heading."""
    heading = passage.section.rpartition(" > ")[2] or passage.title
    found = (" ".join(part.split()) for part in _SENTENCE_END.split(passage.text))
    kept = [part[:SENTENCE_CHARACTERS] for part in found if part][:SENTENCES]
    yield from (f"{heading}: {part}" for part in kept or [""])


def _match_words(question: str, passages: Sequence[Passage]) -> Match:
    wanted = set(_words(question))
    if not wanted:
        return NO_MATCH

    def share(passage: Passage) -> float:
        return len(wanted & set(_words(f"{passage.section} {passage.text}"))) / len(wanted)

    best = max(passages, key=share)
    return _describe(best, _sigmoid(SHARE_SLOPE * (share(best) - SHARE_MIDPOINT)))


def _words(text: str) -> Iterator[str]:
    return (term for term in split_terms(text) if len(term) >= LEAST_LETTERS or not term.isascii())


def _describe(passage: Passage, chance: float) -> Match:
    return Match(min(max(chance, 0.001), 0.999), passage.document, passage.section)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
