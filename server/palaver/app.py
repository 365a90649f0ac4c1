"""Construction of a server from settings, and its web interface."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeVar

from aiohttp import web

from palaver.authentication import check_bind
from palaver.checks import check_settings, describe_unknown_name, find_model
from palaver.config.loading import plugin_settings
from palaver.config.settings import ServerSettings, Settings
from palaver.engine import Engine
from palaver.errors import ConfigurationError, PalaverError, ServerError
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

CONNECTION_CLOSE_TIMEOUT = 1.0
"""Seconds that open connections have to end after the graceful shutdown."""


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
    build_context = make_build_context(settings)
    find_model(settings, registry, build_context)

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
        engine=build_engine(settings, registry, build_context),
        knowledge=build_knowledge(settings, registry, build_context),
        skills=build_skills(settings, registry),
        tools=registry.tools,
        interceptors=enabled("interceptors", settings.interceptors.enabled, registry.interceptors),
        channels=enabled("channels", settings.channels.enabled, registry.channels),
    )


def create_data_directory(settings: Settings) -> None:
    """Create ``server.data``. Raises `ConfigurationError` when that is impossible."""
    data = settings.server.data
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"server.data {str(data)!r}: {error.strerror}") from error


def make_build_context(settings: Settings) -> BuildContext:
    data = settings.server.data
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
    """Build the backend that the setting ``section.key`` names.

    Raises `ConfigurationError` when there is no such backend or its settings are wrong.
    """
    backend = backends.get(name)
    if backend is None:
        raise ConfigurationError(describe_unknown_name(f"{section}.{key}", name, backends))
    own = plugin_settings(settings, section, name, backend.settings)
    return backend.build(own, build_context)


def build_engine(
    settings: Settings, registry: PluginRegistry, build_context: BuildContext
) -> Engine:
    name = settings.engine.use
    return build(
        settings, "engine", "use", name, backends=registry.engines, build_context=build_context
    )


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
    """Serve the web interface of a started server; yield its address.

    Raises `ServerError` when another process uses the port, `ConfigurationError` when the address
    cannot be used for another reason.
    """
    settings = server.settings
    check_bind(settings)
    application = make_application(server)
    runner = web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=CONNECTION_CLOSE_TIMEOUT,
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
        raise _address_error(host, port, error) from error
    bound = runner.addresses[0][1]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{bound}/"


def check_address(server: ServerSettings) -> None:
    """Check that the server can listen at its address now. Raises as `listening` does."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        raise _address_error(server.host, server.port, error) from error


def _address_error(host: str, port: int, error: OSError) -> PalaverError:
    # Another process may stop soon, so a supervisor should try that again.
    kind = ServerError if error.errno == errno.EADDRINUSE else ConfigurationError
    return kind(f"cannot listen on {host}:{port}: {error.strerror}")


async def _stop_listening(runner: web.AppRunner, active_requests: ActiveRequests) -> None:
    """Accept no new connections, and no further requests on open ones."""
    for site in list(runner.sites):
        await site.stop()
    await asyncio.sleep(0)  # lets received requests start, so that their connections are not idle
    if runner.server is not None:
        active_requests.close_idle(runner.server)
