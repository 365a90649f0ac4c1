"""Console: what every command gets, and the group that holds them."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec

from palaver.config.loading import load_settings
from palaver.config.settings import Settings
from palaver.errors import ConfigurationError, PalaverError
from palaver.hooks import BuildContext
from palaver.knowledge import KnowledgeBase
from palaver.ledger import Ledger
from palaver.plugins import PluginRegistry, load_plugins

T = TypeVar("T")

EXIT_FAILED = 2
EXIT_MISCONFIGURED = 78
"""EX_CONFIG of sysexits.h."""


@dataclasses.dataclass(frozen=True)
class Console:
    """Where a command finds the settings and the plugins; read when first asked for."""

    config: Path | None
    overrides: tuple[str, ...]

    @functools.cached_property
    def settings(self) -> Settings:
        return load_settings(self.config, os.environ, self.overrides)

    @functools.cached_property
    def registry(self) -> PluginRegistry:
        plugins = self.settings.plugins
        return load_plugins(disabled=plugins.disabled, strict=plugins.strict)

    @functools.cached_property
    def build_context(self) -> BuildContext:
        from palaver.app import (
            make_build_context,  # the web framework is not needed for most commands
        )

        return make_build_context(self.settings)

    @contextlib.asynccontextmanager
    async def open_ledger(self) -> AsyncIterator[Ledger]:
        """The ledger that the settings choose, started."""
        from palaver.app import build_ledger

        ledger = build_ledger(self.settings, self.registry, self.build_context)
        try:
            await ledger.start()
            yield ledger
        finally:
            await ledger.close()

    def with_ledger(self, work: Callable[[Ledger], Awaitable[T]]) -> T:
        """Do ``work`` with it. For commands, which are not asynchronous."""
        _ = (
            self.build_context,
            self.registry,
        )  # these read files, which must not happen in the event loop

        async def run() -> T:
            async with self.open_ledger() as ledger:
                return await work(ledger)

        return asyncio.run(run())

    @contextlib.asynccontextmanager
    async def open_knowledge(self) -> AsyncIterator[KnowledgeBase]:
        """The knowledge base that the settings choose, started."""
        from palaver.app import build_knowledge

        knowledge = build_knowledge(self.settings, self.registry, self.build_context)
        await knowledge.start()
        try:
            yield knowledge
        finally:
            await knowledge.close()


class Commands(click.Group):
    """The built-in commands, then those of plugins. An expected failure is one line and an exit
    status, 78 for a bad configuration; a surprise keeps its traceback."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        built_in = super().get_command(ctx, cmd_name)
        return built_in or self._contributed(ctx).get(cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._contributed(ctx)})

    def _contributed(self, ctx: click.Context) -> dict[str, click.Command]:
        console = ctx.obj or Console(None, ())
        try:
            return dict(console.registry.commands)
        except PalaverError:
            return {}  # the command itself will say what is wrong with the configuration

    def invoke(self, ctx: click.Context) -> Any:  # Any: click's own
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            _fail(ctx, error, EXIT_MISCONFIGURED)
        except PalaverError as error:
            _fail(ctx, error, EXIT_FAILED)


def print_json(value: object) -> None:
    """Print what msgspec encodes."""
    click.echo(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False))


def _fail(ctx: click.Context, error: PalaverError, status: int) -> NoReturn:
    click.echo(f"palaver: {error}", err=True)
    ctx.exit(status)
