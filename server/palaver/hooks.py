"""The hook specifications: every seam a plugin can fill.

A plugin is an installed package with one line of metadata::

    [project.entry-points.palaver]
    my_plugin = "my_package.module"

The module implements any of the hooks below, each decorated with `hookimpl`; or it simply defines
`palaver.Skill` subclasses, which are then registered as they are. Hooks are synchronous, called
once when the server is built, and return declarations; after that the registry is frozen.
"""

import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import pluggy

from palaver.channels import Channel
from palaver.config.settings import PluginSettings
from palaver.engine import Engine
from palaver.knowledge import KnowledgeBase
from palaver.ledger import Ledger
from palaver.skills import Skill
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
    """What a backend may know about the server that builds it.

    ``data`` is the directory for its files. ``model`` turns a model name into a directory.
    """

    data_directory: Path
    resolve_model: Callable[[str], Path]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backend(Generic[T]):
    """A named implementation, chosen by ``use = "name"`` in the settings' section.

    ``settings`` is validated from ``[section.name]``; ``build`` makes the instance and must not
    open anything: that is what the instance's ``start`` is for.
    """

    name: str
    settings: type[PluginSettings]
    build: Callable[[Any, BuildContext], T]  # Any: an instance of `settings`


class Interceptor(Protocol):
    """Behaviour around every turn: guards, redaction, tracing.

    ``intercept`` awaits ``call_next()`` once to go on, or answers itself and does not.
    """

    async def intercept(self, turn: Turn, call_next: Callable[[], Awaitable[None]]) -> None: ...


class Hooks:
    """The specifications. Every one returns an iterable of declarations, or None for none."""

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

        Returns tools. Called once at start-up. Implemented by packages that act on the world.
        """

    @hookspec
    def palaver_register_commands(self) -> "Iterable[click.Command] | None":
        """Contribute subcommands of ``palaver``.

        Returns click commands. Called when the command line starts. Implemented by plugins with
        something to administer.
        """
