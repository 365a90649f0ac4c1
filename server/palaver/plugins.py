"""Finds, loads, checks and freezes plugins; the typed face of pluggy.

Each plugin is loaded behind its own barrier: one that fails is reported with its version and the
cause, and the rest start. What is wrong between plugins (two of the same name) is refused.
"""

import difflib
import importlib.metadata
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import pluggy
import pydantic

from palaver.engine import Engine
from palaver.errors import ConfigurationError, NameCollision, PluginLoadError
from palaver.hooks import PROJECT, Backend, Hooks, Interceptor, hookimpl
from palaver.knowledge import KnowledgeBase
from palaver.ledger import Ledger
from palaver.messages import ConcurrencyPolicy
from palaver.skills import Skill
from palaver.tools import Tool

if TYPE_CHECKING:
    import click

    from palaver.channels import Channel

GROUP = "palaver"
SKILL_NAME = re.compile(r"[a-z0-9_-]{1,40}")
HOOK_PREFIX = "palaver_register_"
POLICIES = get_args(ConcurrencyPolicy)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """A plugin: the entry point's ``name`` and the distribution that brings it."""

    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True, slots=True)
class Failure:
    """A plugin that was left out, and why."""

    source: Source
    cause: str

    def __str__(self) -> str:
        return f"plugin {self.source} was left out: {self.cause}"


@dataclass(frozen=True, slots=True)
class Registry:
    """Everything that the plugins contribute, by name. Never changes once it is loaded."""

    skills: Mapping[str, type[Skill]]
    channels: "Mapping[str, Backend[Channel]]"
    engines: Mapping[str, Backend[Engine]]
    ledgers: Mapping[str, Backend[Ledger]]
    knowledge: Mapping[str, Backend[KnowledgeBase]]
    interceptors: Mapping[str, Backend[Interceptor]]
    tools: Mapping[str, Tool]
    commands: "Mapping[str, click.Command]"
    failures: tuple[Failure, ...]
    owners: Mapping[tuple[str, str], Source]
    """(kind, name) → the plugin that contributed it."""


@dataclass(slots=True)
class _Shelf:
    """What one plugin contributes, by kind."""

    source: Source
    contributions: dict[str, list[Any]] = field(default_factory=dict)  # declarations of the hooks


KINDS = (
    "skills",
    "channels",
    "engines",
    "ledgers",
    "knowledge",
    "interceptors",
    "tools",
    "commands",
)


def load_plugins(
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    *,
    disabled: Sequence[str] = (),
    strict: bool = False,
) -> Registry:
    """Load every installed plugin, in the order of their names.

    Raises `NameCollision`, `ConfigurationError` for an unknown name in ``disabled``; with
    ``strict``, `PluginLoadError` on the first failure as well.
    """
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=GROUP)
    entry_points = list(entry_points)
    names = {entry_point.name for entry_point in entry_points}
    for name in disabled:
        if name not in names:
            raise ConfigurationError(
                f"plugins.disabled names {name!r}; installed are: {', '.join(sorted(names))}"
            )
    shelves: list[_Shelf] = []
    failures: list[Failure] = []
    for entry_point in sorted(entry_points, key=lambda e: e.name):
        if entry_point.name in disabled:
            continue
        source = _source(entry_point)
        try:
            shelves.append(read_plugin(source, entry_point.load()))
        except Exception as error:
            failure = Failure(source, _cause(error))
            if strict:
                raise PluginLoadError(str(failure)) from error
            failures.append(failure)
    return _merge(shelves, failures)


def read_plugin(source: Source, plugin: object) -> _Shelf:
    """What a loaded plugin contributes, checked. Raises `PluginLoadError`."""
    shelf = _Shelf(source, {kind: [] for kind in KINDS})
    shelf.contributions["skills"] += _defined_skills(plugin)
    for kind, implementation in _hook_implementations(source, plugin):
        contributed = implementation()
        if inspect.iscoroutine(contributed):
            contributed.close()
            raise PluginLoadError(f"{HOOK_PREFIX}{kind} is async; hooks are plain functions")
        shelf.contributions[kind] += contributed or ()
    for kind, declarations in shelf.contributions.items():
        for declaration in declarations:
            _check(kind, declaration)
    if not any(shelf.contributions.values()):
        raise PluginLoadError("it contributes nothing: no Skill is defined and no hook implemented")
    return shelf


def _source(entry_point: importlib.metadata.EntryPoint) -> Source:
    distribution = entry_point.dist
    if distribution is None:
        return Source(entry_point.name, "unknown", "?")
    return Source(entry_point.name, distribution.name, distribution.version)


