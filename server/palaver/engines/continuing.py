"""Continuation: a generation outlives the engine that began it.

When the engine dies in the middle of a reply, the generation waits until it is up again and goes on
after the last character that was heard. Who listens notices no more than a pause.
"""

import asyncio
import contextlib
import dataclasses
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from palaver.config.settings import EngineSettings
from palaver.engine import (
    ChatMessage,
    Engine,
    EngineInfo,
    EngineStats,
    Generation,
    GenerationRequest,
    OnText,
)
from palaver.errors import EngineDied, EngineUnavailable
from palaver.metrics import Metrics

log = logging.getLogger(__name__)
T = TypeVar("T")


class RestartableEngine(Engine, Protocol):
    """An engine that is started again when it has died: see `palaver.engines.supervised`."""

    @property
    def problem(self) -> str:
        """Why the engine cannot answer now; empty when it can."""

    async def wait_until_up(self) -> None:
        """Return when it can answer."""


class ContinuedGeneration:
    """One generation and what has come of it, from as many engines as it takes.

    What makes sense only as a whole (a structure, log-probabilities) is heard at its end, so that
    it can be begun anew. Other text is heard as it comes, and can then only be continued.
    """

    def __init__(self, request: GenerationRequest, on_text: OnText) -> None:
        self._request = request
        self._on_text = on_text
        self._received: list[str] = []
        self._attempts = 0
        sampling = request.sampling
        self._whole = sampling.structure is not None or sampling.logprobs is not None

    @property
    def text(self) -> str:
        """What was heard so far."""
        return "".join(self._received)

    def next_request(self) -> GenerationRequest:
        """What is still to be generated, as a request of its own."""
        self._attempts += 1
        number = f".{self._attempts}" if self._attempts > 1 else ""
        partial = self._request.partial + self.text
        return dataclasses.replace(self._request, id=self._request.id + number, partial=partial)

    def on_text(self, text: str) -> None:
        if not self._whole:
            self._received.append(text)
            self._on_text(text)

    def finish(self, rest: Generation) -> Generation:
        """The generation as a whole, now that its rest has come."""
        if not self._whole:
            return dataclasses.replace(rest, text=self.text)
        if rest.text:
            self._on_text(rest.text)
        return rest


class _Interrupted(Exception):
    """The engine died during a generation."""

    def __init__(self, error: EngineUnavailable) -> None:
        super().__init__(str(error))
        self.error = error


class ContinuingEngine:
    """An `Engine` around one that may die. Calls wait for it while it is down, and what its death
    cuts is taken up again.

    A wait ends with `EngineUnavailable` after ``patience`` seconds, or at a generation's deadline.
    """

    def __init__(
        self, engine: RestartableEngine, settings: EngineSettings, metrics: Metrics
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._continues = False
        self._last_attempts = asyncio.Lock()

    async def start(self) -> EngineInfo:
        engine_info = await self._engine.start()
        self._continues = "continuation" in engine_info.capabilities
        return engine_info

    async def close(self) -> None:
        await self._engine.close()

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        """Raises `EngineDied` when the engine has died in each of the ``attempts``, and what cut
        the text when the engine cannot continue it."""
        writing = ContinuedGeneration(request, on_text)
        ends = asyncio.get_running_loop().time() + request.timeout
        attempts = self._settings.max_attempts
        for deaths in range(attempts):
            last = 0 < deaths == attempts - 1
            try:
                rest = await (self._generate_alone if last else self._generate)(writing, ends)
                return writing.finish(rest)
            except _Interrupted as cut:
                if writing.text and not self._continues:
                    raise cut.error from None
                log.warning("%s was cut after %d characters", request.id, len(writing.text))
                self._metrics.generation_cut()
        raise EngineDied(f"the engine died in each of {attempts} attempts at {request.id!r}")

    async def _generate(
        self, writing: ContinuedGeneration, ends: float, hear: OnText | None = None
    ) -> Generation:
        await self._wait(self._engine.wait_until_up(), ends)
        left = max(0.001, ends - asyncio.get_running_loop().time())
        try:
            rest = dataclasses.replace(writing.next_request(), timeout=left)
            return await self._engine.generate(rest, hear or writing.on_text)
        except EngineUnavailable as error:
            raise _Interrupted(error) from error

    async def _generate_alone(self, writing: ContinuedGeneration, ends: float) -> Generation:
        """The last attempt, begun while no other generation begins its own: a prompt that kills
        the engine again is not to take others with it that only happened to be there."""
        with contextlib.ExitStack() as beginning:
            await self._wait(self._last_attempts.acquire(), ends)
            beginning.callback(self._last_attempts.release)

            def hear(text: str) -> None:
                beginning.close()
                writing.on_text(text)

            return await self._generate(writing, ends, hear)

    async def _wait(self, readiness: Awaitable[object], ends: float) -> None:
        now = asyncio.get_running_loop().time()
        until = min(ends, now + self._settings.restart_timeout)
        try:
            async with asyncio.timeout_at(until):
                await readiness
        except TimeoutError:
            problem = f"the engine was not ready within {until - now:.3g} s: {self._engine.problem}"
            raise EngineUnavailable(problem, retry_after=5.0) from None

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to a call that does no harm when it is made again."""
        for _ in range(self._settings.max_attempts - 1):
            await self._wait(self._engine.wait_until_up(), math.inf)
            with contextlib.suppress(EngineUnavailable):
                return await call()
        await self._wait(self._engine.wait_until_up(), math.inf)
        return await call()

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return await self._retry(lambda: self._engine.count_tokens(messages))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await self._retry(lambda: self._engine.embed(texts))

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return await self._retry(lambda: self._engine.classify(texts))

    async def stats(self) -> EngineStats:
        return await self._engine.stats()
