"""Patterns: regular expressions that take linear time, whatever the text.

The engine is RE2. It supports the syntax of `re` without backreferences, lookaround, atomic groups
and possessive repeats, and at most 1,000 repetitions in a counted repeat.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import re2

MAX_MEMORY = 16 << 20
"""Bytes that one pattern may take, with what RE2 remembers of the texts."""

_SPACE = r"\s\x0b\x1c-\x1f\x85\p{Z}"
_NO_SPACE = (
    r"\x00-\x08\x0e-\x1b\x21-\x84\x86-\x9f\xa1-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}"
    r"\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff}"
)
_CLASSES = {"d": r"\p{Nd}", "w": r"\p{L}\p{N}_", "s": _SPACE}
"""The members of `re`'s classes: those of RE2 have ASCII characters only."""
_REASONS = (
    ("(?=", "it looks ahead"),
    ("(?!", "it looks ahead"),
    ("(?<", "it looks behind"),
    ("(?>", "it has an atomic group"),
    ("operator: (?P", "it refers back to a group"),
    ("escape sequence: \\", "it refers back to a group, or has an unknown escape"),
    ("repetition size", "a counted repeat has more than 1,000 repetitions"),
    ("repetition operator", "it has a possessive or repeated repeat"),
)


class PatternMatch(Protocol):
    """A match of a `Pattern`."""

    def group(self, group: int | str = 0) -> str | None: ...

    def groupdict(self) -> dict[str, str | None]: ...

    def start(self, group: int = 0) -> int: ...

    def end(self, group: int = 0) -> int: ...


class Pattern(Protocol):
    """A compiled pattern: the part of `re.Pattern` that is needed."""

    @property
    def groupindex(self) -> Mapping[str, int]: ...

    def search(self, text: str) -> PatternMatch | None: ...

    def fullmatch(self, text: str) -> PatternMatch | None: ...


def compile_pattern(pattern: str) -> Pattern:
    r"""Compile a regular expression that takes linear time. Letters match in any case, and the dot
    matches a line break.

    ``\d``, ``\w`` and ``\s`` are those of `re`; ``\b`` knows ASCII letters only. Raises
    `ValueError` with the reason when the engine cannot guarantee the time, or when the pattern is
    wrong.
    """
    options = re2.Options()
    options.case_sensitive = False
    options.dot_nl = True
    options.log_errors = False
    options.max_mem = MAX_MEMORY
    try:
        compiled: Any = re2.compile(_translate(pattern), options)  # Any: re2 has no types
    except re2.error as error:
        detail = error.args[0] if error.args else error
        said = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
        why = next((why for sign, why in _REASONS if sign in said), "")
        raise ValueError(f"no linear time: {why} ({said})" if why else said) from None
    linear: Pattern = compiled
    return linear


def _translate(pattern: str) -> str:
    """Return the pattern of `re` in RE2's syntax, with the Unicode classes of `re`."""
    parts: list[str] = []
    at, class_start = 0, -1
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            escape, at = _translate_escape(pattern, at, in_class=class_start >= 0)
            parts.append(escape)
            continue
        if class_start < 0 and letter == "[":
            class_start = at + 1 + pattern.startswith("^", at + 1)
        elif letter == "]" and at > class_start:
            class_start = -1
        elif class_start >= 0 and letter == "[":
            letter = r"\["  # RE2 would read "[:" as the name of a class
        parts.append(letter)
        at += 1
    return "".join(parts)


def _translate_escape(pattern: str, at: int, *, in_class: bool) -> tuple[str, int]:
    """Return an escape in RE2's syntax, and the position after it."""
    kind = pattern[at + 1 : at + 2]
    digits = {"u": 4, "U": 8}.get(kind)
    if digits is not None:
        return rf"\x{{{pattern[at + 2 : at + 2 + digits]}}}", at + 2 + digits
    if kind == "Z":
        return r"\z", at + 2
    if kind.lower() in _CLASSES:
        return _translate_class(kind, in_class=in_class), at + 2
    return pattern[at : at + 2], at + 2


def _translate_class(kind: str, *, in_class: bool) -> str:
    members = _CLASSES[kind.lower()]
    if kind == "D":
        return r"\P{Nd}"
    if not in_class:
        return f"[{'' if kind.islower() else '^'}{members}]"
    if kind == "W":
        raise ValueError(r"\W inside brackets is not supported; name the characters instead")
    return members if kind.islower() else _NO_SPACE
