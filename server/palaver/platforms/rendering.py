"""Rendering: a reply's Markdown in the dialect of a chat platform.

`render` reads the text with the project's Markdown parser and writes it again through a `Dialect`.
Text of the model never becomes a mention: `Dialect.text` escapes what the platform would read as
one.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlsplit

from markdown_it.tree import SyntaxTreeNode

from palaver.markdown import (
    checkbox_of,
    first_number,
    is_task,
    parse_blocks,
    readable_url,
    text_width,
)

MAX_TABLE_WIDTH = 100
"""Columns of a table that is drawn with characters; a wider one is written as a list."""
WORD_BREAK = "\u200b"
"""Zero-width space: separates a mark from its neighbours, and is not seen."""
_LINK_SCHEMES = frozenset({"http", "https", "mailto"})
_BACKTICKS = re.compile("`+")
_BAR = re.compile(r"(?<!\\)\|")


class Dialect:
    """CommonMark with the extensions of GitHub. A platform's dialect overrides what differs."""

    bullet = "-"
    heading_levels = 6
    has_tables = True
    has_rules = True
    nested_indent = ""
    """Before the further lines of a list's item; empty: as many spaces as its mark takes."""
    quote_mark = "> "

    def text(self, text: str) -> str:
        """Return text with everything escaped that the platform would read as markup."""
        return re.sub(r"([\\`*_{}\[\]<>()#+\-.!|~])", r"\\\1", text)

    def code(self, text: str) -> str:
        """Return the content of code with what would be markup even there made harmless."""
        return text

    def strong(self, text: str) -> str:
        return f"**{text}**"

    def emphasis(self, text: str) -> str:
        return f"*{text}*"

    def strikethrough(self, text: str) -> str:
        return f"~~{text}~~"

    def code_span(self, text: str) -> str:
        mark = "`" * (1 + max((len(run) for run in _BACKTICKS.findall(text)), default=0))
        pad = " " if text.startswith("`") or text.endswith("`") else ""
        return f"{mark}{pad}{self.code(text)}{pad}{mark}"

    def code_block(self, content: str, language: str) -> str:
        longest = max((len(run) for run in _BACKTICKS.findall(content)), default=0)
        mark = "`" * max(3, longest + 1)
        return f"{mark}{language}\n{self.code(content)}\n{mark}"

    def link(self, text: str, url: str) -> str:
        """Return a link; ``text`` is rendered already, ``url`` is of http, https or mailto."""
        return f"[{text}](<{url}>)"

    def autolink(self, url: str) -> str:
        """Return a link that shows its address."""
        return f"<{url}>"

    def heading(self, text: str, level: int) -> str:
        return f"{'#' * min(level, self.heading_levels)} {text}"

    def rule(self) -> str:
        return "---" if self.has_rules else "─" * 12


def escape(text: str) -> str:
    """Return plain text as Markdown."""
    return Dialect().text(text)


def render(source: str, dialect: Dialect) -> str:
    """Return a text in a dialect. Code whose fence is not closed yet is closed."""
    return _Renderer(dialect, source.split("\n")).blocks(parse_blocks(source))


