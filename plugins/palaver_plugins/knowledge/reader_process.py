"""Program of the process that reads one foreign file; `palaver_plugins.knowledge.files` runs it.

Standard input is the file, standard output gets title and notes as one line of JSON and then the
text, or one line with the problem. Before the first byte is read, the process gives up its memory
above the limit, and the right to open anything: no file, no socket, no other program. So all that a
reader needs is imported before.
"""

import contextlib
import importlib
import json
import re
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

from palaver_plugins.knowledge import decoding

MAX_TITLE_CHARACTERS = 300
MAX_PROBLEM_CHARACTERS = 300
MAX_NAMED_FRAMES = 5
_VISIBLE = re.compile(
    "[^\\s\0-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202f\u205f-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffd]"
)
"""A character that leaves a mark on paper, or a letter that changes another one."""

_PATH = re.compile(
    r"(?:(?:/|~/|\\\\|file:|[A-Za-z]:[\\/])\S*|(?:/[^/]+/|~/|\\\\|file:|[A-Za-z]:[\\/]).*\.\w{1,5})$"
)

Reader = Callable[[bytes, int], tuple[str, ...]]
"""Returns title and text of a file's content, then notes for the person. The text need not be
longer than the limit."""


class Unreadable(Exception):
    """The file cannot be read, for the reason in the message."""


def read_plain(content: bytes, limit: int) -> tuple[str, ...]:
    text, *notes = decode(content)
    return "", text, *notes


def decode(content: bytes, *, has_declaration: bool = False) -> list[str]:
    """Return the text, and a note when its encoding is a guess."""
    try:
        decoded = decoding.decode(content, has_declaration=has_declaration)
    except decoding.Undecodable as error:
        raise Unreadable(str(error)) from error
    return [text for text in decoded if text] or [""]


def read_markdown(content: bytes, limit: int) -> tuple[str, ...]:
    from palaver_plugins.knowledge import markdown_files

    text, *notes = decode(content)
    return *markdown_files.read_markdown(text), *notes


def read_html(content: bytes, limit: int) -> tuple[str, ...]:
    from palaver_plugins.knowledge import html_pages

    page, *notes = decode(content, has_declaration=True)
    try:
        title, text = html_pages.read_page(page)
        frames = [] if text else html_pages.find_frames(page)
    except html_pages.TooComplex as error:
        raise Unreadable(str(error)) from error
    if frames:
        names = ", ".join(frames[:MAX_NAMED_FRAMES])
        raise Unreadable(f"it contains no text of its own, only frames: {names}")
    return title, text, *notes


def read_pdf(content: bytes, limit: int) -> tuple[str, ...]:
    from palaver_plugins.knowledge import pdf_files

    try:
        return pdf_files.read_pdf(content, limit)
    except pdf_files.NotReadable as error:
        raise Unreadable(str(error)) from error


def read_docx(content: bytes, limit: int) -> tuple[str, ...]:
    from palaver_plugins.knowledge import docx_files

    try:
        return docx_files.read_docx(content, limit)
    except docx_files.NotReadable as error:
        raise Unreadable(str(error)) from error


READERS: Mapping[str, Reader] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".txt": read_plain,
    ".text": read_plain,
    ".rst": read_plain,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".pdf": read_pdf,
    ".docx": read_docx,
}
"""Readers by the ending of a file's name."""
MODULES: Mapping[Reader, str] = {
    read_markdown: "palaver_plugins.knowledge.markdown_files",
    read_html: "palaver_plugins.knowledge.html_pages",
    read_pdf: "palaver_plugins.knowledge.pdf_files",
    read_docx: "palaver_plugins.knowledge.docx_files",
}
"""Modules that the readers use."""


# The process


def read(kind: str, max_bytes: int, max_characters: int) -> tuple[str, str, list[str]]:
    """Return title, text and notes of standard input. Raises `Unreadable`."""
    content = sys.stdin.buffer.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise Unreadable(f"it is larger than {max_bytes:_} bytes")
    title, text, *notes = READERS[kind](content, max_characters)
    if len(text) > max_characters:
        raise Unreadable(f"it contains more than {max_characters:_} characters of text")
    if not _VISIBLE.search(text):
        raise Unreadable("it contains no text")
    return shorten_title(title), text, notes


def shorten_title(title: str) -> str:
    """Return the title in one line, empty if it is a path, which may be that of a server."""
    line = " ".join(title[: 2 * MAX_TITLE_CHARACTERS].split())[:MAX_TITLE_CHARACTERS]
    return "" if _PATH.match(line) else line


def import_modules(kind: str) -> None:
    """Import what the reader needs, before the process may open no file."""
    decoding.import_codecs()
    reader = READERS[kind]
    try:
        if module := MODULES.get(reader):
            importlib.import_module(module)
    except ImportError as error:
        if reader is not read_pdf:
            raise
        hint = "reading PDF needs pypdf: pip install 'palaver-server[pdf]'"
        raise Unreadable(hint) from error


def limit_resources(memory: int, seconds: int, output: int) -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # when the machine's memory ends, this process goes first
    for kind, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def main(kind: str, *numbers: str) -> None:
    memory, seconds, max_bytes, max_characters, output = map(int, numbers)
    answer: dict[str, Any]
    text = ""
    try:
        import_modules(kind)
        limit_resources(memory, seconds, output)
        title, text, notes = read(kind, max_bytes, max_characters)
        answer = {"title": title, "notes": notes}
    except Unreadable as error:
        answer = {"problem": str(error)[:MAX_PROBLEM_CHARACTERS]}
    except MemoryError:
        answer = {"problem": f"reading it needs more than {memory >> 20} MiB of memory"}
    except Exception as error:  # noqa: BLE001 - the barrier around foreign files
        problem = f"it cannot be read: {type(error).__name__}: {error}"
        answer = {"problem": problem[:MAX_PROBLEM_CHARACTERS]}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + text.encode(errors="replace"))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