def _cause(error: Exception) -> str:
    if isinstance(error, PluginLoadError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _defined_skills(plugin: object) -> list[type[Skill]]:
    """The Skill classes that a module defines itself; imported ones belong to another plugin."""
    if inspect.isclass(plugin) and issubclass(plugin, Skill):
        return [plugin]
    if not isinstance(plugin, types.ModuleType) or hasattr(plugin, f"{HOOK_PREFIX}skills"):
        return []
    return [
        value
        for value in vars(plugin).values()
        if inspect.isclass(value)
        and issubclass(value, Skill)
        and value.__module__ == plugin.__name__
        and "name" in vars(value)
    ]


def _hook_implementations(
    source: Source, plugin: object
) -> list[tuple[str, Callable[[], Iterable[object] | None]]]:
    """The plugin's hooks, as pluggy finds and verifies them, by kind."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    _refuse_undecorated(plugin)
    manager.register(plugin, source.name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginLoadError(_misspelt(plugin) or str(error)) from error
    return [
        (kind, implementation.function)
        for kind in KINDS
        for implementation in getattr(manager.hook, HOOK_PREFIX + kind).get_hookimpls()
    ]


def _hook_like(plugin: object) -> list[str]:
    return [name for name in dir(plugin) if name.startswith(HOOK_PREFIX)]


def _refuse_undecorated(plugin: object) -> None:
    for name in _hook_like(plugin):
        if not hasattr(getattr(plugin, name), f"{PROJECT}_impl"):
            raise PluginLoadError(f"{name} is not decorated with @{hookimpl.__module__}.hookimpl")


def _misspelt(plugin: object) -> str:
    known = [HOOK_PREFIX + kind for kind in KINDS]
    for name in dir(plugin):
        if name not in known and hasattr(getattr(plugin, name), f"{PROJECT}_impl"):
            close = difflib.get_close_matches(name, known, 1, 0.0)
            return f"there is no hook {name!r}; did you mean {close[0]!r}?"
    return ""


def _check(kind: str, declaration: object) -> None:
    if kind == "skills":
        check_skill(declaration)
    elif kind == "tools":
        _expect(declaration, Tool, kind)
    elif kind != "commands":
        _expect(declaration, Backend, kind)


def _expect(declaration: object, wanted: type, kind: str) -> None:
    if not isinstance(declaration, wanted):
        raise PluginLoadError(
            f"{HOOK_PREFIX}{kind} returned {declaration!r}, not a {wanted.__name__}"
        )


def check_skill(skill: object) -> type[Skill]:
    """Refuse a skill class that cannot work. Raises `PluginLoadError` with what to mend."""
    if not (inspect.isclass(skill) and issubclass(skill, Skill)):
        raise PluginLoadError(f"{HOOK_PREFIX}skills returned {skill!r}, not a Skill class")
    label = f"skill {skill.__name__}"
    name = getattr(skill, "name", None)
    if not isinstance(name, str) or not SKILL_NAME.fullmatch(name):
        raise PluginLoadError(f"{label}: name {name!r} is not 1 to 40 characters of a-z0-9_-")
    if not skill.description():
        raise PluginLoadError(f"{label}: it needs a docstring; its first line describes it")
    if skill.answer is Skill.answer or not inspect.iscoroutinefunction(skill.answer):
        raise PluginLoadError(f"{label}: it needs `async def answer(self, turn)`")
    if isinstance(skill.examples, str) or isinstance(skill.patterns, str):
        raise PluginLoadError(f"{label}: examples and patterns are tuples of strings, not a string")
    if not (inspect.isclass(skill.Arguments) and issubclass(skill.Arguments, pydantic.BaseModel)):
        raise PluginLoadError(f"{label}: Arguments is not a pydantic model")
    if skill.concurrency_policy not in (None, *POLICIES):
        raise PluginLoadError(
            f"{label}: concurrency_policy is {skill.concurrency_policy!r}, "
            f"not one of {', '.join(POLICIES)}"
        )
    for pattern in skill.patterns:
        _check_pattern(label, skill, pattern)
    return skill


def _check_pattern(label: str, skill: type[Skill], pattern: str) -> None:
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise PluginLoadError(f"{label}: pattern {pattern!r} does not compile: {error}") from error
    unknown = set(groups) - set(skill.Arguments.model_fields)
    if unknown:
        raise PluginLoadError(
            f"{label}: pattern {pattern!r} fills {sorted(unknown)}, "
            f"but Arguments has {sorted(skill.Arguments.model_fields)}"
        )


def _name(declaration: Any) -> str:  # Any: a declaration of any kind
    return str(declaration.name)


def _merge(shelves: Sequence[_Shelf], failures: Sequence[Failure]) -> Registry:
    owners: dict[tuple[str, str], Source] = {}

    def gather(kind: str) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for shelf in shelves:
            for declaration in shelf.contributions[kind]:
                name = _name(declaration)
                other = owners.setdefault((kind, name), shelf.source)
                if name in found:
                    raise NameCollision(
                        f"{kind}: {name!r} is contributed by {other} and by {shelf.source}; "
                        "disable one with plugins.disabled"
                    )
                found[name] = declaration
        return types.MappingProxyType(found)

    return Registry(
        **{kind: gather(kind) for kind in KINDS}, failures=tuple(failures), owners=owners
    )
