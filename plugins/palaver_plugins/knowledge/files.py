"""Reading of files as documents: Markdown, plain text, HTML, Word, and PDF if pypdf is installed.

A file may come from anybody and may have been made to exhaust its reader. Each one is read by a
process of its own, `palaver_plugins.knowledge.reader_process`, which is killed at the deadline.
"""

import hashlib
import io
import json
import math
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from palaver import Document, InvalidInput, ReadLimits
from palaver_plugins.knowledge import reader_process

MAX_NAMED_KINDS = 10
DEFAULT_LIMITS = ReadLimits()
READING_VERSION = "1"
"""Increase it when files are read in another way: then they are read again."""


Report = Callable[[Path, str], None]
"""Is told of a path that is left out, and why."""


def _ignore(path: Path, reason: str) -> None:
    pass


def find_files(
    paths: list[Path], report: Report = _ignore, note: Report = _ignore
) -> Iterator[Path]:
    """Yield the given files, and the readable files in the given folders except hidden ones.

    A link in a folder to a place outside it is left out, with a note: whoever wrote the folder
    could read with it what only the caller may read. Reported is what should be readable.
    """
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        number = 0
        for found in _find_in_folder(path, report, note):
            yield found
            number += 1
        if not number:
            known = " ".join(sorted(reader_process.READERS))
            note(path, f"the folder holds no file that can be read; these can: {known}")


def _find_in_folder(root: Path, report: Report, note: Report) -> Iterator[Path]:
    folders = [root]
    other_kinds: set[str] = set()
    real_root = os.path.realpath(root)
    for folder in folders:  # not `os.walk`, which recurses
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:  # of a folder that has gone, or is not ours to read
            report(folder, f"the folder cannot be read: {error.strerror or error}")
            continue
        for entry in entries:
            path = Path(entry)
            if path.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):  # known without a look at the path
                folders.append(path)
            elif path.suffix.lower() not in reader_process.READERS:
                other_kinds.add(path.suffix.lower() or path.name)
            elif not Path(os.path.realpath(path)).is_relative_to(real_root):
                note(path, "left out, since the link leads out of the folder")
            elif problem := _find_problem(path):
                report(path, problem)
            else:
                yield path
    if other_kinds:
        names = sorted(other_kinds)
        more = ", …" if len(names) > MAX_NAMED_KINDS else ""
        note(root, f"left out files of other kinds: {', '.join(names[:MAX_NAMED_KINDS])}{more}")


def _find_problem(path: Path) -> str:
    """Return why a path in a folder cannot be read, empty if it may be."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return f"it cannot be opened: {error.strerror or error}"
    return "" if is_file else "it is not a regular file"


class FileContent(NamedTuple):
    """Title and text of a file, and what a person should know about how it was read."""

    title: str
    text: str
    notes: tuple[str, ...] = ()


def read_document(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> Document:
    """Read a file as a document with its path as the id. Raises `InvalidInput` with the reason."""
    content = read_file(path, limits)
    return Document(id=path.as_posix(), title=content.title, text=content.text)


def read_file(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> FileContent:
    """Return what a file contains. Raises `InvalidInput` with the reason why it cannot be read."""
    try:
        path.as_posix().encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("its name is not UTF-8") from error
    kind = path.suffix.lower()
    if kind not in reader_process.READERS and os.path.lexists(path):
        known = " ".join(sorted(reader_process.READERS))
        raise InvalidInput(f"files of kind {path.suffix!r} cannot be read; these can: {known}")
    try:
        with _open_file(path, limits) as source:
            content = _read_in_process(source, kind, limits)
    except OSError as error:
        raise InvalidInput(f"it cannot be opened: {error.strerror or error}") from error
    return content if content.title else content._replace(title=path.stem)


def find_fingerprint(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> str:
    """Return what tells whether a file has changed, or how it is read. Raises `InvalidInput` if it
    cannot be opened."""
    try:
        with _open_file(path, limits) as source:
            return make_fingerprint(hashlib.file_digest(source, "sha256").hexdigest())
    except OSError as error:
        raise InvalidInput(f"it cannot be opened: {error.strerror or error}") from error


def make_fingerprint(*parts: str) -> str:
    return " ".join((READING_VERSION, *parts))


TEXT_KINDS = (".md", ".markdown", ".txt", ".text", ".rst", ".html", ".htm", ".xhtml")
KINDS = {
    "application/pdf": ".pdf",
    "text/html": ".html",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
}
"""Readers of files by their media type; of other text, the ending of its name decides."""


def read_content(
    name: str, media_type: str, content: bytes, limits: ReadLimits = DEFAULT_LIMITS
) -> FileContent:
    """Return what a file in memory contains. Raises `InvalidInput` with the reason why it cannot be
    read."""
    kind = KINDS.get(media_type, "")
    if not kind and media_type.startswith("text/"):
        ending = Path(name).suffix.lower()
        kind = ending if ending in TEXT_KINDS else ".txt"
    if not kind:
        raise InvalidInput(f"files of the type {media_type} hold no text that can be read here")
    if len(content) > limits.file_bytes:
        raise InvalidInput(f"it is larger than {limits.file_bytes:_} bytes")
    with os.fdopen(os.memfd_create("palaver-file"), "r+b") as source:
        source.write(content)
        source.seek(0)
        return _read_in_process(source, kind, limits)


def _open_file(path: Path, limits: ReadLimits) -> io.BufferedReader:
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


def _read_in_process(source: IO[bytes], kind: str, limits: ReadLimits) -> FileContent:
    output_bytes = 4 * limits.text_characters + (1 << 16)  # of UTF-8, and the first line
    numbers = (
        limits.memory,
        math.ceil(limits.timeout) + 1,
        limits.file_bytes,
        limits.text_characters,
        output_bytes,
    )
    command = [sys.executable, "-P", "-m", reader_process.__name__, kind, *map(str, numbers)]
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


def decode_answer(line: bytes, text: bytes, code: int) -> FileContent:
    """Return what the process has read. Raises `InvalidInput` with the problem."""
    try:
        answer = json.loads(line)
        if code:
            raise ValueError(f"exit code {code}")
        if "problem" in answer:
            raise InvalidInput(answer["problem"])
        title: str = answer["title"].encode(errors="replace").decode()
        return FileContent(title, text.decode(), tuple(answer.get("notes", ())))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        end = signal.Signals(-code).name if code < 0 else f"code {code}"
        raise InvalidInput(f"its reader has crashed ({end})") from error


def reader_environment() -> dict[str, str]:
    """Return what the interpreter needs to find its packages, and no secret."""
    names = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
    found = {name: os.environ[name] for name in names if name in os.environ}
    packages = Path(reader_process.__file__).parents[2].as_posix()
    return {
        **found,
        "PYTHONPATH": os.pathsep.join((packages, *filter(None, [found.get("PYTHONPATH")]))),
    }
