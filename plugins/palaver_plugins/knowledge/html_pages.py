"""Text of HTML pages as Markdown, which keeps headings, lists, tables and preformatted text."""

import re
from collections.abc import Callable, Iterator, Sequence

from selectolax.lexbor import LexborHTMLParser, LexborNode

MAX_DEPTH = 1_000
"""Elements inside each other; browsers read 512. The parser's time grows with the depth."""
MAX_ATTRIBUTES = 2_000
"""Attributes of one element; the parser's time grows with their square."""
MAX_SPAN = 20
"""Columns or rows that one cell takes at most."""

SILENT = frozenset(
    "head script style template noscript svg iframe object audio video canvas datalist rt rp"
    " annotation noembed noframes".split()
)
"""Elements whose content nobody reads as a text of the page."""
BLOCKS = frozenset(
    "html body p div section article main header footer aside ul ol menu li blockquote figure"
    " figcaption table caption thead tbody tfoot tr td th dl dt dd hr form fieldset legend details"
    " summary address dialog search h1 h2 h3 h4 h5 h6 pre listing xmp plaintext option optgroup"
    " button textarea hgroup center".split()
)
LAYOUT = frozenset({"table", "h1", "h2", "h3", "h4", "h5", "h6", "form", "article", "section"})
"""Content of a cell that tells a table for the layout of the page."""
PREFORMATTED = frozenset({"pre", "listing", "xmp", "plaintext"})
OPTIONAL_END = frozenset({"p", "li", "td", "th", "tr", "dt", "dd", "option"})
"""Elements without a necessary end."""
VOID = frozenset(
    "area base br col embed hr img input link meta param source track wbr thead tbody tfoot"
    " colgroup html head body".split()
)
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/<>]*)([^<>]*)")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_ATTRIBUTE = re.compile(r"[^\s/=]+")
_SELF_CLOSED = re.compile(
    r"<(script|style|title|iframe|noscript|textarea|div|span|p|a)(\s[^<>]*)?/>"
)
_SPACES = re.compile(r"\s+")
_HIDDEN = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_LOOKS_LIKE_BLOCK = re.compile(r"(?:#{1,6}\s|```|~~~|=+\s*$|-{2,}\s*$|\|)")


class TooComplex(Exception):
    """The page has a form that takes too long to read, named in the message."""


def read_page(text: str) -> tuple[str, str]:
    """Return title and text of a page. Raises `TooComplex`."""
    _check_form(text)
    if text[:200].lstrip().startswith("<?xml"):
        text = _SELF_CLOSED.sub(r"<\1\2></\1>", text)
    page = LexborHTMLParser(text, scripting=True)
    body = page.body or page.css_first("frameset")
    title = _find_title(page)
    if body is None:
        return title, ""
    if body.tag == "frameset":
        return title, _read_frames(body)
    mains = [
        _render(node) for node in page.css(":is(main, [role=main])") if not _is_not_outermost(node)
    ]
    main = "\n\n".join(filter(None, mains))
    return title, main or _render(body) or _render(body, _is_unseen)


def read_fragment(text: str) -> str:
    """Return the text of HTML inside of a Markdown text. Raises `TooComplex`."""
    _check_form(text)
    body = LexborHTMLParser(text, scripting=True).body
    return "" if body is None else _render(body)


def _check_form(text: str) -> None:
    depth = 0
    for end, name, rest in _TAG.findall(text):
        name = name.lower()
        if name not in VOID and name not in OPTIONAL_END and not rest.endswith("/"):
            depth = max(0, depth - 1) if end else depth + 1
        if depth > MAX_DEPTH:
            raise TooComplex(f"its elements are nested more than {MAX_DEPTH:_} deep")
        if len(rest) > MAX_ATTRIBUTES:
            names = _ATTRIBUTE.findall(_QUOTED.sub(" ", rest))
            if len(names) > MAX_ATTRIBUTES:
                raise TooComplex(f"an element has more than {MAX_ATTRIBUTES:_} attributes")


def _find_title(page: LexborHTMLParser) -> str:
    for node in (*page.css("head > title")[:1], *page.css("title")[:100]):
        if not any(parent.tag in ("svg", "math", "template") for parent in _parents(node)):
            if title := _SPACES.sub(" ", node.text()).strip():
                return title
    return next(filter(None, (_render_line(node) for node in page.css("h1")[:10])), "")


def _parents(node: LexborNode) -> Iterator[LexborNode]:
    parent = node.parent
    while parent is not None:
        yield parent
        parent = parent.parent


def _is_not_outermost(node: LexborNode) -> bool:
    return any(
        parent.tag == "main" or parent.attributes.get("role") == "main" or _is_silent(parent)
        for parent in _parents(node)
        if parent.is_element_node
    ) or _is_silent(node)


def _read_frames(frameset: LexborNode) -> str:
    texts = [read_fragment(node.text()) for node in frameset.css("noframes")]
    return "\n\n".join(filter(None, texts))


