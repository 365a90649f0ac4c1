"""Exposure: what other users of the machine can read or replace, for ``palaver check``."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from palaver.config.settings import Secret
from palaver.private_files import OTHERS

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
PUBLIC_FOLDERS = ("models", "cache")
"""Folders of the data directory that others may read: they hold nothing of any person."""
PASSWORD_IN_URL = re.compile(r"://[^/\s:@]{0,100}:[^/@\s]{1,200}@")


def find_exposed_data(data: Path) -> Iterator[str]:
    """Yield a sentence for each thing in the data directory that others can use."""
    yield from _find_exposed(data, OTHERS)
    yield from _find_other_owner(data)
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(data)):
            forbidden = OTHERS_WRITE if name in PUBLIC_FOLDERS else OTHERS
            yield from _find_exposed_tree(data / name, forbidden)
    yield from _find_replaceable(data)


def find_exposed_settings(file: Path | None) -> Iterator[str]:
    """Yield a sentence when others can change the settings file, or read a password in it."""
    if file is None:
        return
    has_password = PASSWORD_IN_URL.search(file.read_text(encoding="utf-8", errors="replace"))
    yield from _find_exposed(file, OTHERS if has_password else OTHERS_WRITE)
    yield from _find_other_owner(file)
    yield from _find_replaceable(file)


def find_exposed_secret(secret: Secret) -> Iterator[str]:
    """Yield a sentence when others can read or replace the file of a secret."""
    kind, _, name = secret.root.partition(":")
    if kind == "file":
        yield from _find_exposed(Path(name), OTHERS)
        yield from _find_other_owner(Path(name))
        yield from _find_replaceable(Path(name))


def _find_exposed_tree(path: Path, forbidden: int) -> Iterator[str]:
    yield from _find_exposed(path, forbidden)
    for directory, folders, files in os.walk(path):
        for name in sorted((*folders, *files)):
            yield from _find_exposed(Path(directory, name), forbidden)


def _find_exposed(path: Path, forbidden: int) -> Iterator[str]:
    try:
        state = path.lstat()
    except OSError:
        return
    mode = stat.S_IMODE(state.st_mode)
    if mode & forbidden and not stat.S_ISLNK(state.st_mode):
        rights = _describe_rights(mode & forbidden)
        yield f"others can {rights} {path}: its mode is {mode:o}"


def _find_other_owner(path: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        if path.stat().st_uid not in (os.geteuid(), 0):
            yield f"another user owns {path}"


def _find_replaceable(path: Path) -> Iterator[str]:
    """Yield a sentence for each directory above in which everybody can replace what is below."""
    for directory in path.absolute().parents:
        with contextlib.suppress(OSError):
            mode = directory.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                yield f"everybody can replace {path}: {directory} has mode {stat.S_IMODE(mode):o}"


def _describe_rights(mode: int) -> str:
    names = {"read": 0o044, "write": 0o022, "enter": 0o011}
    return " and ".join(name for name, bits in names.items() if mode & bits)
