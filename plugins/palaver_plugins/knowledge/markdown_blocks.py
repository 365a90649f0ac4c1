"""Blocks of a Markdown text, each with its lines: headings, fences, tables, HTML, text.

The parser only finds the blocks. Their text is that of the lines, so nothing is lost or changed.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.front_matter import front_matter_plugin

MAX_HEADING_CHARACTERS = 300
"""A longer line is text: every passage below a heading repeats it."""

_ATTRIBUTES = re.compile(r"(?<=\S)[ \t]*\{:?[ \t]*[#.][^{}]*\}$")
"""Id and classes after a heading, as Pandoc, kramdown and Docusaurus know them."""

Kind = Literal["heading", "fence", "code", "table", "html", "front matter", "text"]
KINDS: dict[str, Kind] = {
    "heading_open": "heading",
    "fence": "fence",
    "code_block": "code",
    "table_open": "table",
    "html_block": "html",
    "front_matter": "front matter",
    "paragraph_open": "text",
    "hr": "text",
}


class Block(NamedTuple):
    """Lines ``first`` to ``end`` (exclusive) of a text."""

    kind: Kind
    first: int
    end: int
    level: int = 0
    """Of a heading."""
    content: str = ""
    """Name of a heading; what is inside of a fence, an HTML block or the front matter."""
    mark: str = ""
    """Opening line of a fence, without indentation."""


def split_lines(text: str) -> list[str]:
    """Return the lines that the blocks count."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def parse_blocks(text: str) -> Iterator[Block]:
    """Yield the blocks in their order. Between them, and in no block, lie blank lines."""
    lines = split_lines(text)
    at = 0
    for block in _blocks_of(_BLOCK_PARSER.parse("\n".join(lines))):
        if block.first >= at:
            yield from _text_between(lines, at, block.first)
            yield block
            at = block.end
    yield from _text_between(lines, at, len(lines))


def _text_between(lines: list[str], first: int, end: int) -> Iterator[Block]:
    """Yield what the parser has no token for, as the empty items of a list."""
    while first < end:
        if not lines[first].strip():
            first += 1
            continue
        last = next((at for at in range(first, end) if not lines[at].strip()), end)
        yield Block("text", first, last)
        first = last


def _blocks_of(tokens: list[Token]) -> Iterator[Block]:
    for at, token in enumerate(tokens):
        kind = KINDS.get(token.type)
        if kind is None or token.map is None:
            continue
        first, end = token.map
        block = Block(kind, first, end, content=token.content)
        if kind == "heading":
            yield _heading(block, token, tokens[at + 1].content)
        else:
            yield block._replace(mark=f"{token.markup}{token.info}")


def _heading(block: Block, token: Token, content: str) -> Block:
    if token.level or len(content) > MAX_HEADING_CHARACTERS:
        return block._replace(kind="text")
    name = _ATTRIBUTES.sub("", content)
    return block._replace(level=int(token.tag[1]), content=strip_markup(name))


def strip_markup(content: str) -> str:
    """Return the text of a line without emphasis, code marks, link targets and tags."""
    [line] = _INLINE_PARSER.parseInline(content)
    texts = [_text_of(token) for token in line.children or ()]
    return " ".join("".join(texts).split())


def _text_of(token: Token) -> str:
    if token.type in ("softbreak", "hardbreak"):
        return " "
    return "" if token.type == "html_inline" else token.content


def _make_block_parser() -> MarkdownIt:
    # Without references: a definition is text that can be searched as well.
    parser = MarkdownIt("commonmark").enable("table").disable("reference").use(front_matter_plugin)
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


_BLOCK_PARSER = _make_block_parser()
_INLINE_PARSER = MarkdownIt("commonmark").enable("strikethrough")
