"""Reading of Markdown files: the title, and the text without front matter, comments and tags."""

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

from palaver_plugins.knowledge.html_pages import TooComplex, read_fragment
from palaver_plugins.knowledge.markdown_blocks import Block, parse_blocks, split_lines, strip_markup

MAX_HEAD = 65_536
"""Characters at the beginning in which front matter and title are looked for."""
MAX_HEAD_LINES = 1_000
_HTML = re.compile(r"<!--|^[ \t>*+\d.)-]*<[a-zA-Z/?!]", re.MULTILINE)
_FIELD = re.compile(r"[\"']?[\w.-]+(?: [\w.-]+){0,3}[\"']?[ \t]*:(?:[ \t]|$)")
_TITLE = re.compile(r"[\"']?title[\"']?[ \t]*[:=](.*)", re.IGNORECASE)
_CONTINUED = re.compile(r"[ \t#\-\]}]|$")
_QUOTED = re.compile(r"(\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*')")
_MARK = re.compile(r"`+|<!--|\\[`<]")


def read_markdown(text: str) -> tuple[str, str]:
    """Return title and text."""
    fields, text = split_front_matter(text)
    if _HTML.search(text):
        text = "\n".join(_replace_html(text))
    return find_front_title(fields) or find_title(parse_blocks(text[:MAX_HEAD])), text


def split_front_matter(text: str) -> tuple[list[str], str]:
    """Return the lines of the front matter, which is YAML or TOML, and the rest."""
    if text.startswith("+++"):
        return _split_toml(split_lines(text), text)
    block = next(parse_blocks(text[:MAX_HEAD]), None) if text.startswith("---") else None
    if block is None or block.kind != "front matter" or not is_front_matter(block.content):
        return [], text
    return block.content.split("\n"), "\n".join(split_lines(text)[block.end :])


def _split_toml(lines: list[str], text: str) -> tuple[list[str], str]:
    marks = [at for at, line in enumerate(lines[:MAX_HEAD_LINES]) if line.rstrip() == "+++"][:2]
    if len(marks) < 2 or marks[0]:
        return [], text
    return lines[1 : marks[1]], "\n".join(lines[marks[1] + 1 :])


def _replace_html(text: str) -> Iterator[str]:
    lines = split_lines(text)
    at = 0
    for block in parse_blocks(text):
        yield from lines[at : block.first]
        yield from _read_block(block, lines)
        at = block.end
    yield from lines[at:]


def _read_block(block: Block, lines: list[str]) -> Iterable[str]:
    own = lines[block.first : block.end]
    if block.kind == "html":
        try:
            return ["", *read_fragment(block.content).split("\n"), ""]
        except TooComplex:
            return own
    is_code = block.kind in ("fence", "code")
    return own if is_code else remove_comments("\n".join(own)).split("\n")


def find_title(blocks: Iterable[Block]) -> str:
    names = (block.content for block in blocks if block.kind == "heading" and block.level == 1)
    return next(filter(None, names), "")


def is_front_matter(content: str) -> bool:
    """Return True for fields of YAML, False for text between two lines."""
    lines = content.split("\n")
    is_field = [bool(_FIELD.match(line)) for line in lines]
    return any(is_field) and all(
        known or _CONTINUED.match(line) for known, line in zip(is_field, lines, strict=True)
    )


def find_front_title(lines: list[str]) -> str:
    """Return the title that the front matter gives, in one line."""
    found = ((at, match) for at, line in enumerate(lines) if (match := _TITLE.match(line)))
    at, match = next(found, (0, None))
    if match is None:
        return ""
    value = match[1].strip()
    if quoted := _QUOTED.match(value):
        value = re.sub(r"\\(.)|''", lambda escape: escape[1] or "'", quoted[1][1:-1])
    else:
        first = "" if value[:1] in (">", "|") else value.partition(" #")[0]
        value = " ".join(filter(None, [first, *_indented(lines[at + 1 :])]))
    return strip_markup(value[:300]) or value[:300]


def _indented(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if line and line[:1] not in (" ", "\t"):
            break
        yield line.strip()


def remove_comments(text: str) -> str:
    """Return the text without HTML comments, except those in code spans."""
    if "<!--" not in text:
        return text
    closing: defaultdict[str, deque[int]] = defaultdict(deque)
    for run in re.finditer("`+", text):
        closing[run[0]].append(run.start())
    parts: list[str] = []
    at = kept = 0
    while mark := _MARK.search(text, at):
        at = mark.end()
        if mark[0] == "<!--":
            end = text.find("-->", at)
            if end < 0:
                break
            parts.append(text[kept : mark.start()])
            kept = at = end + 3
        elif mark[0][0] == "`":
            at = _end_of_code(closing[mark[0]], mark)
    return "".join((*parts, text[kept:]))


def _end_of_code(positions: deque[int], mark: re.Match[str]) -> int:
    """Return where the code span ends that begins at a mark, without one the end of the mark."""
    while positions and positions[0] < mark.end():
        positions.popleft()
    return positions[0] + len(mark[0]) if positions else mark.end()
