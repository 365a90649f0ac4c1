"""Supervision: notices that the engine has died or hangs, and starts it again."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence

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
    Overloaded,
    PalaverError,
)
from palaver.messages import new_id
from palaver.metrics import Metrics
from palaver.settings import EngineSettings

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
        self._doubted = False
        self._lives = 0
        self._up = asyncio.Event()
        self._needed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._proven_at = 0.0

    @property
    def problem(self) -> str:
        """Why the engine cannot answer now; empty when it can."""
        return self._problem

    async def start(self) -> Abilities:
        abilities = await self._engine.start()
        self._declare_up()
        self._watching = asyncio.create_task(self._watch(), name="palaver-engine-watch")
        return abilities

    async def up(self) -> None:
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

    def _prove(self) -> None:
        self._proven_at = asyncio.get_running_loop().time()

    def _declare_up(self) -> None:
        self._problem = ""
        self._lives += 1
        self._up.set()
        self._prove()

    def _declare_down(self, why: str) -> None:
        if not self._problem:
            log.error("the engine is down: %s", why)
            self._problem = why
            self._up.clear()
            self._needed.set()

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Around a call of the inner engine, which shows by its error that it is dead."""
        if self._problem:
            raise EngineUnavailable(f"the engine is down: {self._problem}", retry_after=5.0)
        life = self._lives
        try:
            yield
        except EngineUnavailable as error:
            if life == self._lives:  # else it tells late of a death that has been seen to
                self._doubted = True
                self._declare_down(str(error))
            raise

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        began = asyncio.get_running_loop().time()
        first = True

        def measure(text: str) -> None:
            nonlocal first
            self._prove()
            if first:
                first = False
                self._metrics.first_text(self._proven_at - began)
            on_text(text)

        with self._alive():
            generation = await self._engine.generate(request, measure)
        self._prove()
        usage = generation.usage
        self._metrics.tokens(
            prompt=usage.prompt_tokens,
            cached=usage.cached_tokens,
            completion=usage.completion_tokens,
        )
        return generation

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        with self._alive():
            return await self._engine.count_tokens(messages)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        with self._alive():
            return await self._engine.embed(texts)

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        with self._alive():
            return await self._engine.classify(texts)

    async def load(self) -> Load:
        if self._problem:
            return Load(running=0, waiting=0)
        return await self._engine.load()

    async def _watch(self) -> None:
        backoff = self._settings.restart_backoff
        while True:
            if self._problem:
                if await self._sings_after_all() or await self._restart(backoff):
                    backoff = self._settings.restart_backoff
                else:
                    backoff = min(backoff * 2, LONGEST_BACKOFF)
                continue
            try:
                async with asyncio.timeout(self._settings.canary_interval):
                    await self._needed.wait()
            except TimeoutError:
                await self._canary()

    async def _sings_after_all(self) -> bool:
        """Whether only a call was lost, not the engine."""
        if not self._doubted:
            return False
        self._doubted = False
        problem = await self._sing()
        if problem:
            log.error("the engine is dead: %s", problem)
            return False
        self._needed.clear()
        self._declare_up()
        return True

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
        except Exception as error:  # the barrier of the watch, which tries again
            self._problem = repr(error)
            log.exception("the engine did not start: %r", error)
            return False
        self._declare_up()
        log.warning("the engine is up again")
        return True

    async def _canary(self) -> None:
        """Generate one token, unless a generation has just proved as much."""
        silent_for = asyncio.get_running_loop().time() - self._proven_at
        if silent_for < self._settings.canary_interval:
            return
        problem = await self._sing()
        if problem:
            self._declare_down(problem)

    async def _sing(self) -> str:
        """Generate one token. Returns what keeps the engine from it, or nothing."""
        began = asyncio.get_running_loop().time()
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
            if self._proven_at <= began:  # else it is busy with others
                return f"no token within {self._settings.canary_deadline} s: it hangs"
        except Overloaded:
            pass  # it lives, as its refusal shows
        except PalaverError as error:
            return str(error)
        self._prove()
        return ""


def _ignore(text: str) -> None:
    """The canary's song is not recorded."""
