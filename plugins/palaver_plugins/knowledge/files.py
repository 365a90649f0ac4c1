"""Reading of files as documents: Markdown, plain text, HTML, and PDF if pypdf is installed.

A file may come from anybody and may have been made to exhaust its reader. Each one is read by a
process of its own, `palaver_plugins.knowledge.reader_process`, which is killed at the deadline.
"""

import contextlib
import dataclasses
import json
import math
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from palaver import Document, InvalidInput
from palaver_plugins.knowledge import reader_process


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """Limits of reading one file. ``timeout``: seconds. ``memory``: bytes of its process."""

    timeout: float = 30.0
    memory: int = 1 << 30
    file_bytes: int = 50_000_000
    text_characters: int = 10_000_000


DEFAULT_LIMITS = ReadLimits()


def find_files(paths: list[Path]) -> Iterator[Path]:
    """Yield the given files, and the readable files in the given folders except hidden ones.

    A link in a folder to a place outside it is left out: whoever wrote the folder could read with
    it what only the caller may read.
    """
    for path in paths:
        if os.path.isdir(path):
            yield from _find_in_folder(path)
        else:
            yield path


def _find_in_folder(root: Path) -> Iterator[Path]:
    folders = [root]
    for folder in folders:  # not `os.walk`, which recurses
        with contextlib.suppress(OSError):  # of a folder that has gone, or is not ours to read
            for path in sorted(folder.iterdir()):
                if path.name.startswith("."):
                    continue
                if path.is_dir() and not path.is_symlink():
                    folders.append(path)
                elif _is_readable(path) and path.resolve().is_relative_to(root.resolve()):
                    yield path


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in reader_process.READERS and path.is_file()


def read_document(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> Document:
    """Read a file as a document with its path as the id. Raises `InvalidInput` with the reason."""
    try:
        path.as_posix().encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("its name is not UTF-8") from error
    kind = path.suffix.lower()
    if kind not in reader_process.READERS:
        known = " ".join(sorted(reader_process.READERS))
        raise InvalidInput(f"files of kind {path.suffix!r} cannot be read; these can: {known}")
    try:
        with _open_file(path, limits) as source:
            title, text = _read_in_process(source, kind, limits)
    except OSError as error:
        raise InvalidInput(f"it cannot be opened: {error.strerror or error}") from error
    return Document(id=path.as_posix(), title=title or path.stem, text=text)


def _open_file(path: Path, limits: ReadLimits) -> IO[bytes]:
    # Not blocking: opening a pipe would wait for a writer.
    source = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    state = os.fstat(source.fileno())
    problem = ""
    if not stat.S_ISREG(state.st_mode):
        problem = "it is not a regular file"
    elif state.st_size > limits.file_bytes:
        problem = f"it is larger than {limits.file_bytes:_} bytes"
    if problem:
        source.close()
        raise InvalidInput(problem)
    return source


def _read_in_process(source: IO[bytes], kind: str, limits: ReadLimits) -> tuple[str, str]:
    output_bytes = 4 * limits.text_characters + (1 << 16)  # of UTF-8, and the first line
    numbers = (
        limits.memory,
        math.ceil(limits.timeout) + 1,
        limits.file_bytes,
        limits.text_characters,
        output_bytes,
    )
    command = [sys.executable, "-P", reader_process.__file__, kind, *map(str, numbers)]
    # A file in memory: the process can neither fill a pipe nor leave anything on the disk.
    with os.fdopen(os.memfd_create("palaver-reader"), "rb") as output:
        with subprocess.Popen(
            command,
            stdin=source,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env=reader_environment(),
            cwd="/",
            start_new_session=True,
        ) as process:
            try:
                code = process.wait(limits.timeout)
            except subprocess.TimeoutExpired as error:
                raise InvalidInput(f"reading it takes longer than {limits.timeout:g} s") from error
            finally:
                process.kill()
        output.seek(0)
        return decode_answer(output.readline(), output.read(output_bytes), code)


def decode_answer(line: bytes, text: bytes, code: int) -> tuple[str, str]:
    """Return title and text. Raises `InvalidInput` with the problem."""
    try:
        answer = json.loads(line)
        if code:
            raise ValueError(f"exit code {code}")
    except ValueError as error:
        end = signal.Signals(-code).name if code < 0 else f"code {code}"
        raise InvalidInput(f"its reader has crashed ({end})") from error
    if "problem" in answer:
        raise InvalidInput(answer["problem"])
    title: str = answer["title"].encode(errors="replace").decode()
    return title, text.decode()


def reader_environment() -> dict[str, str]:
    """Return what the interpreter needs to find its packages, and no secret."""
    names = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in names if name in os.environ}
