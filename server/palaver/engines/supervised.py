"""Supervision: notices that the engine has died or hangs, and starts it again."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence

from palaver.config.settings import EngineSettings
from palaver.engine import (
    ChatMessage,
    Engine,
    EngineInfo,
    EngineStats,
    Generation,
    GenerationRequest,
    OnText,
    Sampling,
)
from palaver.errors import (
    ConfigurationError,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    Overloaded,
    PalaverError,
)
from palaver.messages import new_id
from palaver.metrics import Metrics

log = logging.getLogger(__name__)

LONGEST_BACKOFF = 10.0
"""Seconds between restarts at most: people wait for the engine."""


class SupervisedEngine:
    """An `Engine` around an engine. While the inner one is down, every call raises
    `EngineUnavailable` at once, and `up` waits for it. A canary, one generated token with a
    deadline, tells whether it lives: an engine's own health check does not notice a hang, and a
    call that finds it unavailable may have been alone in that."""

    def __init__(self, engine: Engine, settings: EngineSettings, metrics: Metrics) -> None:
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._problem = "not started"
        self._unconfirmed = False
        self._restarts = 0
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._last_progress = 0.0

    @property
    def problem(self) -> str:
        """Why the engine cannot answer now; empty when it can."""
        return self._problem

    async def start(self) -> EngineInfo:
        engine_info = await self._engine.start()
        self._declare_up()
        self._watching = asyncio.create_task(self._watch(), name="palaver-engine-watch")
        return engine_info

    async def wait_until_up(self) -> None:
        """Return when the engine can answer, however long that takes."""
        while self._problem:
            await self._up.wait()

    async def close(self) -> None:
        self._problem = "closed"
        self._up.clear()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._engine.close()

    def _record_progress(self) -> None:
        self._last_progress = asyncio.get_running_loop().time()

    def _declare_up(self) -> None:
        self._problem = ""
        self._restarts += 1
        self._up.set()
        self._record_progress()

    def _declare_down(self, why: str) -> None:
        if not self._problem:
            log.error("the engine is down: %s", why)
            self._problem = why
            self._up.clear()
            self._down.set()

    @contextlib.contextmanager
    def _reporting_failure(self) -> Iterator[None]:
        """Around a call of the inner engine, which shows by its error that it is dead."""
        if self._problem:
            raise EngineUnavailable(f"the engine is down: {self._problem}", retry_after=5.0)
        life = self._restarts
        try:
            yield
        except EngineUnavailable as error:
            if life == self._restarts:  # else it tells late of a death that has been seen to
                self._unconfirmed = True
                self._declare_down(str(error))
            raise

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        began = asyncio.get_running_loop().time()
        first = True

        def measure(text: str) -> None:
            nonlocal first
            self._record_progress()
            if first:
                first = False
                self._metrics.first_text(self._last_progress - began)
            on_text(text)

        with self._reporting_failure():
            generation = await self._engine.generate(request, measure)
        self._record_progress()
        usage = generation.usage
        self._metrics.tokens(
            prompt=usage.prompt_tokens,
            cached=usage.cached_tokens,
            completion=usage.completion_tokens,
        )
        return generation

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        with self._reporting_failure():
            return await self._engine.count_tokens(messages)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        with self._reporting_failure():
            return await self._engine.embed(texts)

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        with self._reporting_failure():
            return await self._engine.classify(texts)

    async def stats(self) -> EngineStats:
        if self._problem:
            return EngineStats(running=0, waiting=0)
        return await self._engine.stats()

    async def _watch(self) -> None:
        backoff = self._settings.restart_backoff
        while True:
            if self._problem:
                if await self._recovered() or await self._restart(backoff):
                    backoff = self._settings.restart_backoff
                else:
                    backoff = min(backoff * 2, LONGEST_BACKOFF)
                continue
            try:
                async with asyncio.timeout(self._settings.health_probe_interval):
                    await self._down.wait()
            except TimeoutError:
                await self._probe_when_silent()

    async def _recovered(self) -> bool:
        """Whether only a call was lost, not the engine."""
        if not self._unconfirmed:
            return False
        self._unconfirmed = False
        problem = await self._probe()
        if problem:
            log.error("the engine is dead: %s", problem)
            return False
        self._down.clear()
        self._declare_up()
        return True

    async def _restart(self, backoff: float) -> bool:
        await asyncio.sleep(backoff)
        log.warning("restarting the engine")
        self._metrics.engine_restart()
        self._down.clear()
        try:
            await self._engine.close()
            await self._engine.start()
        except (EngineError, ConfigurationError) as error:
            self._problem = str(error)
            log.error("the engine did not start: %s", error)
            return False
        except Exception as error:  # the barrier of the watch, which tries again
            self._problem = repr(error)
            log.exception("the engine did not start: %r", error)
            return False
        self._declare_up()
        log.warning("the engine is up again")
        return True

    async def _probe_when_silent(self) -> None:
        """Generate one token, unless a generation has just proved as much."""
        silent_for = asyncio.get_running_loop().time() - self._last_progress
        if silent_for < self._settings.health_probe_interval:
            return
        problem = await self._probe()
        if problem:
            self._declare_down(problem)

    async def _probe(self) -> str:
        """Generate one token. Returns what keeps the engine from it, or nothing."""
        began = asyncio.get_running_loop().time()
        request = GenerationRequest(
            id=f"canary-{new_id()}",
            messages=(ChatMessage("user", "Hi"),),
            tenant="palaver-canary",
            sampling=Sampling(max_tokens=1),
            timeout=self._settings.health_probe_timeout,
        )
        try:
            # A hung engine may not keep the request's own deadline.
            async with asyncio.timeout(self._settings.health_probe_timeout + 1):
                await self._engine.generate(request, _ignore)
        except (EngineTimeout, TimeoutError):
            if self._last_progress <= began:  # else it is busy with others
                return f"no token within {self._settings.health_probe_timeout} s: it hangs"
        except Overloaded:
            pass  # it lives, as its refusal shows
        except PalaverError as error:
            return str(error)
        self._record_progress()
        return ""


def _ignore(text: str) -> None:
    """The canary's song is not recorded."""
