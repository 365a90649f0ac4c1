"""Markdown of replies: the project's parser, and what every rendering of it needs."""

import unicodedata
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from mdit_py_plugins.tasklists import tasklists_plugin

_CHECKBOX = '<input class="task-list-item-checkbox"'

# Definitions of links would vanish from the text; HTML is shown as it is written.
_parser = (
    MarkdownIt("commonmark", {"html": False})
    .enable(["table", "strikethrough"])
    .disable("reference")
    .use(tasklists_plugin)
)


def parse_blocks(source: str) -> list[SyntaxTreeNode]:
    """Return the blocks of a text."""
    return SyntaxTreeNode(_parser.parse(source)).children


def is_closed(fence: SyntaxTreeNode, lines: Sequence[str]) -> bool:
    """Return True when a fence has its closing line."""
    first, end = fence.map or (0, 0)
    while end > first and (end > len(lines) or not lines[end - 1].strip()):
        end -= 1
    last = lines[end - 1].strip().lstrip("> ") if end - first > 1 else ""
    return last.startswith(fence.markup) and not last.strip(fence.markup[:1])


def is_task(item: SyntaxTreeNode) -> bool:
    """Return whether an item of a list begins with a checkbox."""
    return item.attrGet("class") == "task-list-item"


def checkbox_of(node: SyntaxTreeNode) -> str:
    """Return ☑ or ☐ for the checkbox of a task; empty when the node is none."""
    if node.type != "html_inline" or not node.content.startswith(_CHECKBOX):
        return ""
    return "☑" if "checked=" in node.content else "☐"


def first_number(ordered_list: SyntaxTreeNode) -> int:
    """Return the number of the first item of a list."""
    start = ordered_list.attrGet("start")
    return int(start) if start is not None else 1


def readable_url(url: str) -> str:
    """Return a URL as people read it: without percent signs where they are not needed."""
    return _parser.normalizeLinkText(url)


def text_width(text: str) -> int:
    """Return the columns of a text in a font of fixed width."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )
