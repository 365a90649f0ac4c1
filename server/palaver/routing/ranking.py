"""Ranking of skills: weighs examples, documents and conversation into one probability for each."""

import asyncio
import dataclasses
import functools
import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from palaver.embedding import Embeddings
from palaver.knowledge import KnowledgeBase
from palaver.routing.classifier import (
    FOLLOW_UP,
    MANY_EXAMPLES,
    NONE,
    ExampleClassifier,
    example_texts,
)
from palaver.routing.documents import DocumentMatcher, Match
from palaver.routing.evidence import EVIDENCE_TIMEOUT, EvidenceSource
from palaver.skills import Skill
from palaver.text_pool import run_on_text

EXCERPT_PART = 1_000
"""Characters of the beginning and of the end of a long message that are compared."""
EXAMPLES_WEIGHT = 0.4
"""Weight of what the examples say about a question, relative to what the documents say: questions
of general knowledge have the same form as those about documents."""
LEAST_MASS = 0.1
"""Probability of a question from which on the knowledge base is searched."""
LEAST_CONTENT = 20
"""Characters after an instruction, at least."""
_INSTRUCTION = re.compile(r"\s*([^\n:：?？]{3,120}[:：?？\n])\s*(\S(?s:.*))")


class RankedSkill(NamedTuple):
    """A skill, and the probability that the message is a request to it."""

    skill: str
    probability: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """All skills, the likeliest first, and the evidence: what the examples say (with `FOLLOW_UP`
    and `NONE`), by vectors too if ``embedded``, and the nearest document, None if that was not
    asked for. What the probabilities lack to 1 is that of no skill."""

    skills: list[RankedSkill]
    examples: Mapping[str, float]
    embedded: bool
    match: Match | None = None
    previous: str | None = None

    @property
    def best(self) -> RankedSkill:
        return self.skills[0]

    @property
    def lead(self) -> float:
        """Return the lead of the best skill over the second one, in probability."""
        return self.best.probability - (self.skills[1].probability if self.skills[1:] else 0.0)

    @property
    def continues(self) -> bool:
        """Return whether the best skill is the best because the message follows its reply."""
        own = self.examples[self.best.skill]
        return self.best.skill == self.previous and self.examples[FOLLOW_UP] > own