def find_frames(text: str) -> list[str]:
    """Return the addresses of the pages that a page of frames shows."""
    _check_form(text)
    frames = LexborHTMLParser(text).css("frame, iframe")
    return [source for frame in frames if (source := frame.attributes.get("src"))]


def _is_unseen(node: LexborNode) -> bool:
    """Return True for an element that a browser does not show."""
    tag = node.tag or ""
    if tag in SILENT:
        return True
    attributes = node.attributes
    is_tab = attributes.get("role") == "tabpanel"
    return (
        ("hidden" in attributes and attributes["hidden"] != "until-found" and not is_tab)
        or (tag == "dialog" and "open" not in attributes)
        or bool(_HIDDEN.search(attributes.get("style") or ""))
    )


def _is_silent(node: LexborNode) -> bool:
    """Return True for what is not shown, or only leads to other pages."""
    return (
        _is_unseen(node)
        or node.tag == "nav"
        or node.attributes.get("role") == "navigation"
        or (node.tag == "footer" and _is_of_site(node))
        or (node.tag == "a" and _is_permalink(node))
    )


def _is_permalink(link: LexborNode) -> bool:
    """Return True for the sign beside a heading that links to the heading, as ``¶``."""
    if not (link.attributes.get("href") or "").startswith("#"):
        return False
    sign = link.text().strip()
    return 0 < len(sign) <= 2 and not any(map(str.isalnum, sign))


def _is_of_site(footer: LexborNode) -> bool:
    inner = ("article", "section", "main", "blockquote", "figure")
    return not any(parent.tag in inner for parent in _parents(footer))


# Walking


def _walk(
    root: LexborNode, is_silent: Callable[[LexborNode], bool] = _is_silent
) -> Iterator[tuple[LexborNode, bool]]:
    """Yield each node in its order, and each element again at its end, with True."""
    ends = [root]
    pending: list[LexborNode | None] = [root.first_child]
    while pending:
        node = pending.pop()
        if node is None:
            end = ends.pop()
            if ends:
                yield end, True
            continue
        pending.append(node.next)
        if not node.is_element_node:
            yield node, False
        elif not is_silent(node):
            yield node, False
            ends.append(node)
            pending.append(node.first_child)


def _text_of(node: LexborNode) -> str:
    if node.is_text_node:
        return node.text_content or ""
    comment = (node.comment_content or "") if node.is_comment_node else ""
    if comment.startswith("[CDATA["):  # of XHTML, a comment to the parser
        return comment.removeprefix("[CDATA[").removesuffix("]]")
    return ""


def _render_line(root: LexborNode) -> str:
    """Return the text of an element in one line."""
    parts: list[str] = []
    for node, is_end in _walk(root):
        tag = node.tag or ""
        if not node.is_element_node:
            parts.append(_text_of(node))
        elif tag in BLOCKS or tag == "br":
            parts.append(" ")
        elif tag == "img" and not is_end:
            parts.append(_alternative(node))
        elif tag == "sup" and not is_end:
            parts.append(_raise(parts))
    return _SPACES.sub(" ", "".join(parts)).strip()


def _raise(before: Sequence[str]) -> str:
    """Return what keeps a raised number from becoming part of the number before it."""
    return "^" if before and before[-1][-1:].isdigit() else ""


def _alternative(image: LexborNode) -> str:
    return image.attributes.get("alt") or ""


# Rendering


def _render(root: LexborNode, is_silent: Callable[[LexborNode], bool] = _is_silent) -> str:
    writer = _Writer()
    skipped: LexborNode | None = None
    for node, is_end in _walk(root, is_silent):
        if skipped is not None:
            if is_end and node.mem_id == skipped.mem_id:
                skipped = None
        elif not node.is_element_node:
            writer.write(_text_of(node))
        elif is_end:
            writer.end(node.tag or "")
        elif writer.start(node):
            skipped = node
    return writer.text()


