"""Supervision: detects an engine that has crashed or hangs, and restarts it."""

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
    ToolDefinition,
)
from palaver.errors import (
    ConfigurationError,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    Overloaded,
    PalaverError,
    describe_error,
)
from palaver.messages import new_id
from palaver.metrics import ModelMetrics

log = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 10.0
"""Limit of the pause between restarts: requests wait for the engine."""


class SupervisedEngine:
    """An `Engine` that probes and restarts the engine inside it.

    While the inner engine is down, every call raises `EngineUnavailable` at once. The health probe
    generates one token, or embeds one text where the engine does not generate: an engine's own
    health check does not notice a hang. It also confirms a crash that a call reported, because the
    call may have failed alone.
    """

    def __init__(self, engine: Engine, settings: EngineSettings, metrics: ModelMetrics) -> None:
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._problem = "not started"
        self._unconfirmed = False
        self._start_count = 0
        self._only_embeds = False
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._monitor_task: asyncio.Task[None] | None = None
        self._progress = 0
        """Grows with each piece of text; it stands still while the engine is silent."""

    @property
    def problem(self) -> str:
        """Return the reason why the engine cannot answer now; empty when it can."""
        return self._problem

    async def start(self) -> EngineInfo:
        engine_info = await self._engine.start()
        can = engine_info.capabilities
        self._only_embeds = "embed" in can and "generate" not in can
        self._mark_up()
        self._monitor_task = asyncio.create_task(self._monitor(), name="palaver-engine-monitor")
        return engine_info

    async def wait_until_up(self) -> None:
        """Wait, without limit, until the engine can answer."""
        while self._problem:
            await self._up.wait()

    async def close(self) -> None:
        self._problem = "closed"
        self._up.clear()
        if self._monitor_task is not None:
            self._monitor_task.cancel()
            await asyncio.gather(self._monitor_task, return_exceptions=True)
        await self._engine.close()

    def _mark_up(self) -> None:
        self._problem = ""
        self._start_count += 1
        self._down.clear()
        self._up.set()
        self._progress += 1

    def _mark_down(self, problem: str) -> None:
        if not self._problem:
            log.error("the engine is down: %s", problem)
            self._problem = problem
            self._up.clear()
            self._down.set()

    @contextlib.contextmanager
    def _detecting_crash(self) -> Iterator[None]:
        """Mark the engine as down when the call in the block raises `EngineUnavailable`."""
        if self._problem:
            raise EngineUnavailable(f"the engine is down: {self._problem}", retry_after=5.0)
        start_count = self._start_count
        try:
            yield
        except EngineUnavailable as error:
            if start_count == self._start_count:  # else the engine was restarted in between
                self._unconfirmed = True
                self._mark_down(describe_error(error))
            raise

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        loop = asyncio.get_running_loop()
        started = loop.time()
        first = True

        def measure(text: str) -> None:
            nonlocal first
            self._progress += 1
            if first:
                first = False
                self._metrics.first_text(loop.time() - started)
            on_text(text)

        with self._detecting_crash():
            generation = await self._engine.generate(request, measure)
        self._progress += 1
        usage = generation.usage
        self._metrics.tokens(
            prompt=usage.prompt_tokens,
            cached=usage.cached_tokens,
            completion=usage.completion_tokens,
        )
        return generation

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        with self._detecting_crash():
            return await self._engine.count_tokens(messages, tools)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        with self._detecting_crash():
            vectors = await self._engine.embed(texts)
        self._progress += 1
        return vectors

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        with self._detecting_crash():
            return await self._engine.classify(texts)

    async def stats(self) -> EngineStats:
        if self._problem:
            return EngineStats(running=0, waiting=0)
        return await self._engine.stats()

    async def _monitor(self) -> None:
        backoff = self._settings.restart_backoff
        while True:
            if self._problem:
                if await self._is_still_alive() or await self._restart(backoff):
                    backoff = self._settings.restart_backoff
                else:
                    backoff = min(backoff * 2, MAX_BACKOFF_SECONDS)
                continue
            progress = self._progress
            try:
                async with asyncio.timeout(self._settings.health_probe_interval):
                    await self._down.wait()
            except TimeoutError:
                if self._progress == progress and (problem := await self._probe()):
                    self._mark_down(problem)

    async def _is_still_alive(self) -> bool:
        """Return True and mark the engine as up when only a call failed, not the engine."""
        if not self._unconfirmed:
            return False
        self._unconfirmed = False
        problem = await self._probe()
        if problem:
            log.error("the health probe confirms that the engine has crashed: %s", problem)
            return False
        self._mark_up()
        return True

    async def _restart(self, backoff: float) -> bool:
        """Restart the engine after ``backoff`` seconds. Return True when it is up."""
        await asyncio.sleep(backoff)
        log.warning("restarting the engine")
        self._metrics.engine_restart()
        try:
            await self._engine.close()
            await self._engine.start()
        except (EngineError, ConfigurationError) as error:
            self._problem = str(error)
            log.error("the engine did not start: %s", error)
            return False
        except Exception as error:  # the barrier of the monitor, which tries again
            self._problem = repr(error)
            log.exception("the engine did not start: %r", error)
            return False
        self._mark_up()
        log.warning("the engine is up again")
        return True

    async def _probe(self) -> str:
        """Use the engine as little as possible. Return the problem that prevents it, or ''."""
        progress = self._progress
        timeout = self._settings.health_probe_timeout
        try:
            # A hung engine may not enforce the request's own timeout.
            async with asyncio.timeout(timeout + 1):
                await (self._embed_text() if self._only_embeds else self._generate_token())
        except (EngineTimeout, TimeoutError):
            if self._progress == progress:  # else it is busy with other requests
                return (
                    f"no {'vector' if self._only_embeds else 'token'} within {timeout} s: it hangs"
                )
        except Overloaded:
            pass  # a refusal proves that the engine responds
        except PalaverError as error:
            return describe_error(error)
        self._progress += 1
        return ""

    async def _generate_token(self) -> None:
        request = GenerationRequest(
            id=f"health-probe-{new_id()}",
            messages=(ChatMessage("user", "Hi"),),
            tenant="palaver-health-probe",
            sampling=Sampling(max_tokens=1),
            timeout=self._settings.health_probe_timeout,
        )
        await self._engine.generate(request, lambda _: None)

    async def _embed_text(self) -> None:
        await self._engine.embed(["Hi"])
