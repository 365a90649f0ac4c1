"""Markdown for a terminal: runs of text with a style, to be written one after the other."""

from collections.abc import Callable, Iterable, Sequence
from os.path import commonprefix
from typing import NamedTuple

from markdown_it.tree import SyntaxTreeNode

from palaver.markdown import (
    checkbox_of,
    first_number,
    is_closed,
    is_task,
    readable_url,
    text_width,
)

Style = frozenset[tuple[str, bool | str]]
"""Arguments of `click.style`."""
PLAIN: Style = frozenset()
BOLD: Style = frozenset({("bold", True)})
DIM: Style = frozenset({("dim", True)})
ITALIC: Style = frozenset({("italic", True)})
LINK: Style = frozenset({("underline", True)})
STRUCK: Style = frozenset({("strikethrough", True)})
CODE: Style = frozenset({("fg", "cyan")})
INLINE_STYLES = {"strong": BOLD, "em": ITALIC, "s": STRUCK}


class Run(NamedTuple):
    """Text with one style."""

    text: str
    style: Style = PLAIN


def render_blocks(
    blocks: Iterable[SyntaxTreeNode], lines: Sequence[str], separator: str = "\n\n"
) -> list[Run]:
    """Return blocks of a source with these ``lines``."""
    runs: list[Run] = []
    for block in blocks:
        rendered = RENDERERS.get(block.type, _render_unknown)(block, lines)
        runs += [Run(separator), *rendered] if runs else rendered
    return runs


def plain_text(runs: Iterable[Run]) -> str:
    return "".join([run.text for run in runs])


def common_length(one: str, other: str) -> int:
    """Return the number of characters with which both texts begin."""
    return len(commonprefix([one, other]))  # noqa: RUF071  characters are what counts


def skip_text(runs: Iterable[Run], length: int) -> list[Run]:
    """Return ``runs`` without their first ``length`` characters."""
    rest = []
    for run in runs:
        if len(run.text) > length:
            rest.append(Run(run.text[length:], run.style))
        length = max(0, length - len(run.text))
    return rest


def take_text(runs: Iterable[Run], length: int) -> list[Run]:
    """Return the first ``length`` characters of ``runs``."""
    taken = []
    for run in runs:
        if length > 0:
            taken.append(Run(run.text[:length], run.style))
        length -= len(run.text)
    return taken


# Blocks


def _render_paragraph(node: SyntaxTreeNode, lines: Sequence[str]) -> list[Run]:
    return _render_inline(node)


def _render_heading(node: SyntaxTreeNode, lines: Sequence[str]) -> list[Run]:
    return _render_inline(node, BOLD | LINK if node.tag == "h1" else BOLD)


def _render_fence(node: SyntaxTreeNode, lines: Sequence[str]) -> list[Run]:
    runs = [Run(f"{node.markup}{node.info}".rstrip(), DIM)]
    if content := node.content.removesuffix("\n"):
        runs += [Run("\n"), Run(content, CODE)]
    if is_closed(node, lines):
        runs += [Run("\n"), Run(node.markup, DIM)]
    return runs


def _render_code_block(node: SyntaxTreeNode, lines: Sequence[str]) -> list[Run]:
    return _indent([Run(node.content.removesuffix("\n"), CODE)], Run("    "), Run("    "))


def _render_rule(node: SyntaxTreeNode, lines: Sequence[str]) -> list[Run]:
    return [Run("─" * 20, DIM)]


def _render_quote(node: SyntaxTreeNode, lines: Sequence[str]) -> list[Run]:
    mark = Run("│ ", DIM)
    return _indent(render_blocks(node.children, lines), mark, mark)


def _render_list(node: SyntaxTreeNode, lines: Sequence[str]) -> list[Run]:
    runs: list[Run] = []
    number = first_number(node)
    for index, item in enumerate(node.children):
        mark = f"{number + index}{item.markup} " if node.type == "ordered_list" else "• "
        if is_task(item):
            mark = ""
        content = render_blocks(item.children, lines, "\n")
        rest = Run(" " * (len(mark) or 2))
        runs += [Run("\n")] if runs else []
        runs += _indent(content, Run(mark), rest) if content else [Run(mark.rstrip())]
    return runs


def _render_table(node: SyntaxTreeNode, lines: Sequence[str]) -> list[Run]:
    rows = [
        [_render_inline(cell, BOLD if cell.type == "th" else PLAIN) for cell in row.children]
        for part in node.children
        for row in part.children
    ]
    columns = range(max(map(len, rows)))
    widths = [max(_width(row[column]) for row in rows if column < len(row)) for column in columns]
    runs: list[Run] = []
    for number, row in enumerate(rows):
        runs += [Run("\n")] if runs else []
        for column, cell in enumerate(row):
            runs += [Run(" │ ", DIM)] if column else []
            runs += [*cell, Run(" " * (widths[column] - _width(cell)))]
        if number == 0:
            runs += [Run("\n"), Run("─┼─".join(["─" * width for width in widths]), DIM)]
    return runs


def _render_unknown(node: SyntaxTreeNode, lines: Sequence[str]) -> list[Run]:
    first, end = node.map or (0, 0)
    return [Run("\n".join(lines[first:end]))]


RENDERERS: dict[str, Callable[[SyntaxTreeNode, Sequence[str]], list[Run]]] = {
    "paragraph": _render_paragraph,
    "heading": _render_heading,
    "fence": _render_fence,
    "code_block": _render_code_block,
    "hr": _render_rule,
    "blockquote": _render_quote,
    "bullet_list": _render_list,
    "ordered_list": _render_list,
    "table": _render_table,
}


def _indent(runs: Iterable[Run], first: Run, rest: Run) -> list[Run]:
    """Put ``first`` before the first line of ``runs``, and ``rest`` before the others."""
    indented = [first]
    for run in runs:
        for number, line in enumerate(run.text.split("\n")):
            indented += [Run("\n"), rest] if number else []
            indented.append(Run(line, run.style))
    return indented


def _width(runs: Iterable[Run]) -> int:
    """Return the columns that a terminal takes for ``runs``."""
    return sum(text_width(run.text) for run in runs)


# Text within a block


def _render_inline(node: SyntaxTreeNode, style: Style = PLAIN) -> list[Run]:
    runs: list[Run] = []
    for child in node.children:
        match child.type:
            case "inline":
                runs += _render_inline(child, style)
            case "softbreak" | "hardbreak":
                runs.append(Run("\n", style))
            case "code_inline":
                runs.append(Run(child.content, style | CODE))
            case "link" | "image":
                runs += _render_link(child, style)
            case "html_inline" if checkbox := checkbox_of(child):
                runs.append(Run(checkbox, style))
            case kind if kind in INLINE_STYLES:
                runs += _render_inline(child, style | INLINE_STYLES[kind])
            case _:
                runs.append(Run(child.content, style))
    return runs


def _render_link(node: SyntaxTreeNode, style: Style) -> list[Run]:
    """Return the text of a link, or what an image shows, and the address after it."""
    address = readable_url(str(node.attrGet("href") or node.attrGet("src") or ""))
    text = _render_inline(node, style | LINK) if node.type == "link" else []
    text = text or [Run(node.content if node.type == "image" else "", style | LINK)]
    shown = plain_text(text)
    if address in (shown, f"mailto:{shown}"):
        return text
    return [*text, Run(f" ({address})", style | DIM)] if shown else [Run(address, style | LINK)]
