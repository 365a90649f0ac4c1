"""Engine's choice: the model names the skill of a message, once it has shown that it can.

Small models name skills at random. So the model first chooses for some of the skills' own examples,
which its prompt does not show; it is consulted only if it chooses much better than chance.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import Mapping, Sequence

from palaver.engine import ChatMessage, Choice, Engine, GenerationRequest, Sampling
from palaver.errors import PalaverError, describe_error
from palaver.messages import Message, new_id
from palaver.routing.ranking import take_excerpt
from palaver.routing.trials import TrialStore
from palaver.skills import Skill

log = logging.getLogger(__name__)

TRIALS = 12
"""Examples for which the model chooses in the trial, taken from the skills in turn."""
LEAST_SHARE = 0.5
"""Share of right choices in the trial, at least."""
CHANCE = 0.01
"""Largest probability with which random choices may be as good as those of the trial."""


class EngineChoice:
    """The choice of a skill by the engine, after a trial that begins with the first message. Its
    result is kept in ``trials``, for the next server with the same ``model`` and skills."""

    def __init__(
        self,
        engine: Engine,
        skills: Mapping[str, type[Skill]],
        *,
        model: str = "",
        trials: TrialStore | None = None,
    ) -> None:
        self._engine = engine
        self._skills = skills
        self._model = model
        self._trials = trials
        self._trial: asyncio.Task[bool | None] | None = None

    async def close(self) -> None:
        if self._trial is not None:
            self._trial.cancel()
            await asyncio.gather(self._trial, return_exceptions=True)

    async def choose(self, message: Message) -> str | None:
        """Return a skill; None while the trial runs, if it was not passed, or without an engine."""
        if self._trial is None:
            self._trial = asyncio.create_task(self._try_out(), name="palaver-engine-choice")
        if not self._trial.done() or self._trial.cancelled():
            return None
        is_good = self._trial.result()
        if is_good is None:
            self._trial = None  # the next message tries again
        if not is_good:
            return None
        try:
            return await self._ask(
                f"route-{message.conversation}-{message.id}",
                take_excerpt(message.text),
                message.conversation.tenant,
                message.person,
                message.conversation.channel,
            )
        except PalaverError:
            return None  # the default skill answers, and reports an engine that is still down

    async def wait_for_trial(self) -> None:
        """Wait until the trial that runs has ended."""
        if self._trial is not None:
            await asyncio.wait([self._trial])

    async def _try_out(self) -> bool | None:
        """Return whether the model chooses much better than chance; None: the engine failed."""
        rounds = itertools.zip_longest(
            *([(name, text) for text in skill.examples] for name, skill in self._skills.items())
        )
        examples = [pair for pair in itertools.chain.from_iterable(rounds) if pair][:TRIALS]
        if self._trials is None:
            return await self._try(examples)
        questions = [build_choice_prompt(self._skills), examples]
        trial = self._trials.identify(self._model, questions)
        known = await self._trials.find(trial)
        if known is None and (known := await self._try(examples)) is not None:
            await self._trials.store(trial, passed=known)
        return known

    async def _try(self, examples: Sequence[tuple[str, str]]) -> bool | None:
        try:
            chosen = [await self._ask(f"route-trial-{new_id()}", text) for _, text in examples]
        except PalaverError as error:
            log.warning("the engine chooses no skills yet: %s", describe_error(error))
            return None
        right = sum(choice == name for choice, (name, _) in zip(chosen, examples, strict=True))
        is_good = is_better_than_chance(right, len(examples), len(self._skills))
        log.info(
            "the engine chose %d of %d skills right, so it is %s",
            *(right, len(examples), "consulted" if is_good else "not consulted"),
        )
        return is_good

    async def _ask(
        self, request: str, text: str, tenant: str = "", person: str = "", channel: str = ""
    ) -> str:
        generation = await self._engine.generate(
            GenerationRequest(
                id=request,
                messages=(
                    ChatMessage("system", build_choice_prompt(self._skills)),
                    ChatMessage("user", text),
                ),
                tenant=tenant,
                person=person,
                channel=channel,
                sampling=Sampling(structure=Choice(tuple(self._skills)), max_tokens=32),
            ),
            _ignore,
        )
        return generation.text


def is_better_than_chance(right: int, trials: int, choices: int) -> bool:
    """Return whether ``right`` of ``trials`` is good, and unlikely among ``choices`` by chance."""
    p = 1 / choices
    tail = sum(
        math.comb(trials, hits) * p**hits * (1 - p) ** (trials - hits)
        for hits in range(right, trials + 1)
    )
    return right >= LEAST_SHARE * trials and tail <= CHANCE


def build_choice_prompt(skills: Mapping[str, type[Skill]]) -> str:
    """Return the system text that asks the engine for a skill's name."""
    lines = [f"{name}: {skill.description()}" for name, skill in skills.items()]
    head = "Name the skill that fits the message best. Reply with its name only."
    return "\n".join([head, *lines])


def _ignore(text: str) -> None:
    """Drop a piece of text: only the whole name counts."""