class _Writer:
    """Markdown that is written element by element."""

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._line: list[str] = []
        self._mark = ""
        """Mark before the next line of text, as that of a list item."""
        self._lists: list[int | None] = []
        """Number of the next item of each open list, None for bullets."""
        self._is_tight = False

    def write(self, text: str) -> None:
        self._line.append(_SPACES.sub(" ", text))

    def start(self, node: LexborNode) -> bool:
        """Begin an element. Return True when it is written as a whole."""
        tag = node.tag or ""
        if tag in BLOCKS:
            self._flush()
        if tag == "br":
            self._line.append("\n")
        elif tag == "sup":
            self._line.append(_raise(self._line))
        elif tag == "img":
            self._line.append(f" {_alternative(node)} ")
        elif tag in PREFORMATTED:
            self._add(_render_fence(node))
        elif tag == "table" and not _is_layout(node):
            self._add(_render_table(node))
        elif tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self._add_heading(int(tag[1]), _render_line(node))
        else:
            self._start_list(node, tag)
            return False
        return tag not in ("br", "img", "sup")

    def _start_list(self, node: LexborNode, tag: str) -> None:
        if tag in ("ul", "menu", "ol"):
            start = node.attributes.get("start") or "1"
            first = int(start) if start.isascii() and start.isdigit() and len(start) < 9 else 1
            self._lists.append(first if tag == "ol" else None)
        elif tag in ("li", "option"):
            number = self._lists[-1] if self._lists else None
            self._mark = "- " if number is None else f"{number}. "
            if number is not None:
                self._lists[-1] = number + 1
        elif tag == "dd":
            self._mark = ": "

    def end(self, tag: str) -> None:
        if tag in BLOCKS:
            self._flush()
        if tag in ("ul", "menu", "ol") and self._lists:
            self._lists.pop()
            self._is_tight = self._is_tight and bool(self._lists)
        if tag in ("li", "option", "dd"):
            self._mark = ""

    def _add_heading(self, level: int, name: str) -> None:
        if name:
            self._add(f"{'#' * level} {name}" if not self._lists else name)

    def _flush(self) -> None:
        lines = ("".join(self._line)).split("\n")
        self._line = []
        text = "\n".join(filter(None, (_escape(line.strip()) for line in lines)))
        if text:
            self._add(text)

    def _add(self, block: str) -> None:
        if not block:
            return
        is_item = bool(self._mark)
        widths = [2 if number is None else len(f"{number - 1}. ") for number in self._lists[:10]]
        outer = " " * sum(widths[:-1])
        first = f"{outer}{self._mark}" if is_item else " " * sum(widths)
        rest = first if not is_item else " " * len(first)
        text = first + block.replace("\n", f"\n{rest}")
        self._blocks.append("\n" if self._is_tight and is_item and self._blocks else "\n\n")
        self._blocks.append(text)
        self._is_tight = is_item
        self._mark = ""

    def text(self) -> str:
        self._flush()
        return "".join(self._blocks).strip("\n")


def _escape(line: str) -> str:
    """Keep a line of text from being read as a heading, a fence, an underline or a table."""
    return f"\\{line}" if _LOOKS_LIKE_BLOCK.match(line) else line


def _render_fence(node: LexborNode) -> str:
    parts: list[str] = []
    for inner, is_end in _walk(node):
        if inner.is_element_node:
            parts.append("\n" if inner.tag == "br" and not is_end else "")
        else:
            parts.append(_text_of(inner))
    code = "".join(parts).strip("\n").rstrip()
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{code}\n{fence}" if code.strip() else ""


# Tables


def _is_layout(table: LexborNode) -> bool:
    """Return True for a table that arranges the page or has a single column."""
    if table.attributes.get("role") in ("presentation", "none"):
        return True
    has_columns = False
    for node, is_end in _walk(table):  # no selector: it would search inner tables again and again
        tag = node.tag or ""
        if tag in LAYOUT or (tag in PREFORMATTED and not is_end and "\n" in node.text().strip()):
            return True
        previous = node.prev if tag in ("td", "th") and not is_end else None
        while previous is not None and not previous.is_element_node:
            previous = previous.prev
        has_columns = has_columns or previous is not None
    return not has_columns


def _render_table(table: LexborNode) -> str:
    """Return a Markdown table. The first row is the header."""
    captions = [_render_line(caption) for caption in table.css("caption")[:1]]
    rows = list(_lay_out(table.css("tr")))
    width = max((len(row) for row in rows), default=0)
    lines = ["| " + " | ".join([*row, *[""] * (width - len(row))]) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * width)
    return "\n\n".join([*filter(None, captions), "\n".join(lines)]) if any(map(any, rows)) else ""


def _lay_out(rows: Sequence[LexborNode]) -> Iterator[list[str]]:
    """Yield the cells of each row, those that span several rows again in each."""
    spanning: dict[int, tuple[int, str]] = {}
    for row in rows:
        if _is_silent(row):
            continue
        line: list[str] = []
        cells = [cell for cell in row.iter() if cell.tag in ("td", "th") and not _is_silent(cell)]
        for cell in cells:
            _repeat_from_above(line, spanning)
            text = _render_line(cell).replace("|", "\\|")
            for repeat in range(_span(cell, "colspan")):
                spanning[len(line)] = (_span(cell, "rowspan") - 1, text if not repeat else "")
                line.append(text if not repeat else "")
        _repeat_from_above(line, spanning)
        yield line


def _repeat_from_above(line: list[str], spanning: dict[int, tuple[int, str]]) -> None:
    while (above := spanning.get(len(line), (0, "")))[0]:
        spanning[len(line)] = (above[0] - 1, above[1])
        line.append(above[1])


def _span(cell: LexborNode, name: str) -> int:
    value = cell.attributes.get(name) or ""
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 9 else 1
    return min(max(number, 1), MAX_SPAN)
