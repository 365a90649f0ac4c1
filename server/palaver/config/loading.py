"""Loading of the settings from the environment, one TOML file and flags.

Later sources win: the defaults in `palaver.config.settings`, environment names that other programs
use too (``REDIS_URL``, …), the file, ``PALAVER__SECTION__KEY`` in the environment, flags.
`plugin_settings` validates a backend's own table, once its plugin is loaded.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from palaver.config.settings import (
    SKILL_MODEL,
    BackendsSection,
    KeyPath,
    Origin,
    Settings,
    Tree,
    find_origin,
)
from palaver.config.text_files import read_text_file
from palaver.config.validation import ModelT, validate
from palaver.errors import ConfigurationError

PREFIX = "PALAVER__"
FILE_VARIABLE = "PALAVER_CONFIG"
DEFAULT_FILE = Path("palaver.toml")

WELL_KNOWN: dict[str, tuple[KeyPath, str]] = {
    "REDIS_URL": (("ledger", "redis", "url"), "env:REDIS_URL"),
    "OPENAI_API_KEY": (("engine", "openai", "api_key"), "env:OPENAI_API_KEY"),
    "OPENAI_BASE_URL": (("engine", "openai", "urls"), "{}"),
    "HF_TOKEN": (("models", "hub_token"), "env:HF_TOKEN"),
}
"""Environment name → the key that it sets, and the key's value; "{}" is the variable's value."""


def load_settings(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Sequence[str] = (),
    *,
    file_text: str | None = None,
) -> Settings:
    """Return the settings of this process. ``overrides`` are flags, each ``section.key=value``.

    ``path`` None: the file that ``PALAVER_CONFIG`` names, else ``palaver.toml`` if it exists.
    ``file_text`` stands for what the file at ``path`` holds. Raises `ConfigurationError` with one
    line for each wrong value.
    """
    given = _GivenValues()
    for name, (keys, value) in WELL_KNOWN.items():
        if environ.get(name):
            given.set(
                keys, value.format(environ[name]), Origin(f"environment {name}", is_text=True)
            )
    if path is not None and file_text is not None:
        _read_text(file_text, path, given)
    elif file := find_settings_file(path, environ):
        _read_text(read_text_file(file, str(file)), file, given)
    for name in sorted(name for name in environ if name.startswith(PREFIX)):
        keys = tuple(name.removeprefix(PREFIX).lower().split("__"))
        given.set(keys, environ[name], Origin(f"environment {name}", is_text=True))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {override!r} is not of the form section.key=value")
        given.set(
            tuple(key.strip().split(".")), value.strip(), Origin(f"--set {key}", is_text=True)
        )
    settings = validate(Settings, given.tree, given.origin)
    settings._origins.update(given.origins)
    return settings


def find_settings_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read. Raises `ConfigurationError` when a named file does not exist."""
    if path is None and environ.get(FILE_VARIABLE):
        path = Path(environ[FILE_VARIABLE])
    if path is None:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    if not path.is_file():
        raise ConfigurationError(f"there is no settings file {str(path)!r}")
    return path


def _read_text(text: str, file: Path, given: "_GivenValues") -> None:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
    lines = find_key_lines(text)
    for keys, value in _iterate_values(tree):
        line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)
        given.set(keys, value, Origin(f"{file}, line {line}" if line else str(file)))


def _iterate_values(tree: Tree, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _iterate_values(value, (*prefix, key))
        else:
            yield (*prefix, key), value


HEADER = re.compile(r"\s*\[\[?([^\]]+)\]")
ASSIGNMENT = re.compile(r"""\s*([\w"'.\- ]+?)\s*=""")


def find_key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line number of each key and table of a TOML text; tomllib does not give it."""
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), 1):
        if match := HEADER.match(line):
            table = _split_key(match[1])
            lines.setdefault(table, number)
        elif match := ASSIGNMENT.match(line):
            keys = table + _split_key(match[1])
            for length in range(len(table) + 1, len(keys) + 1):
                lines.setdefault(keys[:length], number)
    return lines


def _split_key(key: str) -> KeyPath:
    return tuple(part.strip(" \"'") for part in key.split("."))


class _GivenValues:
    """The values given so far and their origins; later values replace earlier ones."""

    def __init__(self) -> None:
        self.tree: Tree = {}
        self.origins: dict[KeyPath, Origin] = {}

    def set(self, keys: KeyPath, value: object, origin: Origin) -> None:
        table = self.tree
        for depth, key in enumerate(keys[:-1], 1):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigurationError(
                    f"{'.'.join(keys[:depth])} is a value ({self.origins[keys[:depth]].location}), "
                    f"so there is no {'.'.join(keys)!r} ({origin.location}) in it"
                )
        for path in [path for path in self.origins if path[: len(keys)] == keys]:
            del self.origins[path]
        table[keys[-1]] = value
        self.origins[keys] = origin

    def origin(self, keys: KeyPath) -> Origin | None:
        return find_origin(self.origins, keys)


# The tables of plugins


def plugin_settings(settings: Settings, section: str, name: str, model: type[ModelT]) -> ModelT:
    """Return the table ``[section.name]`` as the backend's own ``model``.

    Raises `ConfigurationError` with one line for each wrong value.
    """
    tree = plugin_tables(settings, section).get(name, {})
    return validate(model, tree, settings.origin, (section, name))


def plugin_tables(settings: Settings, section: str) -> dict[str, Tree]:
    """Return the tables below ``[section]`` as given, by name."""
    value = getattr(settings, section)
    if isinstance(value, BackendsSection):
        return value.tables()
    return {  # of skills: what their own model has
        name: {key: inner for key, inner in table.items() if key != SKILL_MODEL}
        for name, table in value.items()
    }


def model_settings(settings: Settings, name: str, model: type[ModelT]) -> ModelT:
    """Return the settings of ``engine.models.NAME`` as its engine's own ``model``.

    Raises as `plugin_settings`.
    """
    own = settings.engine.models[name].own
    return validate(model, own, settings.origin, ("engine", "models", name))
