"""Continuation: a generation survives a crash of the engine.

When the engine crashes during a reply, the generation waits until the engine is up again and
continues after the last character that was delivered. The caller notices only a pause.
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
    ToolDefinition,
)
from palaver.errors import EngineDied, EngineUnavailable
from palaver.metrics import ModelMetrics

log = logging.getLogger(__name__)
T = TypeVar("T")


class RestartableEngine(Engine, Protocol):
    """An engine that is restarted after a crash: `palaver.engines.supervised.SupervisedEngine`."""

    @property
    def problem(self) -> str:
        """Return the reason why the engine cannot answer now; empty when it can."""

    async def wait_until_up(self) -> None:
        """Wait, without limit, until the engine can answer."""


IMMEDIATE = 0.01
"""Seconds: a first attempt that begins within them is the request as it is."""


class ContinuedGeneration:
    """One generation that may take several attempts, and the text that they have delivered.

    Output that is only valid as a whole (a structure, log-probabilities) is delivered at the end,
    so that another attempt can start over. Other text is delivered as it arrives, and another
    attempt must continue it.
    """

    def __init__(self, request: GenerationRequest, on_text: OnText) -> None:
        self._request = request
        self._on_text = on_text
        self._delivered: list[str] = []
        self._attempts = 0
        sampling = request.sampling
        self._buffered = sampling.structure is not None or sampling.logprobs is not None

    @property
    def text(self) -> str:
        """Return the text delivered so far."""
        return "".join(self._delivered)

    def next_request(self, *, timeout: float | None = None) -> GenerationRequest:
        """Return the request of the next attempt: it continues after the delivered text."""
        self._attempts += 1
        request = self._request
        if self._attempts == 1 and (timeout is None or request.timeout - timeout < IMMEDIATE):
            return request
        return dataclasses.replace(
            request,
            id=f"{request.id}.{self._attempts}" if self._attempts > 1 else request.id,
            partial=request.partial + self.text,
            timeout=request.timeout if timeout is None else timeout,
        )

    def on_text(self, text: str) -> None:
        """Deliver ``text`` of the current attempt."""
        if not self._buffered:
            self._delivered.append(text)
            self._on_text(text)

    def finish(self, last: Generation) -> Generation:
        """Return the whole generation, given the result of the last attempt."""
        if not self._buffered:
            text = self.text
            return last if last.text == text else dataclasses.replace(last, text=text)
        if last.text:
            self._on_text(last.text)
        return last


class _AttemptFailed(Exception):
    """The engine crashed during an attempt."""

    def __init__(self, error: EngineUnavailable) -> None:
        super().__init__(str(error))
        self.error = error


class ContinuingEngine:
    """An `Engine` around one that may crash: calls wait for the restart, and interrupted
    generations continue.

    A wait ends with `EngineUnavailable` after ``engine.restart_timeout`` seconds, or at the
    generation's deadline.
    """

    def __init__(
        self, engine: RestartableEngine, settings: EngineSettings, metrics: ModelMetrics
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._can_continue = False
        self._isolation = asyncio.Lock()

    async def start(self) -> EngineInfo:
        engine_info = await self._engine.start()
        self._can_continue = "continuation" in engine_info.capabilities
        return engine_info

    async def close(self) -> None:
        await self._engine.close()

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        """Generate, with up to ``engine.max_attempts`` attempts.

        Raises `EngineDied` when the engine has crashed in each attempt, and `EngineUnavailable`
        when it has crashed after the first text and cannot continue a partial reply.
        """
        generation = ContinuedGeneration(request, on_text)
        deadline = asyncio.get_running_loop().time() + request.timeout
        max_attempts = self._settings.max_attempts
        for attempt in range(1, max_attempts + 1):
            is_last_retry = 1 < attempt == max_attempts
            run_attempt = self._attempt_isolated if is_last_retry else self._attempt
            try:
                return generation.finish(await run_attempt(generation, deadline))
            except _AttemptFailed as failure:
                if generation.text and not self._can_continue:
                    raise failure.error from None
                log.warning(
                    "generation %s interrupted after %d characters",
                    *(request.id, len(generation.text)),
                )
                self._metrics.generation_cut()
        raise EngineDied(f"the engine crashed in each of {max_attempts} attempts at {request.id!r}")

    async def _attempt(
        self, generation: ContinuedGeneration, deadline: float, on_text: OnText | None = None
    ) -> Generation:
        await self._wait(self._engine.wait_until_up(), deadline)
        timeout = max(0.001, deadline - asyncio.get_running_loop().time())
        request = generation.next_request(timeout=timeout)
        try:
            return await self._engine.generate(request, on_text or generation.on_text)
        except EngineUnavailable as error:
            raise _AttemptFailed(error) from error

    async def _attempt_isolated(
        self, generation: ContinuedGeneration, deadline: float
    ) -> Generation:
        """Run the last attempt, and allow no other last attempt before its first text: a prompt
        that crashes the engine again must not fail the generations that ran beside it."""
        with contextlib.ExitStack() as isolation:
            await self._wait(self._isolation.acquire(), deadline)
            isolation.callback(self._isolation.release)

            def on_text(text: str) -> None:
                isolation.close()
                generation.on_text(text)

            return await self._attempt(generation, deadline, on_text)

    async def _wait(self, condition: Awaitable[object], deadline: float) -> None:
        """Wait for ``condition``. Raises `EngineUnavailable` at ``deadline`` (loop time) or after
        the restart timeout."""
        now = asyncio.get_running_loop().time()
        end = min(deadline, now + self._settings.restart_timeout)
        try:
            async with asyncio.timeout_at(end):
                await condition
        except TimeoutError:
            problem = f"the engine was not ready within {end - now:.3g} s: {self._engine.problem}"
            raise EngineUnavailable(problem, retry_after=5.0) from None

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of an idempotent ``call``, which is repeated after a crash."""
        attempts = self._settings.max_attempts
        while True:
            await self._wait(self._engine.wait_until_up(), math.inf)
            attempts -= 1
            try:
                return await call()
            except EngineUnavailable:
                if attempts <= 0:
                    raise

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        return await self._retry(lambda: self._engine.count_tokens(messages, tools))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await self._retry(lambda: self._engine.embed(texts))

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return await self._retry(lambda: self._engine.classify(texts))

    async def stats(self) -> EngineStats:
        return await self._engine.stats()
