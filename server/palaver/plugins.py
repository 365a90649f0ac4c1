"""Plugin loader: finds, loads and checks plugins, and freezes what they contribute.

A plugin that fails to load is reported with its version and the cause, and the rest start. Two
contributions of one kind with the same name are refused.
"""

import difflib
import importlib.metadata
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import pluggy
import pydantic

from palaver.config.settings import SKILL_MODEL
from palaver.embedding import Embedder
from palaver.engine import Engine
from palaver.errors import (
    ConfigurationError,
    NameCollision,
    PluginLoadError,
    describe_raised,
)
from palaver.hooks import PROJECT, Backend, Hooks, Interceptor
from palaver.knowledge import KnowledgeBase
from palaver.ledger import Ledger
from palaver.messages import ConcurrencyPolicy
from palaver.patterns import compile_pattern
from palaver.skills import Skill
from palaver.tool_sources import ToolSource
from palaver.tools import Tool

if TYPE_CHECKING:
    import click

    from palaver.channels import Channel

ENTRY_POINT_GROUP = "palaver"
SKILL_NAME_PATTERN = re.compile(r"[a-z0-9_-]{1,40}")
HOOK_PREFIX = "palaver_register_"
POLICIES = get_args(ConcurrencyPolicy)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin: the ``name`` of its entry point, and its distribution."""

    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True, slots=True)
class PluginFailure:
    """A plugin that was left out, and the cause."""

    plugin: PluginInfo
    cause: str

    def __str__(self) -> str:
        return f"plugin {self.plugin} was left out: {self.cause}"


@dataclass(frozen=True, slots=True)
class PluginRegistry:
    """Everything that the plugins contribute, by name. Does not change once it is loaded."""

    skills: Mapping[str, type[Skill]]
    channels: "Mapping[str, Backend[Channel]]"
    engines: Mapping[str, Backend[Engine]]
    embedders: Mapping[str, Backend[Embedder]]
    ledgers: Mapping[str, Backend[Ledger]]
    knowledge: Mapping[str, Backend[KnowledgeBase]]
    interceptors: Mapping[str, Backend[Interceptor]]
    tools: Mapping[str, Tool]
    tool_sources: Mapping[str, Backend[ToolSource]]
    commands: "Mapping[str, click.Command]"
    failures: tuple[PluginFailure, ...]
    owners: Mapping[tuple[str, str], PluginInfo]
    """(kind, name) → the plugin that contributed it."""

    def describe(self, section: str, name: str) -> str:
        """Return what is chosen in a section of the settings, with its plugin."""
        kind = section if section in KINDS else KINDS_OF_SECTIONS.get(section, f"{section}s")
        part = section.removesuffix("s").replace("_", " ")
        return f"{part} {name!r} of the plugin {self.owners[kind, name]}"

    def is_channel_command(self, name: str) -> bool:
        """Return whether a command is of the plugin that contributes the channel of its name."""
        channel = self.owners.get(("channels", name))
        return channel is not None and channel == self.owners.get(("commands", name))


@dataclass(slots=True)
class _Contributions:
    """The declarations of one plugin, by kind."""

    plugin: PluginInfo
    by_kind: dict[str, list[Any]]  # Any: a declaration of any kind


KINDS = (
    "skills",
    "channels",
    "engines",
    "embedders",
    "ledgers",
    "knowledge",
    "interceptors",
    "tools",
    "tool_sources",
    "commands",
)

KINDS_OF_SECTIONS = {"embedding": "embedders"}
"""Kinds that are not their section of the settings with an s."""


def load_plugins(
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    *,
    disabled: Sequence[str] = (),
    strict: bool = False,
) -> PluginRegistry:
    """Load every installed plugin, in the order of their names.

    Raises `NameCollision`, `ConfigurationError` for an unknown name in ``disabled``; with
    ``strict``, `PluginLoadError` on the first failure as well.
    """
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    entry_points = list(entry_points)
    names = {entry_point.name for entry_point in entry_points}
    for name in disabled:
        if name not in names:
            raise ConfigurationError(
                f"plugins.disabled names {name!r}; installed are: {', '.join(sorted(names))}"
            )
    loaded: list[_Contributions] = []
    failures: list[PluginFailure] = []
    for entry_point in sorted(entry_points, key=lambda e: e.name):
        if entry_point.name in disabled:
            continue
        plugin = _describe_plugin(entry_point)
        try:
            loaded.append(collect_contributions(plugin, entry_point.load()))
        except BaseException as error:  # a plugin may call sys.exit()
            if type(error) is KeyboardInterrupt:
                raise
            failure = PluginFailure(plugin, _describe_error(error))
            if strict:
                raise PluginLoadError(str(failure)) from error
            failures.append(failure)
    return _merge(loaded, failures)


def collect_contributions(plugin: PluginInfo, loaded: object) -> _Contributions:
    """Return what a loaded plugin contributes, checked. Raises `PluginLoadError`."""
    by_kind: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    by_kind["skills"] += _find_skills(loaded)
    by_kind["tools"] += _find_tools(loaded)
    for kind, implementation in _find_hooks(plugin, loaded):
        contributed = implementation()
        if inspect.iscoroutine(contributed):
            contributed.close()
            raise PluginLoadError(f"{HOOK_PREFIX}{kind} is async; hooks are plain functions")
        by_kind[kind] += contributed or ()
    for kind, declarations in by_kind.items():
        for declaration in declarations:
            _check_declaration(kind, declaration)
    if not any(by_kind.values()):
        raise PluginLoadError(
            "it contributes nothing: it defines no Skill and no tool, and implements no hook"
        )
    return _Contributions(plugin, by_kind)


def _describe_plugin(entry_point: importlib.metadata.EntryPoint) -> PluginInfo:
    distribution = entry_point.dist
    if distribution is None:
        return PluginInfo(entry_point.name, "unknown", "?")
    return PluginInfo(entry_point.name, distribution.name, distribution.version)


def _describe_error(error: BaseException) -> str:
    return str(error) if isinstance(error, PluginLoadError) else describe_raised(error)


def _find_skills(loaded: object) -> list[type[Skill]]:
    """Return the Skill classes that a module defines; imported ones come from another plugin."""
    if inspect.isclass(loaded) and issubclass(loaded, Skill):
        return [loaded]
    return [
        value
        for value in _read_module(loaded, "skills")
        if inspect.isclass(value)
        and issubclass(value, Skill)
        and _is_defined_in(loaded, value.__module__)
        and "name" in vars(value)
    ]


def _find_tools(loaded: object) -> list[Tool]:
    """Return the tools that a module defines; imported ones come from another plugin."""
    return [
        value
        for value in [loaded, *_read_module(loaded, "tools")]
        if isinstance(value, Tool) and _is_defined_in(loaded, value.function.__module__)
    ]


def _read_module(loaded: object, kind: str) -> Iterable[object]:
    """Return a module's values, none when it implements the kind's hook, which then decides."""
    if isinstance(loaded, types.ModuleType) and not hasattr(loaded, HOOK_PREFIX + kind):
        return vars(loaded).values()
    return ()


def _is_defined_in(loaded: object, module: str) -> bool:
    """Return True when ``module`` is the loaded module or a part of the loaded package."""
    if not isinstance(loaded, types.ModuleType):
        return True
    return f"{module}.".startswith(f"{loaded.__name__}.")


def _find_hooks(
    plugin: PluginInfo, loaded: object
) -> list[tuple[str, Callable[[], Iterable[object] | None]]]:
    """Return the plugin's hooks by kind, as pluggy finds and verifies them."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    _refuse_undecorated(loaded)
    manager.register(loaded, plugin.name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginLoadError(_suggest_hook(loaded) or str(error)) from error
    return [
        (kind, implementation.function)
        for kind in KINDS
        for implementation in getattr(manager.hook, HOOK_PREFIX + kind).get_hookimpls()
    ]


def _refuse_undecorated(loaded: object) -> None:
    for name in dir(loaded):
        if name.startswith(HOOK_PREFIX) and not _is_hook(loaded, name):
            raise PluginLoadError(f"{name} is not decorated with @palaver.hookimpl")


def _suggest_hook(loaded: object) -> str:
    known = [HOOK_PREFIX + kind for kind in KINDS]
    for name in dir(loaded):
        if name not in known and _is_hook(loaded, name):
            close = difflib.get_close_matches(name, known, 1, 0.0)
            return f"there is no hook {name!r}; did you mean {close[0]!r}?"
    return ""


def _is_hook(loaded: object, name: str) -> bool:
    return hasattr(getattr(loaded, name), f"{PROJECT}_impl")


def _check_declaration(kind: str, declaration: object) -> None:
    if kind == "skills":
        check_skill(declaration)
    elif kind == "tools":
        _check_type(declaration, Tool, kind)
    elif kind != "commands":
        _check_type(declaration, Backend, kind)
    if not isinstance(getattr(declaration, "name", None), str):
        raise PluginLoadError(f"{HOOK_PREFIX}{kind} returned {declaration!r}, which has no name")


def _check_type(declaration: object, wanted: type, kind: str) -> None:
    if not isinstance(declaration, wanted):
        raise PluginLoadError(
            f"{HOOK_PREFIX}{kind} returned {declaration!r}, not a {wanted.__name__}"
        )


def check_skill(skill: object) -> type[Skill]:
    """Return a skill class that can work. Raises `PluginLoadError` with what to correct."""
    if not (inspect.isclass(skill) and issubclass(skill, Skill)):
        raise PluginLoadError(f"{HOOK_PREFIX}skills returned {skill!r}, not a Skill class")
    label = f"skill {skill.__name__}"
    name = getattr(skill, "name", None)
    if not isinstance(name, str) or not SKILL_NAME_PATTERN.fullmatch(name):
        raise PluginLoadError(f"{label}: name {name!r} is not 1 to 40 characters of a-z0-9_-")
    if not skill.description():
        raise PluginLoadError(f"{label}: it needs a docstring; its first line describes it")
    if skill.answer is Skill.answer or not inspect.iscoroutinefunction(skill.answer):
        raise PluginLoadError(f"{label}: it needs `async def answer(self, turn)`")
    _check_aliases(label, skill)
    if isinstance(skill.examples, str) or isinstance(skill.patterns, str):
        raise PluginLoadError(f"{label}: examples and patterns are tuples of strings, not a string")
    if not (inspect.isclass(skill.Arguments) and issubclass(skill.Arguments, pydantic.BaseModel)):
        raise PluginLoadError(f"{label}: Arguments is not a pydantic model")
    if SKILL_MODEL in skill.Settings.model_fields:
        raise PluginLoadError(
            f"{label}: its Settings have {SKILL_MODEL!r}, a key that every skill's table has: it "
            "names the model that writes for the skill"
        )
    if skill.concurrency_policy not in (None, *POLICIES):
        raise PluginLoadError(
            f"{label}: concurrency_policy is {skill.concurrency_policy!r}, "
            f"not one of {', '.join(POLICIES)}"
        )
    for pattern in skill.patterns:
        _check_pattern(label, skill, pattern)
    return skill


def _check_aliases(label: str, skill: type[Skill]) -> None:
    if isinstance(skill.aliases, str):
        raise PluginLoadError(f"{label}: aliases is a tuple of strings, not a string")
    for alias in skill.aliases:
        if not (isinstance(alias, str) and SKILL_NAME_PATTERN.fullmatch(alias.lower())):
            raise PluginLoadError(f"{label}: alias {alias!r} is not 1 to 40 of A-Za-z0-9_-")


def _check_pattern(label: str, skill: type[Skill], pattern: str) -> None:
    try:
        groups = compile_pattern(pattern).groupindex
    except ValueError as error:
        raise PluginLoadError(
            f"{label}: pattern {pattern!r} does not compile: {error}. Rewrite it; "
            "docs/write-a-skill.md says what patterns may contain"
        ) from error
    unknown = set(groups) - set(skill.Arguments.model_fields)
    if unknown:
        raise PluginLoadError(
            f"{label}: pattern {pattern!r} fills {sorted(unknown)}, "
            f"but Arguments has {sorted(skill.Arguments.model_fields)}"
        )


def _merge(loaded: Sequence[_Contributions], failures: Sequence[PluginFailure]) -> PluginRegistry:
    owners: dict[tuple[str, str], PluginInfo] = {}
    registered: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}  # Any: declarations
    for contributions in loaded:
        for kind, declarations in contributions.by_kind.items():
            for declaration in declarations:
                name = str(declaration.name)
                owner = owners.setdefault((kind, name), contributions.plugin)
                if name in registered[kind]:
                    raise NameCollision(
                        f"{kind}: {name!r} is contributed by {owner} and by "
                        f"{contributions.plugin}; disable one with plugins.disabled"
                    )
                registered[kind][name] = declaration
    _check_commands(loaded)
    return PluginRegistry(
        **{kind: types.MappingProxyType(found) for kind, found in registered.items()},
        failures=tuple(failures),
        owners=owners,
    )


def _check_commands(loaded: Sequence[_Contributions]) -> None:
    """Refuse two skills for one ``/word``: their names and aliases are commands alike."""
    owners: dict[str, tuple[str, PluginInfo]] = {}
    for contributions in loaded:
        for skill in contributions.by_kind["skills"]:
            for word in (skill.name, *skill.aliases):
                name, plugin = owners.setdefault(word.lower(), (skill.name, contributions.plugin))
                if name != skill.name:
                    raise NameCollision(
                        f"/{word.lower()} names the skill {name!r} of {plugin} and the skill "
                        f"{skill.name!r} of {contributions.plugin}: change a name or an alias, or "
                        "disable one with plugins.disabled"
                    )
