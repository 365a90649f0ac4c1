"""Construction of a server from settings and plugins."""

import logging
from collections.abc import Iterable, Mapping
from typing import TypeVar

from palaver.authentication import check_bind
from palaver.browsers import load_cookie_secrets
from palaver.channels import BrokenChannel, Channel, missing_library
from palaver.checks import check_secrets, check_settings, describe_unknown_name, find_models
from palaver.config.loading import model_settings, plugin_settings
from palaver.config.settings import NO_EMBEDDINGS, Settings
from palaver.embedding import Embedder, EngineEmbedder, engine_model
from palaver.engine import Engine
from palaver.engines.boundary import EngineBoundary
from palaver.errors import ConfigurationError, contained
from palaver.files.objects import ObstoreObjects
from palaver.files.store import FileStore
from palaver.hooks import Backend, BuildContext, Interceptor
from palaver.jobs.store import JOBS_DIRECTORY
from palaver.knowledge import KnowledgeBase
from palaver.ledger import Ledger
from palaver.models.registry import ModelRegistry
from palaver.plugins import PluginRegistry, load_plugins
from palaver.private_files import make_private_directory
from palaver.routing.trials import TrialStore
from palaver.server import Server
from palaver.skills import Skill
from palaver.tool_sources import ToolSource

log = logging.getLogger(__name__)
T = TypeVar("T")
DEFAULT_EMBEDDER = "universal_sentence_encoder"
FILES_DIRECTORY = "files"
"""Directory of uploaded files in ``server.data``, unless the settings name a store."""

TRIALS_DIRECTORY = "routing-trials"
"""Directory in ``server.data`` of what `palaver.routing.trials` keeps."""


def build_server(settings: Settings, registry: PluginRegistry | None = None) -> Server:
    """Build a server from the installed plugins that the settings choose.

    Everything that can be checked without the engine, the ledger and the network is checked here.
    Raises `ConfigurationError` that names the wrong settings.
    """
    if registry is None:
        registry = load_plugins(disabled=settings.plugins.disabled, strict=settings.plugins.strict)
    for failure in registry.failures:
        log.error("%s", failure)
    check_settings(settings, registry)
    check_bind(settings)
    create_data_directory(settings)
    builder = BackendBuilder(settings, registry)
    find_models(settings, registry, builder.context)
    return Server(
        settings,
        ledger=builder.ledger(),
        engine=builder.engine(),
        models=builder.models(),
        embedder=builder.embedder(),
        knowledge=builder.knowledge(),
        skills=builder.skills(),
        tools=registry.tools,
        tool_sources=builder.tool_sources(),
        interceptors=builder.interceptors(),
        channels=builder.channels(),
        cookie_secrets=load_cookie_secrets(settings),
        files=builder.files(),
        trials=builder.trials(),
        jobs=settings.server.data / JOBS_DIRECTORY,
    )


def create_data_directory(settings: Settings) -> None:
    """Create ``server.data``, for its owner alone. Raises `ConfigurationError`."""
    data = settings.server.data
    try:
        make_private_directory(data)
    except OSError as error:
        raise ConfigurationError(f"server.data {str(data)!r}: {error.strerror}") from error


