"""Construction of a server from settings and plugins."""

import logging
from collections.abc import Iterable, Mapping
from typing import TypeVar

from palaver.authentication import check_bind
from palaver.browsers import load_cookie_secrets
from palaver.channels import Channel
from palaver.checks import check_settings, describe_unknown_name, find_model
from palaver.config.loading import plugin_settings
from palaver.config.settings import Settings
from palaver.engine import Engine
from palaver.errors import ConfigurationError
from palaver.hooks import Backend, BuildContext, Interceptor
from palaver.knowledge import KnowledgeBase
from palaver.ledger import Ledger
from palaver.models.registry import ModelRegistry
from palaver.plugins import PluginRegistry, load_plugins
from palaver.private_files import make_private_directory
from palaver.server import Server
from palaver.skills import Skill

log = logging.getLogger(__name__)
T = TypeVar("T")


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
    find_model(settings, registry, builder.context)
    return Server(
        settings,
        ledger=builder.ledger(),
        engine=builder.engine(),
        knowledge=builder.knowledge(),
        skills=builder.skills(),
        tools=registry.tools,
        interceptors=builder.interceptors(),
        channels=builder.channels(),
        cookie_secrets=load_cookie_secrets(settings),
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

    def ledger(self) -> Ledger:
        return self._build("ledger", "use", self._settings.ledger.use, self._registry.ledgers)

    def knowledge(self) -> KnowledgeBase:
        name = self._settings.knowledge.use
        return self._build("knowledge", "use", name, self._registry.knowledge)

    def interceptors(self) -> list[Interceptor]:
        names = self._settings.interceptors.enabled
        return self._build_all("interceptors", names, self._registry.interceptors)

    def channels(self) -> list[Channel]:
        return self._build_all("channels", self._settings.channels.enabled, self._registry.channels)

    def skills(self) -> dict[str, Skill]:
        return {
            name: skill(plugin_settings(self._settings, "skills", name, skill.Settings))
            for name, skill in self._registry.skills.items()
        }

    def _build_all(
        self, section: str, names: Iterable[str], backends: Mapping[str, Backend[T]]
    ) -> list[T]:
        return [self._build(section, "enabled", name, backends) for name in names]

    def _build(self, section: str, key: str, name: str, backends: Mapping[str, Backend[T]]) -> T:
        backend = backends.get(name)
        if backend is None:
            raise ConfigurationError(describe_unknown_name(f"{section}.{key}", name, backends))
        own = plugin_settings(self._settings, section, name, backend.settings)
        return backend.build(own, self.context)
