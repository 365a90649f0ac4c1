"""Files and directories that only their owner may use: conversations are confidential."""

import contextlib
import logging
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The rights of everybody but the owner."""
DATABASE_SUFFIXES = ("", "-wal", "-shm", "-journal")
"""Ends of the names of the files of one SQLite database."""


def set_private_umask() -> int:
    """Give new files of this process no rights for others. Return the umask before."""
    before = os.umask(OTHERS)
    os.umask(before | OTHERS)
    return before


def make_private_directory(path: Path) -> None:
    """Create the directory for its owner alone, or take the rights of others away.

    Raises `OSError`.
    """
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=stat.S_IRWXU)
    if not path.is_dir():
        raise NotADirectoryError(20, "it is not a directory", str(path))
    if not _is_shared(path):
        remove_rights_of_others(path)


def make_private_database(path: Path) -> None:
    """Create an empty database file for its owner alone, or take the rights of others away.

    SQLite gives the rights of the file to those that it creates beside it. Raises `OSError`.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    # An existing file is not opened: closing it would drop SQLite's locks of this process.
    for suffix in DATABASE_SUFFIXES:
        file = path.with_name(path.name + suffix)
        if file.exists():
            remove_rights_of_others(file)


@contextlib.contextmanager
def open_private_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for its owner alone, to be written. It appears at the end, complete, or not at
    all.

    Raises `OSError`, also when there is something else than a file: a link is not followed.
    """
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise FileExistsError(17, "it is not a regular file", str(path))
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write_private_file(path: Path, content: bytes) -> None:
    """Write a file as `open_private_file` does. Raises `OSError`."""
    with open_private_file(path) as stream:
        stream.write(content)


def remove_rights_of_others(path: Path) -> None:
    """Take the rights of others away from what is ours; log it, or what is in the way.

    Raises `PermissionError` for a link of another user, who could point it anywhere.
    """
    link = os.lstat(path)
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (os.geteuid(), 0):
        raise PermissionError(13, "it is a link of another user", str(path))
    state = os.stat(path)
    mode = stat.S_IMODE(state.st_mode)
    if not mode & OTHERS:
        return
    try:
        os.chmod(path, mode & ~OTHERS)
    except OSError as error:
        log.warning("others may use %r, which cannot be changed: %s", str(path), error.strerror)
    else:
        log.warning(
            "others could use %r: its mode was %o, now it is %o", str(path), mode, mode & ~OTHERS
        )


def _is_shared(directory: Path) -> bool:
    """Return True for a directory with more in it than our data: others need their rights on it."""
    used = directory.resolve()
    ours = [Path.cwd()]
    with contextlib.suppress(RuntimeError):  # a user of a container may have no home
        ours.append(Path.home())
    is_sticky = bool(used.stat().st_mode & stat.S_ISVTX)
    return is_sticky or any(each == used or used in each.parents for each in ours)
