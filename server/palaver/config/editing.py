"""Editing of the settings file: comments and the order of a person's file stay."""

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from palaver.config.settings import KeyPath, Tree
from palaver.config.text_files import read_text_file
from palaver.errors import ConfigurationError
from palaver.private_files import write_private_file

Changes = Mapping[KeyPath, str | list[str] | None]
"""Values by key; None removes the key."""


def read_settings_text(file: Path) -> str:
    """Return the text of the settings file, empty where there is none. Raises
    `ConfigurationError`."""
    return read_text_file(file, str(file)) if file.exists() else ""


def edit_settings(text: str, changes: Changes, name: str) -> str:
    """Return a TOML text with other values, and everything else as it was.

    Raises `ConfigurationError`, which calls the file ``name``, when the text cannot be edited.
    """
    try:
        expected = tomllib.loads(text)
        document = tomlkit.parse(text)
        for keys, value in changes.items():
            _change(expected, keys, value, dict)
            _change(document, keys, value, tomlkit.table)
        edited = tomlkit.dumps(document)
        if tomllib.loads(edited) == expected:
            return edited
    except (tomllib.TOMLDecodeError, TOMLKitError, _NotATable) as error:
        raise ConfigurationError(f"{name} cannot be edited: {error}") from error
    raise ConfigurationError(f"{name} cannot be edited without changing more of it")


class _NotATable(Exception):
    """A value stands where a table is needed."""


def _change(tree: Any, keys: KeyPath, value: object, make_table: Any) -> None:  # Any: of tomlkit
    for key in keys[:-1]:
        if key not in tree:
            if value is None:
                return
            tree[key] = make_table()
        tree = tree[key]
        if not isinstance(tree, dict):
            raise _NotATable(f"{key!r} is no table")
    if value is None:
        tree.pop(keys[-1], None)
    else:
        tree[keys[-1]] = value


def find_obstacle(file: Path) -> str:
    """Return a sentence when the settings file cannot be written; empty when it can."""
    target = file.resolve()
    folder = target.parent
    if target.exists() and not target.is_file():
        return f"{file} is not a regular file"
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return f"the server may not write into {folder}, so {file.name} cannot be changed"
    if target.exists() and not os.access(target, os.W_OK, effective_ids=True):
        return f"the server may not write {file}"
    return ""


def replace_settings(file: Path, text: str) -> None:
    """Replace the settings file at once. It keeps its mode; a new one is for its owner alone.

    Raises `ConfigurationError`.
    """
    target = file.resolve()
    try:
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
        write_private_file(target, text.encode())
        os.chmod(target, mode)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from error


def lookup(tree: Tree, keys: KeyPath) -> Any:  # Any: a TOML value
    """Return the value at ``keys``, None where there is none."""
    value: Any = tree
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
