"""Builds a server from settings, and serves its web surface."""

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import TypeVar

from aiohttp import web

from palaver.configuration import validate_plugin_settings
from palaver.errors import ConfigurationError
from palaver.hooks import Backend, Site
from palaver.models import ModelRegistry
from palaver.plugins import Registry, load_plugins
from palaver.server import Server
from palaver.settings import ChoiceSettings, EnabledSettings, Settings
from palaver.skills import Skill
from palaver.web import check_bind, make_application

log = logging.getLogger(__name__)
T = TypeVar("T")


def build_server(settings: Settings, registry: Registry | None = None) -> Server:
    """A server of the installed plugins, as the settings choose them.

    Raises `ConfigurationError` naming the setting that is wrong.
    """
    if registry is None:
        registry = load_plugins(disabled=settings.plugins.disabled, strict=settings.plugins.strict)
    for failure in registry.failures:
        log.error("%s", failure)
    validate_plugin_settings(settings, registry)
    site = make_site(settings)
    return Server(
        settings,
        ledger=choose("ledger", settings.ledger, registry.ledgers, site),
        engine=choose("engine", settings.engine, registry.engines, site),
        knowledge=choose("knowledge", settings.knowledge, registry.knowledge, site),
        skills=_build_skills(settings, registry),
        tools=registry.tools,
        interceptors=_enabled("interceptors", settings.interceptors, registry.interceptors, site),
        channels=_enabled("channels", settings.channels, registry.channels, site),
    )


def make_site(settings: Settings) -> Site:
    """The server's data directory, made if need be. Raises `ConfigurationError`."""
    data = settings.server.data
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"server.data {str(data)!r}: {error.strerror}") from error
    return Site(data=data, model=ModelRegistry(data).resolve)


def choose(
    section: str, chosen: ChoiceSettings, backends: Mapping[str, Backend[T]], site: Site
) -> T:
    """Build the backend that ``use`` names."""
    backend = _find(f"{section}.use", chosen.use, backends)
    return backend.build(backend.settings.model_validate(chosen.of(chosen.use)), site)


def _enabled(
    section: str, chosen: EnabledSettings, backends: Mapping[str, Backend[T]], site: Site
) -> list[T]:
    found = [_find(f"{section}.enabled", name, backends) for name in chosen.enabled]
    return [b.build(b.settings.model_validate(chosen.of(b.name)), site) for b in found]


def _find(setting: str, name: str, backends: Mapping[str, Backend[T]]) -> Backend[T]:
    if name not in backends:
        raise ConfigurationError(f"{setting} names {name!r}; installed are: {sorted(backends)}")
    return backends[name]


def _build_skills(settings: Settings, registry: Registry) -> dict[str, Skill]:
    return {
        name: skill(skill.Settings.model_validate(settings.skills.get(name, {})))
        for name, skill in registry.skills.items()
    }


@contextlib.asynccontextmanager
async def listening(server: Server) -> AsyncIterator[str]:
    """Serve the web surface of a server that is alive; yields its address.

    Raises `ConfigurationError` when the address cannot be used.
    """
    settings = server.settings
    check_bind(settings)
    application = make_application(
        reception=server,
        settings=settings,
        metrics=server.metrics,
        readiness=server.readiness,
        about=server.about,
        channels=server.channels,
    )
    runner = web.AppRunner(application, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        yield await _listen(runner, settings.server.host, settings.server.port)
    finally:
        server.draining = True
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> str:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    bound = runner.addresses[0][1]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{bound}/"
