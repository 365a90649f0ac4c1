"""Builds a server from settings, and serves its web surface."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeVar

from aiohttp import web

from palaver.authentication import check_bind
from palaver.config.loading import plugin_settings, validate_plugin_settings
from palaver.config.settings import Settings
from palaver.errors import ConfigurationError
from palaver.hooks import Backend, BuildContext
from palaver.knowledge import KnowledgeBase
from palaver.ledger import Ledger
from palaver.models.registry import ModelRegistry
from palaver.plugins import PluginRegistry, load_plugins
from palaver.server import Server
from palaver.skills import Skill
from palaver.web import ACTIVE_REQUESTS, ActiveRequests, make_application

log = logging.getLogger(__name__)
T = TypeVar("T")

GOODBYE = 1.0
"""Seconds that open connections get to end when all who used them have been dismissed."""


def build_server(settings: Settings, registry: PluginRegistry | None = None) -> Server:
    """A server of the installed plugins, as the settings choose them.

    Raises `ConfigurationError` naming the setting that is wrong.
    """
    if registry is None:
        registry = load_plugins(disabled=settings.plugins.disabled, strict=settings.plugins.strict)
    for failure in registry.failures:
        log.error("%s", failure)
    validate_plugin_settings(settings, registry)
    check_bind(settings)
    for key in settings.auth.keys.values():
        key.secret.reveal()  # one that leads nowhere is told before the engine is loaded
    build_context = make_build_context(settings)

    def used(section: str, name: str, backends: Mapping[str, Backend[T]]) -> T:
        return build(settings, section, "use", name, backends=backends, build_context=build_context)

    def enabled(section: str, names: Sequence[str], backends: Mapping[str, Backend[T]]) -> list[T]:
        return [
            build(
                settings, section, "enabled", name, backends=backends, build_context=build_context
            )
            for name in names
        ]

    return Server(
        settings,
        ledger=build_ledger(settings, registry, build_context),
        engine=used("engine", settings.engine.use, registry.engines),
        knowledge=build_knowledge(settings, registry, build_context),
        skills=build_skills(settings, registry),
        tools=registry.tools,
        interceptors=enabled("interceptors", settings.interceptors.enabled, registry.interceptors),
        channels=enabled("channels", settings.channels.enabled, registry.channels),
    )


def make_build_context(settings: Settings) -> BuildContext:
    """The server's data directory, made if need be. Raises `ConfigurationError`."""
    data = settings.server.data
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"server.data {str(data)!r}: {error.strerror}") from error
    return BuildContext(data_directory=data, resolve_model=ModelRegistry(data).resolve)


def build(
    settings: Settings,
    section: str,
    key: str,
    name: str,
    *,
    backends: Mapping[str, Backend[T]],
    build_context: BuildContext,
) -> T:
    """Build the backend that the setting ``section.key`` names, with its own settings."""
    backend = backends.get(name)
    if backend is None:
        raise ConfigurationError(
            f"{section}.{key} names {name!r}; installed are: {', '.join(sorted(backends))}"
        )
    own = plugin_settings(settings, section, name, backend.settings)
    return backend.build(own, build_context)


def build_knowledge(
    settings: Settings, registry: PluginRegistry, build_context: BuildContext
) -> KnowledgeBase:
    name = settings.knowledge.use
    return build(
        settings, "knowledge", "use", name, backends=registry.knowledge, build_context=build_context
    )


def build_ledger(
    settings: Settings, registry: PluginRegistry, build_context: BuildContext
) -> Ledger:
    name = settings.ledger.use
    return build(
        settings, "ledger", "use", name, backends=registry.ledgers, build_context=build_context
    )


def build_skills(settings: Settings, registry: PluginRegistry) -> dict[str, Skill]:
    return {
        name: skill(plugin_settings(settings, "skills", name, skill.Settings))
        for name, skill in registry.skills.items()
    }


@contextlib.asynccontextmanager
async def listening(server: Server) -> AsyncIterator[str]:
    """Serve the web surface of a server that is alive; yields its address.

    Raises `ConfigurationError` when the address cannot be used.
    """
    settings = server.settings
    check_bind(settings)
    application = make_application(server)
    runner = web.AppRunner(
        application, access_log=None, handle_signals=False, shutdown_timeout=GOODBYE
    )
    await runner.setup()
    try:
        yield await _listen(runner, settings.server.host, settings.server.port)
    finally:
        try:
            active_requests = application[ACTIVE_REQUESTS]
            await server.shut_down(
                lambda: _stop_listening(runner, active_requests), lambda: active_requests.count
            )
        finally:
            await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> str:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    bound = runner.addresses[0][1]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{bound}/"


async def _stop_listening(runner: web.AppRunner, active_requests: ActiveRequests) -> None:
    """No new connections, and no further request on those that there are."""
    for site in list(runner.sites):
        await site.stop()
    await asyncio.sleep(0)  # what has come in is begun, and not mistaken for an idle connection
    if runner.server is not None:
        active_requests.close_idle(runner.server)
