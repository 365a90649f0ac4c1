"""Loading the settings: where values come from, and what is said when one cannot be right.

In rising order: the defaults in `palaver.config.settings`, well-known bare environment names
(``REDIS_URL``, …), one TOML file, ``PALAVER__SECTION__KEY`` in the environment, flags.
A backend's own table is checked by `plugin_settings`, once its plugin is loaded.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from palaver.config.settings import Keys, OpenSection, Origin, Settings, Tree, find_origin
from palaver.config.validation import ModelT, did_you_mean, inspect, nearest, unknown_key, validate
from palaver.errors import ConfigurationError

if TYPE_CHECKING:
    from palaver.plugins import PluginRegistry

PREFIX = "PALAVER__"
FILE_VARIABLE = "PALAVER_CONFIG"
DEFAULT_FILE = Path("palaver.toml")

WELL_KNOWN: dict[str, tuple[Keys, str]] = {
    "REDIS_URL": (("ledger", "redis", "url"), "env:REDIS_URL"),
    "OPENAI_API_KEY": (("engine", "openai", "api_key"), "env:OPENAI_API_KEY"),
    "OPENAI_BASE_URL": (("engine", "openai", "urls"), "{}"),
    "HF_TOKEN": (("models", "hub_token"), "env:HF_TOKEN"),
}
"""Bare names: the key that each fills, and its value ("{}" stands for the variable's own)."""


def load_settings(
    path: Path | None, environ: Mapping[str, str], overrides: Sequence[str] = ()
) -> Settings:
    """The settings of this process. ``overrides`` are flags, ``section.key=value`` each.

    ``path`` None means the file that ``PALAVER_CONFIG`` names, else ``palaver.toml`` if there is
    one. Raises `ConfigurationError` with one line for every value that cannot be right.
    """
    given = _Given()
    for name, (keys, value) in WELL_KNOWN.items():
        if environ.get(name):
            given.put(keys, value.format(environ[name]), Origin(f"environment {name}", raw=True))
    file = settings_file(path, environ)
    if file:
        _read_file(file, given)
    for name in sorted(name for name in environ if name.startswith(PREFIX)):
        keys = tuple(name.removeprefix(PREFIX).lower().split("__"))
        given.put(keys, environ[name], Origin(f"environment {name}", raw=True))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {override!r} is not of the form section.key=value")
        given.put(tuple(key.strip().split(".")), value.strip(), Origin(f"--set {key}", raw=True))
    settings = validate(Settings, given.tree, given.origin)
    settings._origins.update(given.origins)
    return settings


def settings_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file that settings are read from. Raises `ConfigurationError` when a named one is
    not there."""
    if path is None and environ.get(FILE_VARIABLE):
        path = Path(environ[FILE_VARIABLE])
    if path is None:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    if not path.is_file():
        raise ConfigurationError(f"there is no settings file {str(path)!r}")
    return path


def _read_file(file: Path, given: "_Given") -> None:
    try:
        text = file.read_text(encoding="utf-8")
        tree = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
    lines = key_lines(text)
    for keys, value in _leaves(tree):
        line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)
        given.put(keys, value, Origin(f"{file}, line {line}" if line else str(file)))


def _leaves(tree: Tree, above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


HEADER = re.compile(r"\s*\[\[?([^\]]+)\]")
ASSIGNMENT = re.compile(r"""\s*([\w"'.\- ]+?)\s*=""")


def key_lines(text: str) -> dict[Keys, int]:
    """The line of every key and table of a TOML text, for messages: tomllib does not tell."""
    lines: dict[Keys, int] = {}
    table: Keys = ()
    for number, line in enumerate(text.splitlines(), 1):
        if match := HEADER.match(line):
            table = _dotted(match[1])
            lines.setdefault(table, number)
        elif match := ASSIGNMENT.match(line):
            keys = table + _dotted(match[1])
            for length in range(len(table) + 1, len(keys) + 1):
                lines.setdefault(keys[:length], number)
    return lines


def _dotted(key: str) -> Keys:
    return tuple(part.strip(" \"'") for part in key.split("."))


class _Given:
    """The tree of values given so far, later ones over earlier ones, and where each is from."""

    def __init__(self) -> None:
        self.tree: Tree = {}
        self.origins: dict[Keys, Origin] = {}

    def put(self, keys: Keys, value: object, origin: Origin) -> None:
        table = self.tree
        for depth, key in enumerate(keys[:-1], 1):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigurationError(
                    f"{'.'.join(keys[:depth])} is a value ({self.origins[keys[:depth]].where}), "
                    f"so there is no {'.'.join(keys)!r} ({origin.where}) in it"
                )
        for path in [path for path in self.origins if path[: len(keys)] == keys]:
            del self.origins[path]
        table[keys[-1]] = value
        self.origins[keys] = origin

    def origin(self, keys: Keys) -> Origin | None:
        return find_origin(self.origins, keys)


# The tables of plugins


def plugin_settings(settings: Settings, section: str, name: str, model: type[ModelT]) -> ModelT:
    """The table ``[section.name]`` as the backend's own ``model``.

    Raises `ConfigurationError` with one line for every value that cannot be right.
    """
    tree = _tables(settings, section).get(name, {})
    return validate(model, tree, settings.origin, (section, name))


def validate_plugin_settings(settings: Settings, registry: "PluginRegistry") -> None:
    """Check the tables of all backends and skills, whether they are in use or not.

    Raises `ConfigurationError` with one line for every value that cannot be right, and for every
    table that belongs to no installed plugin.
    """
    problems: list[str] = []
    for section, models in plugin_models(registry).items():
        for name, tree in _tables(settings, section).items():
            origin = settings.origin((section, name))
            if name in models:
                problems += inspect(models[name], tree, settings.origin, (section, name))[1]
            elif not _excusable(settings, registry, origin):
                hint = did_you_mean(nearest((section, name), models))
                problems.append(unknown_key((section, name), origin, hint))
    if problems:
        raise ConfigurationError("\n".join(problems))


def plugin_models(registry: "PluginRegistry") -> dict[str, dict[str, type[pydantic.BaseModel]]]:
    """The settings of everything installed: section → name → model."""
    backends: dict[str, Mapping[str, Any]] = {
        "engine": registry.engines,
        "ledger": registry.ledgers,
        "knowledge": registry.knowledge,
        "channels": registry.channels,
        "interceptors": registry.interceptors,
    }
    models: dict[str, dict[str, type[pydantic.BaseModel]]] = {
        section: {name: backend.settings for name, backend in by_name.items()}
        for section, by_name in backends.items()
    }
    models["skills"] = {name: skill.Settings for name, skill in registry.skills.items()}
    return models


def _tables(settings: Settings, section: str) -> dict[str, Tree]:
    value = getattr(settings, section)
    return value.tables() if isinstance(value, OpenSection) else dict(value)


def _excusable(settings: Settings, registry: "PluginRegistry", origin: Origin | None) -> bool:
    """Whether a table without a plugin may be nobody's mistake: its plugin failed or is disabled,
    or a bare name that other programs use as well filled it."""
    bare = origin is not None and origin.where.removeprefix("environment ") in WELL_KNOWN
    return bare or bool(registry.failures) or bool(settings.plugins.disabled)
