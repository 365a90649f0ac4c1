"""Discord's dialect of Markdown as HTML: how people see the text of a message."""

import re
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml as escape
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

MENTION = re.compile(r"<(@!?|@&|#)([0-9]{1,20})>|@(everyone|here)\b")
LINE = re.compile(r"(-#|#{1,3})[ \t]+(?=\S)")
URL = re.compile(r"https?://[^\s<>|\"']*[^\s<>|\"'.,:;!?]")
SMALL = "-#"

Name = Callable[[str, int], str]
"""Returns the name of a person (``@``), a role (``@&``) or a channel (``#``) by its id."""


def render_markdown(text: str, name: Name) -> str:
    """Return a text as HTML; everything else in it is escaped."""
    html: str = _parser.render(text, {"name": name})
    return html


def make_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    parser.enable("strikethrough")
    parser.disable(["code", "reference", "hr", "heading", "lheading", "image", "entity"])
    parser.block.ruler.before("paragraph", "line", read_line, {"alt": ["paragraph", "blockquote"]})
    parser.inline.ruler.before("autolink", "mention", read_mention)
    parser.core.ruler.push("urls", link_urls)
    for kind in ("strong_open", "strong_close"):
        parser.add_render_rule(kind, render_strong)
    parser.add_render_rule("mention", render_mention)
    return parser


def read_mention(state: StateInline, silent: bool) -> bool:
    found = MENTION.match(state.src, state.pos)
    if not found:
        return False
    if not silent:
        token = state.push("mention", "", 0)
        token.meta = {"sign": found.group(1) or "", "id": found.group(2) or found.group(3)}
    state.pos = found.end()
    return True


def read_line(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Read a heading of the levels 1 to 3, or a line of small print (``-#``)."""
    line = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    found = LINE.match(line)
    if not found:
        return False
    if silent:
        return True
    mark = found.group(1)
    tag = "p" if mark == SMALL else f"h{len(mark)}"
    opening = state.push("line_open", tag, 1)
    if mark == SMALL:
        opening.attrSet("class", "small")
    inline = state.push("inline", "", 0)
    inline.content, inline.children = line[found.end() :].strip(), []
    state.push("line_close", tag, -1)
    state.line = start + 1
    return True


def link_urls(state: StateCore) -> None:
    """Make links of the addresses in the text, as Discord does."""
    for token in state.tokens:
        children: list[Token] = []
        depth = 0
        for child in token.children or []:
            depth += (child.type == "link_open") - (child.type == "link_close")
            children += [child] if depth or child.type != "text" else split_urls(child)
        if token.children is not None:
            token.children = children


def split_urls(text: Token) -> list[Token]:
    """Return a text as tokens, with its addresses as links."""
    tokens: list[Token] = []
    end = 0
    for found in URL.finditer(text.content):
        tokens += [text_token(text.content[end : found.start()])]
        url = found.group()
        tokens += [Token("link_open", "a", 1, attrs={"href": url}), text_token(url)]
        tokens += [Token("link_close", "a", -1)]
        end = found.end()
    return [*tokens, text_token(text.content[end:])]


def text_token(content: str) -> Token:
    return Token("text", "", 0, content=content)


def render_strong(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    index: int,
    options: Any,
    environment: MutableMapping[str, Any],
) -> str:
    """Return bold text for ``**`` and underlined text for ``__``."""
    tag = "u" if tokens[index].markup == "__" else "strong"
    return f"<{tag}>" if tokens[index].nesting == 1 else f"</{tag}>"


def render_mention(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    index: int,
    options: Any,
    environment: MutableMapping[str, Any],
) -> str:
    sign, target = tokens[index].meta["sign"], tokens[index].meta["id"]
    if not sign:
        return f'<span class="mention">@{target}</span>'
    kind = "#" if sign == "#" else "@"
    name = environment["name"](sign, int(target))
    return f'<span class="mention">{kind}{escape(name)}</span>'


_parser = make_parser()
