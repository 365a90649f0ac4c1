"""Router: chooses the skill that answers and its arguments, with a reason.

Patterns take linear time, and the classifier reads an excerpt; all of it runs outside of the event
loop for a long message.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from palaver.config.settings import RoutingSettings
from palaver.embedding import Embeddings
from palaver.engine import Engine, EngineInfo
from palaver.errors import NotFound
from palaver.knowledge import KnowledgeBase
from palaver.ledger import PendingQuestion
from palaver.messages import Message
from palaver.metrics import Metrics
from palaver.patterns import PatternMatch, compile_pattern
from palaver.routing.arguments import take_options
from palaver.routing.engine_choice import EngineChoice
from palaver.routing.ranking import Ranker, Ranking
from palaver.routing.trials import TrialStore
from palaver.skills import PROGRAM_SKILLS, Skill
from palaver.text_pool import run_on_text
from palaver.turns.answers import find_option
from palaver.turns.prompt_images import has_image

ANSWER_REASON = "It asked, and this is the answer."
LEFT_QUESTION = "The question was left: {}"
"""The reason for a message that is a request of its own although a question waits."""
ONLY_SKILL_REASON = "It is the only skill."
IMAGES_REASON = "The message has images."
EXAMPLES_REASON = "The message is like its examples."
FOLLOW_UP_REASON = "It continues what was said before."
DOCUMENTS_REASON = "The documents have a passage about it."
EVIDENCE_REASONS = frozenset((EXAMPLES_REASON, FOLLOW_UP_REASON, DOCUMENTS_REASON))
"""Reasons of a decision whose score was its reason too."""
_COMMAND = re.compile(r"/([a-zA-Z0-9_-]{1,40})(?:[^\S\n]*+\n|\s++|$)")
"""A command with the white space after it, without the indentation of a following line."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen skill, with the reason. ``text`` is the message without a command; ``arguments``
    are JSON values, not validated yet; ``score`` is a probability. ``named``: the person or the
    program named the skill, so that the text is no request for it. ``model`` writes for it."""

    skill: str
    reason: str
    text: str
    named: bool = False
    arguments: dict[str, Any] = {}  # JSON values
    score: float | None = None
    model: str = ""


class Router:
    """Router of messages: by command, else by pattern, else by what examples, documents and the
    conversation tell together, else by the engine's choice, else to the default skill."""

    def __init__(
        self,
        skills: Mapping[str, type[Skill]],
        *,
        settings: RoutingSettings,
        engine: Engine | None,
        engine_info: EngineInfo,
        embeddings: Embeddings | None = None,
        knowledge: KnowledgeBase | None = None,
        collections: Mapping[str, frozenset[str] | None] = MappingProxyType({}),
        metrics: Metrics | None = None,
        trials: TrialStore | None = None,
    ) -> None:
        self._skills = skills
        self._settings = settings
        self._metrics = metrics
        consults = settings.consult_engine and "choice" in engine_info.capabilities
        self._engine_choice = (
            EngineChoice(engine, skills, model=engine_info.model, trials=trials)
            if engine and consults
            else None
        )
        self._ranker = Ranker(
            skills,
            default=settings.default,
            embeddings=embeddings,
            knowledge=knowledge,
            collections=collections,
        )
        self._commands = {
            name.lower(): skill.name
            for skill in skills.values()
            for name in (skill.name, *skill.aliases)
        }
        self._patterns = [
            (skill.name, compile_pattern(pattern))
            for skill in skills.values()
            for pattern in skill.patterns
        ]

    def start(self) -> None:
        """Begin what would make the first message wait."""
        self._ranker.start()

    async def wait_for_trial(self) -> None:
        """Wait until it is known whether the engine can choose, if its trial has begun."""
        if self._engine_choice is not None:
            await self._engine_choice.wait_for_trial()

    async def close(self) -> None:
        await self._ranker.close()
        if self._engine_choice is not None:
            await self._engine_choice.close()

    async def resumes(self, message: Message, question: PendingQuestion) -> bool:
        """Return True when the message is an answer to ``question``, not another request.

        A message that names a skill is another request, as is one that has the form of a request to
        another skill. Where the question has options and the message is none of them, so is one
        that is very much like another skill's examples.
        """
        resumes = await run_on_text(self._resumes_by_form, message.text, message, question)
        if resumes is not None:
            return resumes
        if not question.options or len(self._skills) == 1:
            return True
        # Among few skills, a message that is like nothing may pass the threshold of routing.
        sure = (1 + self._settings.threshold) / 2
        request = self._route_by_evidence(message, await self.rank(message), threshold=sure)
        return request is None or request.skill == question.skill

    def _resumes_by_form(
        self, text: str, message: Message, question: PendingQuestion
    ) -> bool | None:
        """Return whether the message answers the question; None when its form does not tell."""
        if question.skill not in self._skills or self._names_another(message, question.skill):
            return False
        if find_option(text, question.options) is not None:
            return True
        if question.approval:  # what is no approval is a denial
            return True
        request = self._route_by_pattern(message)
        return None if request is None else request.skill == question.skill

    def _names_another(self, message: Message, skill: str) -> bool:
        """Return whether the message names a skill. A program names one with each message, so that
        the name of ``skill`` itself means nothing."""
        named = self._route_by_name(message)
        return named is not None and not (message.program and named.skill == skill)

    async def route(self, message: Message, previous: str | None = None) -> Decision:
        """Choose a skill; ``previous`` is that of the last reply. Raises `NotFound` when the person
        names one that does not exist."""
        if self._metrics is not None and len(message.text) > self._settings.max_characters:
            self._metrics.limit_reached("routing.max_characters")
        decision = await run_on_text(self._route_by_form, message.text, message)
        if decision is None:
            ranking = await self.rank(message, previous)
            decision = (
                self._route_by_evidence(message, ranking, threshold=self._settings.threshold)
                or await self._ask_engine(message, ranking)
                or self._default(message, ranking)
            )
        if not message.arguments:
            return decision
        given = message.arguments
        if decision.named:
            given = decision.arguments | given
        return msgspec.structs.replace(decision, arguments=given)

    def _route_by_form(self, text: str, message: Message) -> Decision | None:
        named = self._route_by_name(message)
        if named is not None:
            return named
        if len(self._skills) == 1:
            only = next(iter(self._skills))
            return self._fill_from_pattern(
                Decision(skill=only, reason=ONLY_SKILL_REASON, text=message.text)
            )
        return self._route_by_images(message) or self._route_by_pattern(message)

    def _route_by_images(self, message: Message) -> Decision | None:
        """Return the default skill for a message with images, or the first that sees them."""
        if not has_image(message.attachments):
            return None
        seeing = [name for name, skill in self._skills.items() if skill.sees_images]
        if not seeing:
            return None
        skill = self._settings.default if self._settings.default in seeing else seeing[0]
        return Decision(skill=skill, reason=IMAGES_REASON, text=message.text)

    async def rank(self, message: Message, previous: str | None = None) -> Ranking:
        """Return all skills, the likeliest first, with the evidence. A message with files may be
        about them, so that the knowledge base tells nothing."""
        tenant = None if message.attachments else message.conversation.tenant
        return await self._ranker.rank(message.text, tenant=tenant, previous=previous)

    def find_skill(self, name: str) -> str:
        """Return the name of the skill with this name or alias. Raises `NotFound`."""
        try:
            return self._commands[name.lower()]
        except KeyError:
            known = ", ".join(f"/{skill}" for skill in sorted(self._skills))
            raise NotFound(f"There is no skill {name!r}. There are: {known}.") from None

    def find_skill_of(self, message: Message) -> str:
        """Return the name of the skill that the message names, which for a program may be the
        engine itself, or a tool. Raises `NotFound`."""
        name = message.skill or ""
        is_for_programs = message.program is not msgspec.UNSET and name in PROGRAM_SKILLS
        return name if is_for_programs else self.find_skill(name)

    def _route_by_name(self, message: Message) -> Decision | None:
        if message.skill:
            decision = Decision(
                skill=self.find_skill_of(message),
                reason="The person named it.",
                text=message.text,
                named=True,
            )
            return decision if message.arguments else self._fill_from_pattern(decision)
        typed = _COMMAND.match(message.text)
        if typed is None or (message.program and typed[1].lower() not in self._commands):
            return None
        skill = self.find_skill(typed[1])
        options, text = take_options(message.text[typed.end() :], self._skills[skill].Arguments)
        decision = Decision(
            skill=skill,
            reason=f"The person typed /{typed[1]}.",
            text=text,
            arguments=options,
            named=True,
        )
        return decision if options else self._fill_from_pattern(decision)

    def _fill_from_pattern(self, decision: Decision) -> Decision:
        """Take arguments from the first of the skill's patterns that matches."""
        if len(decision.text) > self._settings.max_characters:
            return decision
        for name, pattern in self._patterns:
            fills = name == decision.skill and pattern.groupindex
            if fills and (match := pattern.search(decision.text)):
                return msgspec.structs.replace(decision, arguments=_read_groups(match))
        return decision

    def _route_by_pattern(self, message: Message) -> Decision | None:
        if len(message.text) > self._settings.max_characters:
            return None
        text = message.text.strip()
        for name, pattern in self._patterns:
            if match := pattern.fullmatch(text):
                return Decision(
                    skill=name,
                    reason="The message has the form of a request to it.",
                    text=message.text,
                    arguments=_read_groups(match),
                )
        return None

    def _default(self, message: Message, ranking: Ranking) -> Decision:
        return Decision(
            skill=self._settings.default,
            reason="No skill clearly fits, so the default answers.",
            text=message.text,
            score=_find_probability(ranking, self._settings.default),
        )

    def _route_by_evidence(
        self, message: Message, ranking: Ranking, *, threshold: float
    ) -> Decision | None:
        best = ranking.best
        if best.probability < threshold or ranking.lead < self._settings.margin:
            return None
        reason = EXAMPLES_REASON
        if ranking.continues:
            reason = FOLLOW_UP_REASON
        elif ranking.match is not None and self._skills[best.skill].answers_from_documents:
            reason = DOCUMENTS_REASON
        return Decision(skill=best.skill, reason=reason, text=message.text, score=best.probability)

    async def _ask_engine(self, message: Message, ranking: Ranking) -> Decision | None:
        chosen = await self._engine_choice.choose(message) if self._engine_choice else None
        if chosen is None:
            return None
        return Decision(
            skill=chosen,
            reason="The evidence left it open; the model chose.",
            text=message.text,
            score=_find_probability(ranking, chosen),
        )


def _read_groups(match: PatternMatch) -> dict[str, str]:
    return {name: value.strip() for name, value in match.groupdict().items() if value}


def _find_probability(ranking: Ranking, skill: str) -> float | None:
    return next((r.probability for r in ranking.skills if r.skill == skill), None)
