"""Supervision: notices that the engine has died or hangs, and starts it again."""

import asyncio
import logging
from collections.abc import Sequence

from palaver.engine import (
    Abilities,
    ChatMessage,
    Engine,
    Generation,
    GenerationRequest,
    Load,
    OnText,
    Sampling,
)
from palaver.errors import (
    ConfigurationError,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    PalaverError,
)
from palaver.messages import new_id
from palaver.metrics import Metrics
from palaver.settings import EngineSettings

log = logging.getLogger(__name__)

LONGEST_BACKOFF = 60.0
"""Seconds between restarts at most."""


class SupervisedEngine:
    """An `Engine` around an engine. While the inner one is down, every call raises
    `EngineUnavailable` at once; a canary, one generated token with a deadline, tells whether it
    lives. An engine's own health check does not notice a hang."""

    def __init__(self, engine: Engine, settings: EngineSettings, metrics: Metrics) -> None:
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._problem = "not started"
        self._needed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._proven_at = 0.0

    @property
    def problem(self) -> str:
        """Why the engine cannot answer now; empty when it can."""
        return self._problem

    async def start(self) -> Abilities:
        abilities = await self._engine.start()
        self._problem = ""
        self._prove()
        self._watching = asyncio.create_task(self._watch(), name="palaver-engine-watch")
        return abilities

    async def close(self) -> None:
        self._problem = "closed"
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._engine.close()

    def _prove(self) -> None:
        self._proven_at = asyncio.get_running_loop().time()

    def _require(self) -> None:
        if self._problem:
            raise EngineUnavailable(f"the engine is down: {self._problem}", retry_after=5.0)

    def _declare_dead(self, why: str) -> None:
        if not self._problem:
            log.error("the engine is down: %s", why)
            self._problem = why
            self._needed.set()

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        self._require()
        began = asyncio.get_running_loop().time()
        first = True

        def measure(text: str) -> None:
            nonlocal first
            if first:
                first = False
                self._metrics.first_text(asyncio.get_running_loop().time() - began)
            on_text(text)

        try:
            generation = await self._engine.generate(request, measure)
        except EngineUnavailable as error:
            self._declare_dead(str(error))
            raise
        self._prove()
        usage = generation.usage
        self._metrics.tokens(
            prompt=usage.prompt_tokens,
            cached=usage.cached_tokens,
            completion=usage.completion_tokens,
        )
        return generation

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        self._require()
        return await self._engine.count_tokens(messages)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self._require()
        return await self._engine.embed(texts)

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        self._require()
        return await self._engine.classify(texts)

    async def load(self) -> Load:
        if self._problem:
            return Load(running=0, waiting=0)
        return await self._engine.load()

    async def _watch(self) -> None:
        backoff = self._settings.restart_backoff
        while True:
            if self._problem:
                if await self._restart(backoff):
                    backoff = self._settings.restart_backoff
                else:
                    backoff = min(backoff * 2, LONGEST_BACKOFF)
                continue
            try:
                async with asyncio.timeout(self._settings.canary_interval):
                    await self._needed.wait()
            except TimeoutError:
                await self._canary()

    async def _restart(self, backoff: float) -> bool:
        await asyncio.sleep(backoff)
        log.warning("restarting the engine")
        self._metrics.engine_restart()
        self._needed.clear()
        try:
            await self._engine.close()
            await self._engine.start()
        except (EngineError, ConfigurationError) as error:
            self._problem = str(error)
            log.error("the engine did not start: %s", error)
            return False
        self._problem = ""
        self._prove()
        log.warning("the engine is up again")
        return True

    async def _canary(self) -> None:
        """Generate one token, unless a finished generation has just proved as much."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._proven_at < self._settings.canary_interval:
            return
        request = GenerationRequest(
            id=f"canary-{new_id()}",
            messages=(ChatMessage("user", "Hi"),),
            tenant="palaver-canary",
            sampling=Sampling(max_tokens=1),
            deadline=self._settings.canary_deadline,
        )
        try:
            # A hung engine may not keep the request's own deadline.
            async with asyncio.timeout(self._settings.canary_deadline + 1):
                await self._engine.generate(request, _ignore)
        except (EngineTimeout, TimeoutError):
            self._declare_dead(f"no token within {self._settings.canary_deadline} s: it hangs")
        except PalaverError as error:
            self._declare_dead(str(error))
        else:
            self._prove()


def _ignore(text: str) -> None:
    """The canary's song is not recorded."""
