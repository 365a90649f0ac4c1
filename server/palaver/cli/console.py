"""Console: settings and plugins for every command, exit codes, and the group of all commands."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from palaver.config.loading import (
    DEFAULT_FILE,
    find_settings_file,
    load_settings,
    plugin_settings,
)
from palaver.config.settings import Settings
from palaver.config.validation import ModelT
from palaver.control_characters import escape_controls, escape_json
from palaver.embedding import start_embedder
from palaver.errors import (
    CallerError,
    ConfigurationError,
    EngineError,
    PalaverError,
    PluginError,
    ServerError,
    contained,
    part_name,
)
from palaver.hooks import BuildContext
from palaver.knowledge import KnowledgeBase, SearchByMeaning
from palaver.ledger import Ledger
from palaver.models.choices import Launch
from palaver.plugins import PluginRegistry, load_plugins

if TYPE_CHECKING:
    from palaver.app import BackendBuilder
    from palaver.fetching import Fetcher

T = TypeVar("T")

EXIT_FAILED = 2
"""Wrong usage or a request that cannot be fulfilled; also click's own code for usage errors."""
EXIT_UNAVAILABLE = 69
"""EX_UNAVAILABLE of sysexits.h: the ledger, the engine or another service is not available."""
EXIT_STOP_TIMEOUT = 75
"""EX_TEMPFAIL of sysexits.h: the server did not stop within ``server.grace``."""
EXIT_MISCONFIGURED = 78
"""EX_CONFIG of sysexits.h: the settings or the plugins must be corrected."""
EXIT_INTERRUPTED = 130
"""Ctrl-C, as shells report it."""

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
            with contained(part_name("ledger", ledger)):
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

    def find_server(self) -> str | None:
        """Return the URL of the server that runs at the address of the settings, if one does."""
        from palaver.cli.local_server import find_server  # loads aiohttp

        return find_server(self.settings.server)

    def plugin_settings(self, section: str, name: str, model: type[ModelT]) -> ModelT:
        """Return the table ``[section.name]`` as a plugin's ``model``. Raises
        `ConfigurationError`."""
        return plugin_settings(self.settings, section, name, model)

    @contextlib.asynccontextmanager
    async def open_knowledge(self, *, by_meaning: bool = False) -> AsyncIterator[KnowledgeBase]:
        """Start the knowledge base that the settings choose, and close it afterwards.

        ``by_meaning``: with vectors, where another embedder than the server's engine makes them.
        """
        knowledge = self.builder.knowledge()
        embedder = self.builder.embedder() if by_meaning else None
        async with contextlib.AsyncExitStack() as stack:
            with contained(part_name("knowledge base", knowledge)):
                await knowledge.start()
            stack.push_async_callback(knowledge.close)
            if embedder is not None and isinstance(knowledge, SearchByMeaning):
                stack.push_async_callback(embedder.close)
                required = bool(self.settings.embedding.use)
                if embeddings := await start_embedder(embedder, required=required):
                    knowledge.use_embeddings(embeddings, embeddings.model)
            yield knowledge

    def make_fetcher(self) -> "Fetcher":
        """Return a fetcher by the rules of ``[fetch]``, for addresses that the operator has named.
        It works as ``async with``."""
        from palaver.fetching import Fetcher  # loads aiohttp

        return Fetcher(self.settings.fetch.model_copy(update={"only_written": False}))


def find_launch(console: Console) -> Launch:
    """Return how a server starts with a console's settings: which file it reads, or will read."""
    file = find_settings_file(console.settings_path, os.environ) or DEFAULT_FILE
    return Launch(settings_file=str(file.absolute()), overrides=console.overrides)


