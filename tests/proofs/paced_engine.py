"""PacedEngine: an engine of known speed, from which its capacity can be computed."""

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
    ToolDefinition,
)
from palaver.errors import EngineTimeout, Unsupported
from palaver.messages import Usage


class PacedEngine:
    """Engine with ``slots`` simultaneous generations that does not keep the requests.

    The first word comes after ``first_word_seconds``, each further one after ``word_seconds``. The
    reply, with ``mean_words`` words on average, depends on the prompt alone.
    """

    def __init__(
        self, *, slots: int, first_word_seconds: float, word_seconds: float, mean_words: int
    ) -> None:
        self.slots = slots
        self.mean_words = mean_words
        self.mean_seconds = first_word_seconds + word_seconds * (mean_words - 1)
        """Average duration of a generation."""
        self.generation_count = 0
        """Generations that have finished."""
        self._first_word_seconds = first_word_seconds
        self._word_seconds = word_seconds
        self._free_slots = asyncio.Semaphore(slots)
        self._running = self._waiting = 0

    @property
    def generations_per_second(self) -> float:
        return self.slots / self.mean_seconds

    def reply_to(self, prompt: str) -> str:
        """Return the text generated for a prompt."""
        return "".join(self._words(prompt))

    def _words(self, prompt: str) -> list[str]:
        fewest, most = self.mean_words // 2, self.mean_words + self.mean_words // 2
        count = random.Random(prompt).randint(fewest, most)
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
            raise EngineTimeout(f"not finished within {request.timeout} s") from error

    async def _generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        prompt = request.messages[-1].content
        self._waiting += 1
        try:
            await self._free_slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            words = self._words(prompt)
            for number, word in enumerate(words):
                await asyncio.sleep(self._word_seconds if number else self._first_word_seconds)
                on_text(word)
        finally:
            self._running -= 1
            self._free_slots.release()
        self.generation_count += 1
        usage = Usage(prompt_tokens=len(prompt) // 4, completion_tokens=len(words))
        return Generation(text="".join(words), finish_reason="stop", usage=usage)

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        return sum(len(message.content) // 4 for message in messages)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported("embed")

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        raise Unsupported("classify")

    async def stats(self) -> EngineStats:
        return EngineStats(running=self._running, waiting=self._waiting)
