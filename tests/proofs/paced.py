"""An engine of a known speed: what it can do in a second follows from its figures."""

import asyncio
import random
from collections.abc import Sequence

from palaver.engine import (
    ChatMessage,
    EngineInfo,
    EngineStats,
    Generation,
    GenerationRequest,
    OnText,
)
from palaver.errors import EngineTimeout, Unsupported
from palaver.messages import Usage


class PacedEngine:
    """Runs ``slots`` generations at once. The first word comes after ``prefill`` seconds, each
    further one after ``pace``. A reply has ``words`` on average; how many, and which, follows from
    the prompt. It keeps nothing of what was asked."""

    def __init__(self, *, slots: int, prefill: float, pace: float, words: int) -> None:
        self.slots = slots
        self.words = words
        self.seconds = prefill + pace * (words - 1)
        """What a generation takes on average."""
        self.generated = 0
        """Generations that came to their end."""
        self._prefill = prefill
        self._pace = pace
        self._free = asyncio.Semaphore(slots)
        self._running = self._waiting = 0

    @property
    def capacity(self) -> float:
        """Generations per second."""
        return self.slots / self.seconds

    def reply(self, prompt: str) -> str:
        """What it says to a prompt."""
        return "".join(self._words(prompt))

    def _words(self, prompt: str) -> list[str]:
        count = random.Random(prompt).randint(self.words // 2, self.words + self.words // 2)
        return [f"{prompt}-{number} " for number in range(count)]

    async def start(self) -> EngineInfo:
        return EngineInfo(
            model="paced",
            context_window=8192,
            capabilities=frozenset({"generate"}),
            slots=self.slots,
        )

    async def close(self) -> None: ...

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        try:
            async with asyncio.timeout(request.timeout):
                return await self._generate(request, on_text)
        except TimeoutError as error:
            raise EngineTimeout(f"no end within {request.timeout} s") from error

    async def _generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        prompt = request.messages[-1].content
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            words = self._words(prompt)
            for number, word in enumerate(words):
                await asyncio.sleep(self._pace if number else self._prefill)
                on_text(word)
        finally:
            self._running -= 1
            self._free.release()
        self.generated += 1
        usage = Usage(prompt_tokens=len(prompt) // 4, completion_tokens=len(words))
        return Generation(text="".join(words), finish_reason="stop", usage=usage)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return sum(len(message.content) // 4 for message in messages)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported("embed")

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        raise Unsupported("classify")

    async def stats(self) -> EngineStats:
        return EngineStats(running=self._running, waiting=self._waiting)
