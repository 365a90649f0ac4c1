"""Texts that keep a regular expression busy, derived from the patterns of the code.

Of every repeat in a pattern: what matches before it, a long run of what it repeats, and a character
that ends the match; and the same many times, because a search begins again at every position.
"""

import ast
import importlib
import pkgutil
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeGuard

import palaver
import palaver_plugins
import palaver_skills
from palaver import Skill

with warnings.catch_warnings(action="ignore"):
    from re import _constants as codes  # type: ignore[attr-defined, unused-ignore]
    from re import _parser  # type: ignore[attr-defined, unused-ignore]

PACKAGES = (palaver, palaver_plugins, palaver_skills)
OPTIONAL = frozenset({"vllm", "torch", "transformers", "openvino", "openvino_genai", "gguf"})
"""Packages that a module may need, and that need not be installed."""
FLAGS = re.IGNORECASE | re.DOTALL
"""Those of the patterns of skills."""
ENDS = ("\0", "!", "b ")
RUNS = (
    "!", " ", "\n", "\t", ".", "…", "?!", "1", "1.", "1,", '"', "'", "“", "„", "«", "「", "(",
    "[", "[[", "](", "<", "<a ", "<!--", "{", "{{", "{%", "`", "`a", "``` ", "~", "~~~\n", "*",
    "_", "-", "=", "|", "| ", "#", "\\", "$", "$$", "&#1", "@a", ":a", "%", "http://", "www.",
    "a.", "a", "aB", "é", "e\u0301", "\u0301", "漢", "用", "把", "。", "！ ", "👩\u200d",
    "\u200d", "\u00a0", "\u3000", "\r\n", "\n \n", " \n", "/", "/a ", "translate ", "in to ",
    "from de ", "summarize ", "in German ", "[1]", "[1,", "⟦1", "print(", "0x",
)  # fmt: skip
"""Runs that no pattern needs to name."""


class Source(NamedTuple):
    """A pattern, where it is, and the methods that are called on it."""

    where: str
    pattern: str
    flags: int
    methods: tuple[str, ...] = ("search", "fullmatch")


# Collecting


def modules() -> Iterator[ModuleType]:
    """Import and yield every module of the project."""
    for package in PACKAGES:
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                yield importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] not in OPTIONAL:
                    raise


def compiled_patterns(module: ModuleType) -> Iterator[Source]:
    """Yield the compiled patterns of a module, and those of the skills that it defines."""
    methods = _methods_of(module)
    for name, value in vars(module).items():
        where = f"{module.__name__}.{name}"
        for pattern in _patterns_in(value):
            used = methods.get(name, set()) or {"search", "fullmatch"}
            yield Source(where, pattern.pattern, pattern.flags, tuple(sorted(used)))
        if (
            isinstance(value, type)
            and issubclass(value, Skill)
            and value.__module__ == module.__name__
        ):
            for number, written in enumerate(value.patterns):
                yield Source(f"{where}.patterns[{number}]", written, int(FLAGS))


