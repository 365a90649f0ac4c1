"""Models: what generates text, by name, each with an engine and a queue of its own."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping

from palaver.admission.quotas import Quotas
from palaver.admission.scheduler import Scheduler
from palaver.config.settings import DEFAULT_MODEL, Settings
from palaver.engine import Engine, EngineInfo
from palaver.engines.boundary import EngineBoundary
from palaver.engines.continuing import ContinuingEngine
from palaver.engines.scheduled import UNKNOWN_SLOTS, ScheduledEngine
from palaver.engines.supervised import MAX_BACKOFF_SECONDS, SupervisedEngine
from palaver.engines.tool_calling import ToolCallingEngine
from palaver.errors import EngineError, EngineUnavailable, NotFound, describe_error
from palaver.metrics import Metrics

log = logging.getLogger(__name__)


class Model:
    """One model: its engine, with all that the server wraps around it, and the queue for it."""

    def __init__(
        self, name: str, engine: Engine, settings: Settings, *, quotas: Quotas, metrics: Metrics
    ) -> None:
        self.name = name
        own_metrics = metrics.of_model(name)
        self.scheduler = Scheduler(
            UNKNOWN_SLOTS, weight=lambda tenant: quotas.of_tenant(tenant).weight
        )
        self._supervised = SupervisedEngine(
            ToolCallingEngine(EngineBoundary(engine)), settings.engine, own_metrics
        )
        self.engine = ScheduledEngine(
            ContinuingEngine(self._supervised, settings.engine, own_metrics),
            settings.admission,
            scheduler=self.scheduler,
            quotas=quotas,
            metrics=own_metrics,
        )
        self._backoff = settings.engine.restart_backoff
        self._info: EngineInfo | None = None
        self._problem = "it has not started"
        self._starting: asyncio.Task[None] | None = None

    @property
    def info(self) -> EngineInfo:
        """Return the description of the engine. Raises `EngineUnavailable` until it has started."""
        if self._info is None:
            raise EngineUnavailable(f"the model {self.name!r} is down: {self._problem}")
        return self._info

    @property
    def has_started(self) -> bool:
        return self._info is not None

    @property
    def public_name(self) -> str:
        """Return the name for people and programs: the default model has its own."""
        return self.info.model if self.name == DEFAULT_MODEL else self.name

    @property
    def problem(self) -> str:
        """Return the reason why the model cannot write now; empty when it can."""
        return self._supervised.problem if self._info is not None else self._problem

    async def start(self) -> None:
        """Start the engine. Raises as `Engine.start`."""
        self._info = await self.engine.start()

    async def start_when_available(self, on_started: Callable[["Model"], None]) -> None:
        """Start the engine now; if it cannot be reached, later, and call ``on_started`` then.

        Raises `ConfigurationError`.
        """
        try:
            await self.start()
        except EngineError as error:
            self._note(error)
            self._starting = asyncio.create_task(
                self._start_later(on_started), name=f"palaver-model-{self.name}"
            )

    async def _start_later(self, on_started: Callable[["Model"], None]) -> None:
        backoff = self._backoff
        while self._info is None:
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)
            try:
                await self.engine.close()
                await self.start()
            except Exception as error:  # noqa: BLE001  the barrier of this task, which tries again
                self._note(error)
        log.warning("the model %s has started", self.name)
        on_started(self)

    def _note(self, error: Exception) -> None:
        self._problem = describe_error(error)
        log.error("the model %s does not start: %s", self.name, self._problem)

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self.engine.close()


class Models:
    """The models of a server: the default one, and those of ``engine.models``. A skill has the one
    that ``skills.NAME.model`` names, or the default one."""

    def __init__(
        self, default: Model, named: Mapping[str, Model], of_skills: Mapping[str, str]
    ) -> None:
        self.default = default
        self._models = {DEFAULT_MODEL: default, **named}
        self._of_skills = of_skills

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    @property
    def names(self) -> list[str]:
        return list(self._models)

    def get(self, name: str) -> Model | None:
        return self._models.get(name)

    def find(self, name: str) -> Model:
        """Return the model of a name of the settings. Raises `NotFound` with all names."""
        model = self._models.get(name)
        if model is None:
            names = ", ".join(self._models)
            raise NotFound(f"there is no model {name[:60]!r}; there are: {names}")
        return model

    def of_skill(self, skill: str) -> Model:
        """Return the model that writes for a skill. Raises as `find`."""
        return self.find(self._of_skills.get(skill, DEFAULT_MODEL))
