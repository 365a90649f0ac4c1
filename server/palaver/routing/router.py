"""Router: chooses the skill that answers and its arguments, with a reason.

Patterns take linear time, and the classifier reads an excerpt; all of it runs outside of the event
loop for a long message.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from palaver.config.settings import RoutingSettings
from palaver.engine import ChatMessage, Choice, Engine, EngineInfo, GenerationRequest, Sampling
from palaver.errors import EngineError, NotFound
from palaver.ledger import PendingQuestion
from palaver.messages import Message
from palaver.metrics import Metrics
from palaver.patterns import PatternMatch, compile_pattern
from palaver.routing.arguments import take_options
from palaver.routing.classifier import ExampleClassifier, RankedSkill
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
EXCERPT_PART = 1_000
"""Characters of the beginning and of the end of a long message that the choice by meaning reads."""
_COMMAND = re.compile(r"/([a-zA-Z0-9_-]{1,40})(?:[^\S\n]*+\n|\s++|$)")
"""A command with the white space after it, without the indentation of a following line."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen skill, with the reason. ``text`` is the message without a command; ``arguments``
    are JSON values, not validated yet; ``score`` is a probability. ``named``: the person or the
    program named the skill, so that the text is no request for it."""

    skill: str
    reason: str
    text: str
    named: bool = False
    arguments: dict[str, Any] = {}  # JSON values
    score: float | None = None


class Router:
    """Router of messages: by command, else by pattern, else by the skills' examples, else by the
    engine's choice, else to the default skill."""

    def __init__(
        self,
        skills: Mapping[str, type[Skill]],
        *,
        settings: RoutingSettings,
        engine: Engine | None,
        engine_info: EngineInfo,
        metrics: Metrics | None = None,
    ) -> None:
        self._skills = skills
        self._settings = settings
        self._metrics = metrics
        consults = settings.consult_engine and "choice" in engine_info.capabilities
        self._engine = engine if consults else None
        self._classifier = ExampleClassifier(skills)
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

    async def resumes(self, message: Message, question: PendingQuestion) -> bool:
        """Return True when the message is an answer to ``question``, not another request.

        A message that names a skill is another request, as is one that has the form of a request to
        another skill. Where the question has options and the message is none of them, so is one
        that is very much like another skill's examples.
        """
        return await run_on_text(self._resumes, message.text, message, question)

    def _resumes(self, text: str, message: Message, question: PendingQuestion) -> bool:
        if question.skill not in self._skills or self._names_another(message, question.skill):
            return False
        if find_option(text, question.options) is not None:
            return True
        if question.approval:  # what is no approval is a denial
            return True
        request = self._route_by_pattern(message)
        if request is None and question.options and len(self._skills) > 1:
            # Among few skills, a message that is like nothing may pass the threshold of routing.
            sure = (1 + self._settings.threshold) / 2
            request = self._route_by_examples(message, self.rank(text), threshold=sure)
        return request is None or request.skill == question.skill

    def _names_another(self, message: Message, skill: str) -> bool:
        """Return whether the message names a skill. A program names one with each message, so that
        the name of ``skill`` itself means nothing."""
        named = self._route_by_name(message)
        return named is not None and not (message.program and named.skill == skill)

    async def route(self, message: Message) -> Decision:
        """Choose a skill. Raises `NotFound` when the person names one that does not exist."""
        found, ranked = await run_on_text(self._decide, message.text, message)
        decision = (
            found or await self._ask_engine(message, ranked) or self._default(message, ranked)
        )
        if not message.arguments:
            return decision
        given = message.arguments
        if decision.named:
            given = decision.arguments | given
        return msgspec.structs.replace(decision, arguments=given)

    def _decide(self, text: str, message: Message) -> tuple[Decision | None, list[RankedSkill]]:
        """Return the decision, or None with the ranked skills when the engine is to choose."""
        if self._metrics is not None and len(text) > self._settings.max_characters:
            self._metrics.limit_reached("routing.max_characters")
        sure = self._route_by_form(message)
        if sure is not None:
            return sure, []
        ranked = self.rank(text)
        threshold = self._settings.threshold
        return self._route_by_examples(message, ranked, threshold=threshold), ranked

    def _route_by_form(self, message: Message) -> Decision | None:
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

    def rank(self, text: str) -> list[RankedSkill]:
        """Return all skills, the one with the most similar examples first."""
        return self._classifier.rank(take_excerpt(text))

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

    def _default(self, message: Message, ranked: list[RankedSkill]) -> Decision:
        return Decision(
            skill=self._settings.default,
            reason="No skill clearly fits, so the default answers.",
            text=message.text,
            score=_find_probability(ranked, self._settings.default),
        )

    def _route_by_examples(
        self, message: Message, ranked: list[RankedSkill], *, threshold: float
    ) -> Decision | None:
        best, second = ranked[0], ranked[1]
        lead = best.probability - second.probability
        if best.probability < threshold or lead < self._settings.margin:
            return None
        return Decision(
            skill=best.skill,
            reason=EXAMPLES_REASON,
            text=message.text,
            score=best.probability,
        )

    async def _ask_engine(self, message: Message, ranked: list[RankedSkill]) -> Decision | None:
        if self._engine is None:
            return None
        request = GenerationRequest(
            id=f"route-{message.conversation}-{message.id}",
            messages=(
                ChatMessage("system", build_choice_prompt(self._skills)),
                ChatMessage("user", take_excerpt(message.text)),
            ),
            tenant=message.conversation.tenant,
            person=message.person,
            channel=message.conversation.channel,
            sampling=Sampling(structure=Choice(tuple(self._skills)), max_tokens=32),
        )
        try:
            generation = await self._engine.generate(request, _ignore)
        except EngineError:
            return None  # the default skill answers, and reports an engine that is still down
        return Decision(
            skill=generation.text,
            reason="The examples left it open; the model chose.",
            text=message.text,
            score=_find_probability(ranked, generation.text),
        )


def build_choice_prompt(skills: Mapping[str, type[Skill]]) -> str:
    """Return the system text that asks the engine for a skill's name."""
    lines = [f"{name}: {skill.description()}" for name, skill in skills.items()]
    head = "Name the skill that fits the message best. Reply with its name only."
    return "\n".join([head, *lines])


def take_excerpt(text: str) -> str:
    """Return the beginning and the end of a long text, else all of it."""
    if len(text) <= 2 * EXCERPT_PART:
        return text
    return f"{text[:EXCERPT_PART]}\n{text[-EXCERPT_PART:]}"


def _read_groups(match: PatternMatch) -> dict[str, str]:
    return {name: value.strip() for name, value in match.groupdict().items() if value}


def _find_probability(ranked: list[RankedSkill], skill: str) -> float | None:
    return next((r.probability for r in ranked if r.skill == skill), None)


def _ignore(text: str) -> None:
    """Drop a piece of text: only the whole name counts."""
