"""Spans: what of a block's text must not change, as the rules of markdown-it-py find it.

Each inline rule is wrapped to note where it matches. Everything that no rule claims is prose.
"""

import re
from collections.abc import Callable, Iterator

from markdown_it import MarkdownIt
from markdown_it.helpers import parseLinkLabel
from markdown_it.rules_inline import StateInline
from markdown_it.utils import EnvType
from mdit_py_plugins.admon import admon_plugin
from mdit_py_plugins.deflist import deflist_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.footnote import footnote_plugin

from palaver_skills.placeholders import VARIABLE, find_placeholder

Range = tuple[int, int]
_RAW_NAMES = "code pre script style textarea kbd samp var tt svg math".split()
RAW_ELEMENT = re.compile(rf"<({'|'.join(_RAW_NAMES)})(?=[\s>])[^<>]{{0,2000}}>", re.IGNORECASE)
"""An element whose content is code."""
RAW_END = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _RAW_NAMES}
_TEXT = re.compile(
    r"[^\W_\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff]++|[\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff]++"
    r"|[^\w\n!\"#$%&*+\-:<=>@\[\]\\^`{}~⟦\U000F0000-\U000FFFFD]++"
)
"""A word, or characters with which no span begins."""
_WINDOW = 4_000
"""Characters of a block in which a span must begin and end."""


class _Scanner(StateInline):
    """State of the inline parser that notes which ranges of its text are fixed."""

    def __init__(self, text: str, env: EnvType) -> None:
        super().__init__(text, PARSER, env, [])
        self.fixed: list[Range] = []
        self.placeholders: dict[int, tuple[int, list[Range]]] = {}
        self.braces: dict[int, int] | None = None


Rule = Callable[[StateInline, bool], bool]


def find_fixed(text: str, env: EnvType) -> Iterator[Range]:
    """Yield the ranges of a block's text that must not change."""
    start = 0
    while start < len(text):
        end = start + _WINDOW
        if end < len(text):
            end = max(text.rfind("\n", start, end), text.rfind(" ", start, end)) + 1 or end
        scanner = _Scanner(text[start:end], env)
        PARSER.inline.tokenize(scanner)
        yield from ((start + a, start + b) for a, b in scanner.fixed)
        start = end


def _note(name: str, rule: Rule) -> Rule:
    """Return a rule that notes what is fixed where it matches."""

    def noting(state: StateInline, silent: bool) -> bool:
        start = state.pos
        if not rule(state, silent):
            return False
        if name == "math_inline" and state.src[state.pos : state.pos + 1].isalnum():
            state.pos = start
            return False
        if isinstance(state, _Scanner) and not silent:
            state.fixed += _find_fixed(name, state, start, state.pos)
        return True

    return noting


def _find_fixed(name: str, state: _Scanner, start: int, end: int) -> list[Range]:
    """Return what is fixed of a range that a rule has matched."""
    if name in ("text", "newline"):
        return []
    if name == "placeholder":
        return state.placeholders[start][1]
    if name == "footnote_inline":
        inside = find_fixed(state.src[start + 2 : end - 1], state.env)
        return [
            (start, start + 2),
            *((start + 2 + a, start + 2 + b) for a, b in inside),
            (end - 1, end),
        ]
    if name not in ("link", "image"):
        return [(start, end)]
    first = start + (2 if name == "image" else 1)
    last = parseLinkLabel(state, first - 1, name == "link")
    is_key = state.src[last + 1 : end] in ("", "[]")
    if last < first or is_key:
        return [(start, end)]
    inner = find_fixed(state.src[first:last], state.env) if name == "image" else ()
    return [(start, first), *((first + a, first + b) for a, b in inner), (last, end)]


def _read_text(state: StateInline, silent: bool) -> bool:
    """Skip a word, so that a span may begin with the next one."""
    match = _TEXT.match(state.src, state.pos, state.posMax)
    if match:
        state.pos = match.end()
    return match is not None


def _read_placeholder(state: StateInline, silent: bool) -> bool:
    if not isinstance(state, _Scanner):
        return False
    found = state.placeholders.get(state.pos) or _find_raw(state)
    if found is None:
        found = find_placeholder(state.src, state.pos, state)
    if found is None or found[0] > state.posMax:
        return False
    state.placeholders[state.pos] = found
    state.pos = found[0]
    return True


def _read_variable(state: StateInline, silent: bool) -> bool:
    """Read ``$name``, which no formula has claimed."""
    match = VARIABLE.match(state.src, state.pos, state.posMax)
    if match:
        state.pos = match.end()
    return match is not None


def _find_raw(state: _Scanner) -> tuple[int, list[Range]] | None:
    """Return the end of an element whose content is code."""
    match = RAW_ELEMENT.match(state.src, state.pos) if state.src[state.pos] == "<" else None
    if match is None:
        return None
    closing = RAW_END[match[1].lower()].search(state.src, match.end())
    end = closing.end() if closing else match.end()
    return end, [(state.pos, end)]


def _build_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    parser.use(footnote_plugin).use(deflist_plugin).use(admon_plugin)
    parser.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True)
    parser.core.ruler.enableOnly(["normalize", "block"])
    ruler = parser.inline.ruler
    ruler.at("text", _read_text)
    ruler.push("variable", _read_variable)
    ruler.before("text", "placeholder", _read_placeholder)
    for name, rule in zip(ruler.get_active_rules(), ruler.getRules(""), strict=True):
        ruler.at(name, _note(name, rule))
    return parser


PARSER = _build_parser()
