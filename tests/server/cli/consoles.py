"""Consoles with the plugins of the tests."""

import asyncio
import contextlib
import functools
import importlib.metadata
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from tests.ports import free_port
from tests.server.config import settings_plugin

from palaver.cli.console import Console
from palaver.plugins import PluginRegistry, load_plugins

PORT = free_port()
"""Not the default: a server may run there."""
KIT = (
    "engine.use=echo",
    "ledger.use=memory",
    "knowledge.use=list",
    "routing.default=parrot",
    f"server.port={PORT}",
)


class KitConsole(Console):
    """A console with the plugins of the tests only."""

    plugins: ClassVar[dict[str, str]] = {"kit": settings_plugin.__name__}

    @functools.cached_property
    def registry(self) -> PluginRegistry:
        points = [
            importlib.metadata.EntryPoint(name, module, "palaver")
            for name, module in self.plugins.items()
        ]
        plugins = self.settings.plugins
        return load_plugins(points, disabled=plugins.disabled, strict=plugins.strict)


class TwoSkillsConsole(KitConsole):
    plugins: ClassVar[dict[str, str]] = {
        **KitConsole.plugins,
        "translation": "palaver_skills.translation",
    }


class BrokenConsole(KitConsole):
    plugins: ClassVar[dict[str, str]] = {**KitConsole.plugins, "broken": "tests.no_such_module"}


class RealConsole(KitConsole):
    plugins: ClassVar[dict[str, str]] = {
        **KitConsole.plugins,
        "openvino": "palaver_plugins.engines.openvino",
        "redis": "palaver_plugins.ledgers.redis",
        "sqlite": "palaver_plugins.ledgers.sqlite",
    }


@contextlib.contextmanager
def locked_ledger(console: Console) -> Iterator[None]:
    """Use the console's ledger in another thread, as another server would."""
    _ = console.registry, console.builder
    with ThreadPoolExecutor() as executor:
        ready, done = threading.Event(), threading.Event()

        async def use() -> None:
            async with console.open_ledger():
                ready.set()
                await asyncio.to_thread(done.wait)

        future = executor.submit(asyncio.run, use())
        try:
            ready.wait(5)
            yield
        finally:
            done.set()
            future.result(5)
