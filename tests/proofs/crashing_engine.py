"""A scripted engine that crashes at random characters."""

import dataclasses
import random

from tests.proofs.scripted_server import chosen_kind, reply_to, split_randomly

from palaver.engine import Choice, Generation, GenerationRequest, OnText
from palaver.errors import EngineUnavailable
from palaver.testing import ScriptedEngine


def script(request: GenerationRequest) -> str:
    prompt = request.messages[-1].content
    return (
        chosen_kind(prompt) if isinstance(request.sampling.structure, Choice) else reply_to(prompt)
    )


class CrashingEngine(ScriptedEngine):
    """A scripted engine that crashes, after each start, once all its generations together have
    delivered a random number of characters, possibly inside a word."""

    def __init__(self, chance: random.Random, characters_per_run: int) -> None:
        super().__init__(script, seconds_per_token=0.0005)
        self.crashes = 0
        self._chance = chance
        self._characters_per_run = characters_per_run
        self._left = characters_per_run

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        run = self.crashes

        def deliver(token: str) -> None:
            for piece in split_randomly(token, self._chance):
                if self.crashes > run:
                    raise EngineUnavailable("it crashed during another generation")
                delivered = piece[: max(0, self._left)]
                self._left -= len(piece)
                if delivered:
                    on_text(delivered)
                if self._left <= 0:
                    self._crash()

        return await super().generate(request, deliver)

    def _crash(self) -> None:
        self.crashes += 1
        self._left = self._chance.randint(1, 2 * self._characters_per_run)
        self.crash()
        raise EngineUnavailable("it crashed during this generation")


class NonContinuingEngine(CrashingEngine):
    """A crashing engine that starts a reply over instead of continuing it."""

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        return await super().generate(dataclasses.replace(request, partial=""), on_text)