class PluginGroup(click.Group):
    """A group of built-in commands and of commands that plugins contribute."""

    def find_commands(self, registry: PluginRegistry) -> dict[str, click.Command]:
        """Return the plugins' commands of this group."""
        raise NotImplementedError

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        built_in = super().get_command(ctx, cmd_name)
        return built_in or self._plugin_commands(ctx).get(cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._plugin_commands(ctx)})

    def _plugin_commands(self, ctx: click.Context) -> dict[str, click.Command]:
        console = ctx.obj or Console(None, ())
        try:
            return self.find_commands(console.registry)
        except PalaverError:
            return {}  # the command itself reports what is wrong with the configuration


class ChannelGroup(PluginGroup):
    """The commands for every channel, and those of single channels under the channels' names."""

    def find_commands(self, registry: PluginRegistry) -> dict[str, click.Command]:
        return {
            name: command
            for name, command in registry.commands.items()
            if registry.is_channel_command(name)
        }


class CommandGroup(PluginGroup):
    """All commands.

    An expected error is one line on standard error and the exit code of `exit_code`; an unexpected
    one keeps its traceback.
    """

    def find_commands(self, registry: PluginRegistry) -> dict[str, click.Command]:
        return {
            name: command
            for name, command in registry.commands.items()
            if not registry.is_channel_command(name)
        }

    def main(self, *args: Any, **kwargs: Any) -> Any:  # Any: click's own
        sys.excepthook = _print_traceback
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:  # Any: click's own
        with _escaping_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:  # Any: click's own
        try:
            with _escaping_usage_errors():
                return super().invoke(ctx)
        except PalaverError as error:
            echo(indent_lines(f"palaver: {error}", "  "), keep_lines=True, err=True)
            ctx.exit(exit_code(error))
        except UnicodeEncodeError as error:  # of an argument: bytes that are not UTF-8
            echo(f"palaver: {error.object!r} is not valid UTF-8", err=True)
            ctx.exit(EXIT_FAILED)


# Printing. Every command prints with these functions, so that nothing from outside reaches the
# terminal as it is.


def echo(
    text: str = "",
    *,
    keep_lines: bool = False,
    nl: bool = True,
    err: bool = False,
    **style: Any,  # Any: click's own
) -> None:
    """Print a line, without the control characters in it. ``style``: arguments of `click.style`.

    ``keep_lines`` prints a text of several lines; without it a newline in a name cannot begin a
    line that looks like ours.
    """
    escaped = escape_controls(text, keep_lines=keep_lines)
    shown = click.style(escaped, **style) if style else escaped
    click.echo(shown, nl=nl, err=err)  # noqa: TID251


def echo_over(text: str) -> None:
    """Print a line on standard error, a terminal, in place of the last one printed so."""
    click.echo(f"\r\x1b[2K{escape_controls(text)}", nl=False, err=True)  # noqa: TID251


def echo_row(key: str, value: str) -> None:
    """Print a row of a table. The further lines of ``value`` are indented."""
    row = f"{escape_controls(key):<14}{value}"
    echo(indent_lines(row, " " * 14), keep_lines=True)


def indent_lines(text: str, indent: str) -> str:
    """Indent all lines but the first, so that none of them can look like a first one."""
    return f"\n{indent}".join(text.split("\n"))


def format_time(at: float) -> str:
    """Return a time in seconds since the epoch, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def print_json(value: object) -> None:
    """Print a value that msgspec can encode."""
    echo(encode_json(value), keep_lines=True)


def encode_json(value: object) -> str:
    """Return a value that msgspec can encode as JSON that a terminal can show."""
    return escape_json(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False))


@contextlib.contextmanager
def _escaping_usage_errors() -> Iterator[None]:
    """Escape the messages of click's errors, which repeat arguments."""
    try:
        yield
    except click.ClickException as error:
        escaped = indent_lines(escape_controls(error.message, keep_lines=True), "  ")
        error.message = escaped  # type: ignore[misc]  # final, but each error formats it in its way
        raise


def _print_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print an unexpected error, in place of the interpreter."""
    lines = "".join(traceback.format_exception(kind, error, trace))
    echo(lines, keep_lines=True, nl=False, err=True)
