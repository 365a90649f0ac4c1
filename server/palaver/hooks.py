"""Hook specifications: everything that a plugin can contribute.

A plugin is an installed package with one line of metadata::

    [project.entry-points.palaver]
    my_plugin = "my_package.module"

The module implements any of the hooks below, each decorated with `hookimpl`. Without the hook for
skills or tools, the `Skill` classes or tools that it defines are registered. Hooks are synchronous,
are called once when the server is built, and return declarations; then the registry is frozen.
docs/hooks.md has an example of each.
"""

import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import pluggy
import pydantic

from palaver.channels import Channel
from palaver.config.settings import PluginSettings
from palaver.embedding import Embedder
from palaver.engine import Engine
from palaver.knowledge import KnowledgeBase
from palaver.ledger import Ledger
from palaver.skills import Skill
from palaver.tool_sources import ToolSource
from palaver.tools import Tool
from palaver.turns.turn import Turn

if TYPE_CHECKING:  # only the command line needs click
    import click

PROJECT = "palaver"
T = TypeVar("T", covariant=True)
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclasses.dataclass(frozen=True, slots=True)
class BuildContext:
    """The server's services for a backend that it builds.

    ``data_directory`` is for its files. ``resolve_model`` turns a model name into a directory.
    """

    data_directory: Path
    resolve_model: Callable[[str], Path]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backend(Generic[T]):
    """A named implementation, chosen by ``use = "name"`` in the settings' section.

    ``settings`` is validated from ``[section.name]``; ``build`` makes the instance and must not
    open anything: the instance's ``start`` does that.
    """

    name: str
    settings: type[PluginSettings]
    build: Callable[[Any, BuildContext], T]  # Any: an instance of `settings`


class Interceptor(Protocol):
    """Behaviour around every turn: guards, redaction, tracing."""

    async def intercept(
        self, turn: Turn[pydantic.BaseModel], call_next: Callable[[], Awaitable[None]]
    ) -> None:
        """Await ``call_next()`` once, which lets the skill answer, or answer and do not call it.

        ``turn.skill`` is chosen. Until ``call_next()`` validates the skill's arguments, and asks
        for missing ones, ``turn.arguments`` are `UnvalidatedArguments`.
        """


class Hooks:
    """Hook specifications. Each returns an iterable of declarations, or None for none."""

    @hookspec
    def palaver_register_skills(self) -> Iterable[type[Skill]] | None:
        """Contribute skills.

        Returns Skill classes; each is built once per server. Called once at start-up.
        Implemented by packages that answer people.
        """

    @hookspec
    def palaver_register_channels(self) -> Iterable[Backend[Channel]] | None:
        """Contribute channels: where messages come from and replies go.

        Returns backends; one runs only when ``channels.enabled`` names it, since it opens network
        routes. Called once at start-up. Implemented by bridges to chat platforms.
        """

    @hookspec
    def palaver_register_engines(self) -> Iterable[Backend[Engine]] | None:
        """Contribute engines. The setting ``engine.use`` picks one.

        Returns backends. Called once at start-up. Implemented by adapters to model servers.
        """

    @hookspec
    def palaver_register_embedders(self) -> Iterable[Backend[Embedder]] | None:
        """Contribute embedders, which turn texts into vectors. ``embedding.use`` picks one.

        Returns backends. Called once at start-up. Implemented by adapters to embedding models.
        """

    @hookspec
    def palaver_register_ledgers(self) -> Iterable[Backend[Ledger]] | None:
        """Contribute ledgers. The setting ``ledger.use`` picks one.

        Returns backends. Called once at start-up. Implemented by adapters to durable stores.
        """

    @hookspec
    def palaver_register_knowledge(self) -> Iterable[Backend[KnowledgeBase]] | None:
        """Contribute knowledge bases. The setting ``knowledge.use`` picks one.

        Returns backends. Called once at start-up. Implemented by adapters to search indexes.
        """

    @hookspec
    def palaver_register_interceptors(self) -> Iterable[Backend[Interceptor]] | None:
        """Contribute interceptors, which wrap every turn.

        Returns backends; those named in ``interceptors.enabled`` run, in that order, the first
        outermost. Called once at start-up. Implemented by guards, redaction and tracing.
        """

    @hookspec
    def palaver_register_tools(self) -> Iterable[Tool] | None:
        """Contribute tools, which skills call by name with ``turn.call_tool``.

        Returns functions that `palaver.tool` decorates. Called once at start-up. Implemented by
        packages with functions for skills and models.
        """

    @hookspec
    def palaver_register_tool_sources(self) -> Iterable[Backend[ToolSource]] | None:
        """Contribute sources of tools that come and go while the server runs.

        Returns backends; those named in ``tool_sources.enabled`` run. Called once at start-up.
        Implemented by adapters to other programs that have tools.
        """

    @hookspec
    def palaver_register_commands(self) -> "Iterable[click.Command] | None":
        """Contribute subcommands of ``palaver``.

        Returns click commands; one with the name of a channel of the same plugin is a subcommand
        of ``palaver channels``. Called when the command line starts. Implemented by plugins that
        need administration.
        """
