"""A scripted engine that dies at random characters."""

import dataclasses
import random

from tests.proofs.scripted_server import kind_of, pieces, reply_to

from palaver.engine import Choice, Generation, GenerationRequest, OnText
from palaver.errors import EngineUnavailable
from palaver.testing import ScriptedEngine


def script(request: GenerationRequest) -> str:
    prompt = request.messages[-1].content
    return kind_of(prompt) if isinstance(request.sampling.structure, Choice) else reply_to(prompt)


class FrailEngine(ScriptedEngine):
    """Dies after a random number of characters that it has said to all together, in the middle of
    a word or not, and lives as long again after each start."""

    def __init__(self, chance: random.Random, lifetime: int) -> None:
        super().__init__(script, seconds_per_token=0.0005)
        self.deaths = 0
        self._chance = chance
        self._lifetime = lifetime
        self._left = lifetime

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        life = self.deaths

        def hear(token: str) -> None:
            for piece in pieces(token, self._chance):
                if self.deaths > life:
                    raise EngineUnavailable("it died while others spoke")
                said = piece[: max(0, self._left)]
                self._left -= len(piece)
                if said:
                    on_text(said)
                if self._left <= 0:
                    self._perish()

        return await super().generate(request, hear)

    def _perish(self) -> None:
        self.deaths += 1
        self._left = self._chance.randint(1, 2 * self._lifetime)
        self.crash()
        raise EngineUnavailable("it died while it spoke")


class ForgetfulEngine(FrailEngine):
    """Begins a reply again instead of going on with it."""

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        return await super().generate(dataclasses.replace(request, partial=""), on_text)