class Ranker:
    """Ranks the skills for a message.

    The classifiers are fitted in the background, when the first message comes or after `start`.
    """

    def __init__(
        self,
        skills: Mapping[str, type[Skill]],
        *,
        default: str,
        embeddings: Embeddings | None = None,
        knowledge: KnowledgeBase | None = None,
        collections: Mapping[str, frozenset[str] | None] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
        timeout: float = EVIDENCE_TIMEOUT,
    ) -> None:
        """``collections``: those that a skill answers from, None for all."""
        self._skills = skills
        self._default = default
        self._embeddings = embeddings
        self._documents = DocumentMatcher(knowledge, embeddings) if knowledge else None
        self._collections = collections
        self._vectors = EvidenceSource("vectors", timeout=timeout, clock=clock)
        self._searches = EvidenceSource("the knowledge base", timeout=timeout, clock=clock)
        self._fits: dict[Embeddings | None, asyncio.Task[ExampleClassifier]] = {}
        """The classifiers that are or were fitted: with vectors, and with words alone."""

    def start(self) -> None:
        """Fit the classifier before the first message, if that takes more than a moment."""
        if len(example_texts(self._skills)) > MANY_EXAMPLES:
            self._begin_fit(self._embeddings)

    async def close(self) -> None:
        for fit in self._fits.values():
            fit.cancel()
        await asyncio.gather(*self._fits.values(), return_exceptions=True)

    async def rank(
        self, text: str, *, tenant: str | None = None, previous: str | None = None
    ) -> Ranking:
        """Weigh all evidence about a message. ``tenant``: whose documents count; None: none do.
        ``previous``: the skill of the last reply."""
        previous = previous if previous in self._skills else None
        excerpt = take_excerpt(text)
        examples, embedded = await self._compare(excerpt, follows=previous is not None)
        if instruction := find_instruction(excerpt):
            of_instruction, _ = await self._compare(instruction, follows=previous is not None)
            examples = min(examples, of_instruction, key=lambda chances: chances[NONE])
        chances = {skill: examples[skill] for skill in self._skills}
        reader = max(
            (name for name, skill in self._skills.items() if skill.answers_from_documents),
            key=chances.__getitem__,
            default=None,
        )
        match = None
        if tenant is not None and reader is not None and reader != self._default:
            match = await self._weigh_documents(
                tenant, excerpt, chances, examples[NONE], reader, embedded=embedded
            )
        if previous is not None:
            chances[previous] += examples[FOLLOW_UP]
        ranked = sorted(map(RankedSkill._make, chances.items()), key=lambda r: -r.probability)
        return Ranking(
            skills=ranked,
            examples=examples,
            embedded=embedded,
            match=match,
            previous=previous,
        )

    async def _weigh_documents(
        self,
        tenant: str,
        text: str,
        chances: dict[str, float],
        none: float,
        reader: str,
        *,
        embedded: bool,
    ) -> Match | None:
        """Divide the probability of a question, to the documents or to the default skill."""
        others = chances.get(self._default, 0.0) + none
        mass = chances[reader] + others
        if self._documents is None or self._default not in chances or mass < LEAST_MASS:
            return None
        documents, collections = self._documents, self._collections.get(reader)
        match = await self._searches.ask(
            lambda: documents.match(tenant, text, collections, embedded=embedded)
        )
        if match is not None:
            by_examples = (chances[reader] + 1e-6) / (others + 1e-6)
            by_documents = match.probability / (1 - match.probability)
            odds = by_examples**EXAMPLES_WEIGHT * by_documents
            chances[reader] = mass * odds / (1 + odds)
            chances[self._default] = mass / (1 + odds)
        return match

    async def _compare(self, text: str, *, follows: bool) -> tuple[dict[str, float], bool]:
        if self._embeddings is not None:
            compare = functools.partial(self._compare_vectors, self._embeddings, text, follows)
            chances = await self._vectors.ask(compare)
            if chances is not None:
                return chances, True
        classifier = await self._find_classifier(None)
        return await run_on_text(classifier.weigh, text, None, follows=follows), False

    async def _compare_vectors(
        self, embeddings: Embeddings, text: str, follows: bool
    ) -> dict[str, float]:
        [vector] = await embeddings([text])
        classifier = await self._find_classifier(embeddings)
        return await run_on_text(classifier.weigh, text, vector, follows=follows)

    async def _find_classifier(self, embeddings: Embeddings | None) -> ExampleClassifier:
        """Return the classifier, fitted once. The fit goes on when no message waits for it; one
        that has failed is begun again."""
        fit = self._fits.get(embeddings)
        if fit is None or (fit.done() and (fit.cancelled() or fit.exception() is not None)):
            fit = self._begin_fit(embeddings)
        return await asyncio.shield(fit)

    def _begin_fit(self, embeddings: Embeddings | None) -> asyncio.Task[ExampleClassifier]:
        fit = asyncio.create_task(self._fit(embeddings), name="palaver-routing-fit")
        # A failure is reported by the message that asks for the classifier, if there is one.
        fit.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._fits[embeddings] = fit
        return fit

    async def _fit(self, embeddings: Embeddings | None) -> ExampleClassifier:
        vectors = await embeddings(example_texts(self._skills)) if embeddings else None
        return await asyncio.to_thread(ExampleClassifier, self._skills, vectors)


def find_instruction(text: str) -> str:
    """Return the beginning of a message that says what to do with the rest, which may be about
    anything; empty if there is none."""
    found = _INSTRUCTION.match(text)
    return found[1] if found and len(found[2]) >= LEAST_CONTENT else ""


def take_excerpt(text: str) -> str:
    """Return the beginning and the end of a long text, else all of it."""
    if len(text) <= 2 * EXCERPT_PART:
        return text
    return f"{text[:EXCERPT_PART]}\n{text[-EXCERPT_PART:]}"