class _Renderer:
    def __init__(self, dialect: Dialect, lines: Sequence[str]) -> None:
        self._dialect = dialect
        self._lines = lines

    def blocks(self, nodes: Iterable[SyntaxTreeNode], separator: str = "\n\n") -> str:
        return separator.join(self._block(node) for node in nodes)

    def _block(self, node: SyntaxTreeNode) -> str:
        renderer = _BLOCKS.get(node.type)
        if renderer is not None:
            return renderer(self, node)
        first, end = node.map or (0, 0)
        return self._dialect.text("\n".join(self._lines[first:end]))

    def _paragraph(self, node: SyntaxTreeNode) -> str:
        return self._inline(node)

    def _heading(self, node: SyntaxTreeNode) -> str:
        return self._dialect.heading(self._inline(node), int(node.tag[1:]))

    def _code(self, node: SyntaxTreeNode) -> str:
        words = node.info.split(maxsplit=1) if node.type == "fence" else []
        language = words[0] if words and re.fullmatch(r"[\w+#.-]{1,40}", words[0]) else ""
        return self._dialect.code_block(node.content.removesuffix("\n"), language)

    def _rule(self, node: SyntaxTreeNode) -> str:
        return self._dialect.rule()

    def _quote(self, node: SyntaxTreeNode) -> str:
        mark = self._dialect.quote_mark
        return _indent(self.blocks(node.children), mark, mark)

    def _list(self, node: SyntaxTreeNode) -> str:
        number = first_number(node)
        items = []
        for index, item in enumerate(node.children):
            ordinal = f"{number + index}{item.markup}"
            mark = ordinal if node.type == "ordered_list" else self._dialect.bullet
            mark = "" if is_task(item) else f"{mark} "
            content = self._item(item.children)
            items.append(_indent(content, mark, self._dialect.nested_indent or " " * len(mark)))
        return "\n".join(items)

    def _item(self, blocks: Sequence[SyntaxTreeNode]) -> str:
        """Return the blocks of an item. Some begin only after an empty line."""
        text = ""
        for block in blocks:
            is_apart = block.type in ("hr", "table") or (
                block.type == "ordered_list" and first_number(block) != 1
            )
            text += ("\n\n" if is_apart else "\n") * bool(text) + self._block(block)
        return text

    def _table(self, node: SyntaxTreeNode) -> str:
        rows = [row.children for part in node.children for row in part.children]
        if self._dialect.has_tables:
            texts = [[self._cell(cell) for cell in row] for row in rows]
            divider = ["---"] * len(texts[0])
            return "\n".join(f"| {' | '.join(row)} |" for row in (texts[0], divider, *texts[1:]))
        plain = [[plain_text(cell) for cell in row] for row in rows]
        drawn = draw_table(plain)
        if max(map(text_width, drawn.split("\n"))) <= MAX_TABLE_WIDTH:
            return self._dialect.code_block(drawn, "")
        return self._table_as_list(rows)

    def _cell(self, cell: SyntaxTreeNode) -> str:
        return _BAR.sub(r"\\|", self._inline(cell).replace("\n", " "))

    def _table_as_list(self, rows: Sequence[Sequence[SyntaxTreeNode]]) -> str:
        """Return a wide table as one list entry for each row: its cells with their headings."""
        dialect = self._dialect
        heads = [_mark(dialect.text(plain_text(cell)), dialect.strong) for cell in rows[0]]
        entries = [
            [f"{head} {self._inline(cell)}" for head, cell in zip(heads, row, strict=False)]
            for row in rows[1:]
        ]
        mark = f"{dialect.bullet} "
        return "\n".join(_indent("\n".join(entry), mark, "  ") for entry in entries or [heads])

    # Text within a block

    def _inline(self, node: SyntaxTreeNode) -> str:
        text = ""
        for child in node.children:
            span = self._span(child)
            text += WORD_BREAK + span if _would_merge(text, span) else span
        return text

    def _span(self, node: SyntaxTreeNode) -> str:
        dialect = self._dialect
        match node.type:
            case "inline":
                return self._inline(node)
            case "softbreak" | "hardbreak":
                return "\n"
            case "code_inline":
                return dialect.code_span(node.content)
            case "link" | "image":
                return self._link(node)
            case "html_inline" if checkbox := checkbox_of(node):
                return checkbox
            case "strong":
                return _mark(self._inline(node), dialect.strong)
            case "em":
                return _mark(self._inline(node), dialect.emphasis)
            case "s":
                return _mark(self._inline(node), dialect.strikethrough)
            case _:
                return dialect.text(node.content)

    def _link(self, node: SyntaxTreeNode) -> str:
        """Return a link; an image is one too. An address that leads nowhere is text."""
        url = str(node.attrGet("href") or node.attrGet("src") or "")
        text = node.content if node.type == "image" else plain_text(node)
        if not is_link(url):
            shown = f"{text} ({url})" if text and url and text != url else text or url
            return self._dialect.text(shown)
        if not text.strip() or text in (url, readable_url(url)):
            return self._dialect.autolink(url)
        if url == f"mailto:{text}":
            return self._dialect.autolink(url)
        inner = self._dialect.text(text) if node.type == "image" else self._inline(node)
        return self._dialect.link(inner, url)


_BLOCKS: dict[str, Callable[[_Renderer, SyntaxTreeNode], str]] = {
    "paragraph": _Renderer._paragraph,
    "heading": _Renderer._heading,
    "fence": _Renderer._code,
    "code_block": _Renderer._code,
    "hr": _Renderer._rule,
    "blockquote": _Renderer._quote,
    "bullet_list": _Renderer._list,
    "ordered_list": _Renderer._list,
    "table": _Renderer._table,
}


def is_link(url: str) -> bool:
    """Return whether an address may become a link: http, https and mailto, without spaces."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        return False
    return scheme in _LINK_SCHEMES and not re.search(r"[\s<>|]", url)


def plain_text(node: SyntaxTreeNode) -> str:
    """Return the text of a node without its marks."""
    if node.type in ("softbreak", "hardbreak"):
        return " "
    if node.type in ("text", "code_inline", "image"):
        return node.content
    if node.children:
        return "".join(map(plain_text, node.children))
    return checkbox_of(node) or node.content


def draw_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns, for a font of fixed width."""
    columns = range(max(map(len, rows)))
    widths = [
        max(text_width(row[column]) for row in rows if column < len(row)) for column in columns
    ]
    drawn = []
    for number, row in enumerate(rows):
        cells = [cell + " " * (widths[at] - text_width(cell)) for at, cell in enumerate(row)]
        drawn.append(" │ ".join(cells).rstrip())
        if number == 0:
            drawn.append("─┼─".join("─" * width for width in widths))
    return "\n".join(drawn)


def _would_merge(text: str, span: str) -> bool:
    """Return whether two spans would be read as one: code beside code, or as an image."""
    return (text.endswith("`") and span.startswith("`")) or (
        text.endswith("!") and span.startswith("[")
    )


def _mark(text: str, mark: Callable[[str], str]) -> str:
    """Put marks around a text: inside its outer spaces, and around nothing if it is empty."""
    stripped = text.strip()
    if not stripped:
        return text
    start = text.index(stripped)
    return text[:start] + mark(stripped) + text[start + len(stripped) :]


def _indent(text: str, first: str, rest: str) -> str:
    """Put ``first`` before the first line, and ``rest`` before the others."""
    return first + text.replace("\n", f"\n{rest}")