class BackendBuilder:
    """Builder of the backends that the settings choose. It creates and opens nothing.

    Each method raises `ConfigurationError` when there is no such backend or its settings are wrong.
    """

    def __init__(self, settings: Settings, registry: PluginRegistry) -> None:
        data = settings.server.data
        self.context = BuildContext(data_directory=data, resolve_model=ModelRegistry(data).resolve)
        self._settings = settings
        self._registry = registry

    def engine(self) -> Engine:
        return self._build("engine", "use", self._settings.engine.use, self._registry.engines)

    def models(self) -> dict[str, Engine]:
        """Build the engines of ``engine.models``, by the names of the models."""
        return {name: self.model(name) for name in self._settings.engine.models}

    def model(self, name: str) -> Engine:
        """Build the engine of a model of ``engine.models``."""
        use = self._settings.engine.models[name].use
        backend = self._registry.engines.get(use)
        if backend is None:
            key = f"engine.models.{name}.use"
            raise ConfigurationError(describe_unknown_name(key, use, self._registry.engines))
        own = model_settings(self._settings, name, backend.settings)
        with contained(self._registry.describe("engine", use)):
            return backend.build(own, self.context)

    def embedder(self) -> Embedder | None:
        """Build the embedder; None where there is none, or the engine that generates embeds."""
        name = self._settings.embedding.use or DEFAULT_EMBEDDER
        if name in (NO_EMBEDDINGS, self._settings.engine.use):
            return None
        if name in self._registry.engines:
            engine = self._build("engine", "use", name, self._registry.engines)
            return EngineEmbedder(name, EngineBoundary(engine), engine_model(self._settings, name))
        if not self._settings.embedding.use and name not in self._registry.embedders:
            return None
        return self._build("embedding", "use", name, self._registry.embedders)

    def ledger(self) -> Ledger:
        return self._build("ledger", "use", self._settings.ledger.use, self._registry.ledgers)

    def knowledge(self) -> KnowledgeBase:
        name = self._settings.knowledge.use
        return self._build("knowledge", "use", name, self._registry.knowledge)

    def files(self) -> FileStore:
        store, data = self._settings.files.store, self._settings.server.data
        directory = None if store else data / FILES_DIRECTORY
        return FileStore(ObstoreObjects(store, directory), self._settings.files)

    def trials(self) -> TrialStore:
        name = self._settings.engine.use
        engine = f"{name} {sorted(self._settings.engine.of(name).items())}"
        return TrialStore(self._settings.server.data / TRIALS_DIRECTORY, engine)

    def interceptors(self) -> list[Interceptor]:
        names = self._settings.interceptors.enabled
        return self._build_all("interceptors", names, self._registry.interceptors)

    def tool_sources(self) -> dict[str, ToolSource]:
        names = self._settings.tool_sources.enabled
        built = self._build_all("tool_sources", names, self._registry.tool_sources)
        return dict(zip(names, built, strict=True))

    def channels(self) -> dict[str, Channel]:
        """Build the channels that the settings enable. One that cannot work as it is configured is
        a `BrokenChannel`."""
        channels: dict[str, Channel] = {}
        for name in self._settings.channels.enabled:
            if name not in self._registry.channels:
                installed = self._registry.channels
                raise ConfigurationError(describe_unknown_name("channels.enabled", name, installed))
            try:
                channels[name] = self.channel(name)
            except ConfigurationError as error:
                channels[name] = BrokenChannel(str(error))
        return channels

    def channel(self, name: str) -> Channel:
        """Build an installed channel, enabled or not. Raises `ConfigurationError`."""
        backend = self._registry.channels[name]
        own = plugin_settings(self._settings, "channels", name, backend.settings)
        check_secrets(own, f"channels.{name}.")
        try:
            with contained(self._registry.describe("channels", name)):
                return backend.build(own, self.context)
        except ImportError as error:
            raise missing_library(error) from error

    def skills(self) -> dict[str, Skill]:
        return {name: self._build_skill(name) for name in self._registry.skills}

    def _build_skill(self, name: str) -> Skill:
        skill = self._registry.skills[name]
        own = plugin_settings(self._settings, "skills", name, skill.Settings)
        with contained(self._registry.describe("skills", name)):
            return skill(own)

    def _build_all(
        self, section: str, names: Iterable[str], backends: Mapping[str, Backend[T]]
    ) -> list[T]:
        return [self._build(section, "enabled", name, backends) for name in names]

    def _build(self, section: str, key: str, name: str, backends: Mapping[str, Backend[T]]) -> T:
        backend = backends.get(name)
        if backend is None:
            raise ConfigurationError(describe_unknown_name(f"{section}.{key}", name, backends))
        own = plugin_settings(self._settings, section, name, backend.settings)
        with contained(self._registry.describe(section, name)):
            return backend.build(own, self.context)
