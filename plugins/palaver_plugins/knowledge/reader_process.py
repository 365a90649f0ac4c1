"""Program of the process that reads one foreign file; `palaver_plugins.knowledge.files` runs it.

Standard input is the file, standard output gets the title as one line of JSON and then the text, or
one line with the problem. Before the first byte is read, the process gives up its memory above the
limit, and the right to open anything: no file, no socket, no other program. So it needs nothing but
the standard library, lxml and pypdf, all of it imported before.
"""

import contextlib
import importlib
import json
import pkgutil
import re
import resource
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MAX_TITLE_CHARACTERS = 300
MAX_PROBLEM_CHARACTERS = 300
MAX_FRONT_MATTER_LINES = 200

Reader = Callable[[bytes, int], tuple[str, str]]
"""Returns title and text of a file's content. The text need not be longer than the limit."""


class Unreadable(Exception):
    """The file cannot be read, for the reason in the message."""


# Text and Markdown


def read_plain(content: bytes, limit: int) -> tuple[str, str]:
    return "", decode(content)


def decode(content: bytes) -> str:
    if b"\0" in content[:8192]:
        raise Unreadable("it is a binary file")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8 text (byte {error.start})") from error


def read_markdown(content: bytes, limit: int) -> tuple[str, str]:
    fields, text = split_front_matter(decode(content))
    return find_title(fields) or find_heading(text), remove_comments(text)


def split_front_matter(text: str) -> tuple[list[str], str]:
    """Return the lines of the front matter between two lines ``---``, and the rest."""
    lines = text.split("\n", MAX_FRONT_MATTER_LINES)
    is_mark = [line.rstrip(" \t") == "---" for line in lines]
    if not is_mark[0] or True not in is_mark[1:]:
        return [], text
    end = is_mark.index(True, 1)
    return lines[1:end], "\n".join(lines[end + 1 :])


def find_title(fields: Iterable[str]) -> str:
    titles = (line.removeprefix("title:") for line in fields if line.startswith("title:"))
    return next(titles, "").strip(" \t").strip("\"'")


def find_heading(text: str) -> str:
    headings = re.finditer(r"^#[ \t](.*)$", text, re.MULTILINE)
    names = (heading[1].strip(" \t").rstrip("#").rstrip(" \t") for heading in headings)
    return next(filter(None, names), "")


def remove_comments(text: str) -> str:
    parts, position = [], 0
    while (start := text.find("<!--", position)) >= 0:
        end = text.find("-->", start + 4)
        if end < 0:
            break
        parts.append(text[position:start])
        position = end + 3
    return "".join((*parts, text[position:]))


# HTML


def read_html(content: bytes, limit: int) -> tuple[str, str]:
    from lxml import etree

    page = HtmlText()
    parser = etree.HTMLParser(target=page, huge_tree=True)
    parser.feed(decode(content))
    parser.close()
    return "".join(page.titles), page.text()


class HtmlText:
    """Target of lxml's parser that collects a page's text: Markdown headings, a blank line between
    blocks."""

    _SILENT = frozenset({"script", "style", "template", "noscript", "svg", "nav", "head"})
    _BLOCKS = frozenset(
        "p div section article main header footer ul ol table tr blockquote figure pre dl dt dd hr"
        " form fieldset details summary aside h1 h2 h3 h4 h5 h6 li".split()
    )
    _MARKS: Mapping[str, str] = {
        **{f"h{level}": "#" * level + " " for level in range(1, 7)},
        **{"li": "- ", "br": "\n", "td": " | ", "th": " | "},
    }

    def __init__(self) -> None:
        self.titles: list[str] = []
        self._parts: list[str] = []
        self._silent = 0
        self._in_title = False
        self._preformatted = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._in_title = tag == "title"
        self._silent += tag in self._SILENT
        self._preformatted += tag == "pre"
        if tag in self._BLOCKS:
            self._parts.append("\n\n")
        if tag in self._MARKS:
            self._parts.append(self._MARKS[tag])

    def end(self, tag: str) -> None:
        self._in_title = False
        self._silent = max(0, self._silent - (tag in self._SILENT))
        self._preformatted = max(0, self._preformatted - (tag == "pre"))
        if tag in self._BLOCKS:
            self._parts.append("\n\n")

    def data(self, data: str) -> None:
        if self._in_title:
            self.titles.append(data)
        elif not self._silent:
            self._parts.append(data if self._preformatted else re.sub(r"\s+", " ", data))

    def close(self) -> None:
        pass

    def text(self) -> str:
        blocks: list[list[str]] = [[]]
        for line in "".join(self._parts).split("\n"):
            if line.strip(" \t"):
                blocks[-1].append(line)
            elif blocks[-1]:
                blocks.append([])
        return "\n\n".join("\n".join(lines).strip(" \t") for lines in blocks).strip()


# PDF


def read_pdf(content: bytes, limit: int) -> tuple[str, str]:
    import io

    import pypdf

    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        title = (reader.metadata.title if reader.metadata else None) or ""
        texts: list[str] = []
        length = 0
        for number, page in enumerate(reader.pages, 1):
            text = page.extract_text().strip()
            length += len(text)
            if text:
                texts.append(f"## Page {number}\n\n{text}")
            if length > limit:
                break
    except MemoryError:
        raise
    except Exception as error:
        raise Unreadable(f"it is not a PDF that can be read: {error}") from error
    return str(title), "\n\n".join(texts)


READERS: Mapping[str, Reader] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".txt": read_plain,
    ".text": read_plain,
    ".rst": read_plain,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": read_pdf,
}
"""Readers by the ending of a file's name."""


# The process


def read(kind: str, max_bytes: int, max_characters: int) -> tuple[str, str]:
    """Return title and text of standard input. Raises `Unreadable`."""
    content = sys.stdin.buffer.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise Unreadable(f"it is larger than {max_bytes:_} bytes")
    title, text = READERS[kind](content, max_characters)
    if len(text) > max_characters:
        raise Unreadable(f"it contains more than {max_characters:_} characters of text")
    if not text.strip():
        raise Unreadable("it contains no text")
    return " ".join(title[: 2 * MAX_TITLE_CHARACTERS].split())[:MAX_TITLE_CHARACTERS], text


def import_modules(kind: str) -> None:
    """Import what the reader needs, before the process may open no file."""
    importlib.import_module("encodings.utf_8_sig")
    if kind in (".html", ".htm"):
        importlib.import_module("lxml.etree")
    elif kind == ".pdf":
        try:
            importlib.import_module("pypdf")
        except ImportError as error:
            hint = "reading PDF needs pypdf: pip install 'palaver-server[pdf]'"
            raise Unreadable(hint) from error
        import encodings

        for module in pkgutil.iter_modules(encodings.__path__):
            with contextlib.suppress(ImportError):  # those of other systems
                importlib.import_module(f"encodings.{module.name}")


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
        title, text = read(kind, max_bytes, max_characters)
        answer = {"title": title}
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
