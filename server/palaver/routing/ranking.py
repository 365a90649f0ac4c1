"""Ranking of skills: weighs examples, documents and conversation into one probability for each."""

import asyncio
import dataclasses
import logging
import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from palaver.embedding import Embeddings
from palaver.errors import EngineError, describe_error
from palaver.knowledge import KnowledgeBase
from palaver.routing.classifier import FOLLOW_UP, NONE, ExampleClassifier, Vector, example_texts
from palaver.routing.documents import DocumentMatcher, Match
from palaver.skills import Skill
from palaver.text_pool import run_on_text

log = logging.getLogger(__name__)

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
RETRY_SECONDS = 60.0
"""Time without vectors after their computation has failed."""
EVIDENCE_TIMEOUT = 15.0
"""Seconds that a message waits for vectors, and as many for the knowledge base: then it is routed
without them."""


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
    """Ranks the skills for a message. The classifiers are fitted when the first one comes."""

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
        self._clock = clock
        self._timeout = timeout
        self._retry_at = 0.0
        self._by_words: ExampleClassifier | None = None
        self._by_meaning: ExampleClassifier | None = None
        self._fitting = asyncio.Lock()

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
            match = await self._weigh_documents(tenant, excerpt, chances, examples[NONE], reader)
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
        self, tenant: str, text: str, chances: dict[str, float], none: float, reader: str
    ) -> Match | None:
        """Divide the probability of a question, to the documents or to the default skill."""
        others = chances.get(self._default, 0.0) + none
        mass = chances[reader] + others
        if self._documents is None or self._default not in chances or mass < LEAST_MASS:
            return None
        match = None
        try:
            async with asyncio.timeout(self._timeout):
                match = await self._documents.match(tenant, text, self._collections.get(reader))
        except TimeoutError:
            log.warning(
                "routing without the knowledge base: it takes longer than %g s", self._timeout
            )
        if match is not None:
            by_examples = (chances[reader] + 1e-6) / (others + 1e-6)
            by_documents = match.probability / (1 - match.probability)
            odds = by_examples**EXAMPLES_WEIGHT * by_documents
            chances[reader] = mass * odds / (1 + odds)
            chances[self._default] = mass / (1 + odds)
        return match

    async def _compare(self, text: str, *, follows: bool) -> tuple[dict[str, float], bool]:
        classifier, vector = await self._classifier_for(text)
        chances = await run_on_text(classifier.weigh, text, vector, follows=follows)
        return chances, vector is not None

    async def _classifier_for(self, text: str) -> tuple[ExampleClassifier, Vector | None]:
        if self._embeddings is not None and self._clock() >= self._retry_at:
            try:
                async with asyncio.timeout(self._timeout):
                    [vector] = await self._embeddings([text])
                    return await self._fit_by_meaning(self._embeddings), vector
            except (EngineError, TimeoutError) as error:
                self._retry_at = self._clock() + RETRY_SECONDS
                log.warning("routing by words alone: %s", describe_error(error))
        async with self._fitting:
            if self._by_words is None:
                self._by_words = await asyncio.to_thread(ExampleClassifier, self._skills)
        return self._by_words, None

    async def _fit_by_meaning(self, embeddings: Embeddings) -> ExampleClassifier:
        async with self._fitting:
            if self._by_meaning is None:
                vectors = await embeddings(example_texts(self._skills))
                self._by_meaning = await asyncio.to_thread(ExampleClassifier, self._skills, vectors)
        return self._by_meaning


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
