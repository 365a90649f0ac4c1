"""Console: settings and plugins for every command, exit codes, and the group of all commands."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from palaver.config.loading import load_settings
from palaver.config.settings import Settings
from palaver.errors import (
    CallerError,
    ConfigurationError,
    EngineError,
    PalaverError,
    PluginError,
    ServerError,
)
from palaver.hooks import BuildContext
from palaver.knowledge import KnowledgeBase
from palaver.ledger import Ledger
from palaver.plugins import PluginRegistry, load_plugins

if TYPE_CHECKING:
    from palaver.app import BackendBuilder

T = TypeVar("T")

EXIT_FAILED = 2
"""Wrong usage or a request that cannot be fulfilled; also click's own code for usage errors."""
EXIT_UNAVAILABLE = 69
"""EX_UNAVAILABLE of sysexits.h: the ledger, the engine or another service is not available."""
EXIT_STOP_TIMEOUT = 75
"""EX_TEMPFAIL of sysexits.h: the server did not stop within ``server.grace``."""
EXIT_MISCONFIGURED = 78
"""EX_CONFIG of sysexits.h: the settings or the plugins must be corrected."""

EXIT_CODES: tuple[tuple[type[PalaverError], int], ...] = (
    (ConfigurationError, EXIT_MISCONFIGURED),
    (PluginError, EXIT_MISCONFIGURED),
    (ServerError, EXIT_UNAVAILABLE),
    (EngineError, EXIT_UNAVAILABLE),
    (CallerError, EXIT_FAILED),
    (PalaverError, EXIT_FAILED),
)
"""Exit codes by kind of error; the first match counts. docs/cli.md describes the codes."""


def exit_code(error: PalaverError) -> int:
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


@dataclasses.dataclass(frozen=True)
class Console:
    """Settings and plugins for a command, loaded on first use."""

    settings_path: Path | None
    overrides: tuple[str, ...]
    """Settings of the form ``section.key=value``, which override the file and the environment."""

    def override(self, *overrides: str) -> "Console":
        """Return a console with further ``overrides``."""
        return dataclasses.replace(self, overrides=self.overrides + overrides)

    @functools.cached_property
    def settings(self) -> Settings:
        return load_settings(self.settings_path, os.environ, self.overrides)

    @functools.cached_property
    def registry(self) -> PluginRegistry:
        plugins = self.settings.plugins
        return load_plugins(disabled=plugins.disabled, strict=plugins.strict)

    @functools.cached_property
    def builder(self) -> "BackendBuilder":
        from palaver.app import BackendBuilder, create_data_directory  # most commands need neither

        create_data_directory(self.settings)
        return BackendBuilder(self.settings, self.registry)

    @property
    def build_context(self) -> BuildContext:
        return self.builder.context

    @contextlib.asynccontextmanager
    async def open_ledger(self) -> AsyncIterator[Ledger]:
        """Start the ledger that the settings choose, and close it afterwards."""
        ledger = self.builder.ledger()
        try:
            await ledger.start()
            yield ledger
        finally:
            await ledger.close()

    def run_with_ledger(self, use_ledger: Callable[[Ledger], Awaitable[T]]) -> T:
        """Run ``use_ledger`` with the started ledger and return its result."""
        _ = self.builder  # it reads files, which would block the event loop

        async def run() -> T:
            async with self.open_ledger() as ledger:
                return await use_ledger(ledger)

        return asyncio.run(run())

    @contextlib.asynccontextmanager
    async def open_knowledge(self) -> AsyncIterator[KnowledgeBase]:
        """Start the knowledge base that the settings choose, and close it afterwards."""
        knowledge = self.builder.knowledge()
        await knowledge.start()
        try:
            yield knowledge
        finally:
            await knowledge.close()


class CommandGroup(click.Group):
    """The built-in commands and those of plugins.

    An expected error is one line on standard error and the exit code of `exit_code`; an unexpected
    one keeps its traceback.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        built_in = super().get_command(ctx, cmd_name)
        return built_in or self._plugin_commands(ctx).get(cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._plugin_commands(ctx)})

    def _plugin_commands(self, ctx: click.Context) -> dict[str, click.Command]:
        console = ctx.obj or Console(None, ())
        try:
            return dict(console.registry.commands)
        except PalaverError:
            return {}  # the command itself reports what is wrong with the configuration

    def invoke(self, ctx: click.Context) -> Any:  # Any: click's own
        try:
            return super().invoke(ctx)
        except PalaverError as error:
            click.echo(f"palaver: {error}", err=True)
            ctx.exit(exit_code(error))


def print_json(value: object) -> None:
    """Print a value that msgspec can encode."""
    click.echo(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False))