def _methods_of(module: ModuleType) -> dict[str, set[str]]:
    """Return by name the methods that the module calls on its values, as `match` or `search`."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(_tree_of(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            kind = node.attr if node.attr in ("match", "fullmatch", "pattern") else "search"
            found.setdefault(node.value.id, set()).add(kind)
    return {name: used - {"pattern"} for name, used in found.items()}


def _tree_of(module: ModuleType) -> ast.AST:
    return ast.parse(Path(module.__file__).read_text("utf-8") if module.__file__ else "")


def _patterns_in(value: object) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        if isinstance(value.pattern, str):
            yield value
    elif isinstance(value, Mapping):
        yield from _patterns_in(tuple(value.values()))
    elif isinstance(value, tuple | list | set | frozenset):
        for item in value:
            yield from _patterns_in(item)


class Call(NamedTuple):
    """A call of a function of `re` inside a function: the pattern, None when it is computed."""

    where: str
    pattern: str | None
    method: str


def calls(module: ModuleType) -> Iterator[Call]:
    """Yield the calls of `re` in the functions of a module; those outside are compiled patterns."""
    for function in ast.walk(_tree_of(module)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if _is_re_call(node):
                    assert isinstance(node.func, ast.Attribute)
                    written = node.args[0]
                    constant = isinstance(written, ast.Constant) and written.value
                    pattern = constant if isinstance(constant, str) else None
                    attribute = node.func.attr
                    method = attribute if attribute in ("match", "fullmatch") else "search"
                    yield Call(f"{module.__name__}.{function.name}", pattern, method)


def _is_re_call(node: ast.AST) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "re"
        and node.func.attr not in ("escape", "purge")
    )


# Pumping


def pumped(source: Source, length: int) -> Iterator[str]:
    """Yield hostile texts of about ``length`` characters for a pattern."""
    tree = _parser.parse(source.pattern, source.flags & ~re.DEBUG)
    seen: set[tuple[str, str]] = set()
    for before, body in _repeats(tree, ""):
        if (before, body) in seen or not body:
            continue
        seen.add((before, body))
        for end in ENDS:
            yield before + run_of(body, length) + end
        yield run_of(before + body, length) + ENDS[0]
        yield run_of(before + body * 50 + ENDS[0], length)


def run_of(unit: str, length: int) -> str:
    return unit * max(2, length // len(unit))


def _repeats(items: Iterable[Any], before: str) -> Iterator[tuple[str, str]]:
    """Yield a match of what precedes each repeat, and one of what it repeats."""
    for code, argument in items:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            _, most, body = argument
            if most > 3:
                yield before, _example(body)
            yield from _repeats(body, before)
        elif code is codes.SUBPATTERN:
            yield from _repeats(argument[-1], before)
        elif code is codes.ATOMIC_GROUP:
            yield from _repeats(argument, before)
        elif code in (codes.ASSERT, codes.ASSERT_NOT):
            yield from _repeats(argument[1], before)
        elif code is codes.BRANCH:
            for branch in argument[1]:
                yield from _repeats(branch, before)
        before += _example([(code, argument)])


def _example(items: Iterable[Any]) -> str:
    """Return a text that the items match, as far as that is easy to tell."""
    return "".join(_example_of(code, argument) for code, argument in items)


def _example_of(code: Any, argument: Any) -> str:
    if code is codes.LITERAL:
        return chr(argument)
    if code is codes.NOT_LITERAL:
        return "a" if argument != ord("a") else "b"
    if code is codes.ANY:
        return "a"
    if code is codes.IN:
        return _member(argument)
    if code is codes.BRANCH:
        return _example(argument[1][0])
    if code is codes.SUBPATTERN:
        return _example(argument[-1])
    if code is codes.ATOMIC_GROUP:
        return _example(argument)
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
        return _example(argument[2]) * max(1, min(int(argument[0]), 3))
    return ""


CANDIDATES = "a1 _-.!?,;:()[]{}<>|/\\\"'`~@#$%^&*+=\n\tÄé漢。\u00a0"
_CATEGORIES = {
    codes.CATEGORY_DIGIT: r"\d", codes.CATEGORY_NOT_DIGIT: r"\D", codes.CATEGORY_SPACE: r"\s",
    codes.CATEGORY_NOT_SPACE: r"\S", codes.CATEGORY_WORD: r"\w", codes.CATEGORY_NOT_WORD: r"\W",
}  # fmt: skip


def _member(items: list[Any]) -> str:
    """Return a character of a set."""
    negated = items[0][0] is codes.NEGATE
    literal = next((chr(a if c is codes.LITERAL else a[0]) for c, a in items
                    if c in (codes.LITERAL, codes.RANGE)), "")  # fmt: skip
    if literal and not negated:
        return literal
    return next(each for each in CANDIDATES if _is_member(each, items) is not negated)


def _is_member(character: str, items: list[Any]) -> bool:
    point = ord(character)
    return any(
        (code is codes.LITERAL and point == argument)
        or (code is codes.RANGE and argument[0] <= point <= argument[1])
        or (code is codes.CATEGORY and re.match(_CATEGORIES[argument], character) is not None)
        for code, argument in items
    )
