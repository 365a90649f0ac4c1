"""Control characters: what a terminal or the reader of a log would obey instead of show.

Clients, models and documents supply texts. Printed as they are, they could clear the screen, write
to the clipboard, hide what is there, or begin a line that looks like one of ours.
"""

import json
import re

_OBEYED = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1, escape sequences
    "\u2028\u2029"  # line and paragraph separators
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks of the direction of writing
    "\ud800-\udfff"  # halves of surrogate pairs, which cannot be encoded
)
_IN_LINES = re.compile(f"[{_OBEYED}]")
_IN_LINE = re.compile(f"[{_OBEYED}\t\n]")


def escape_controls(text: str, *, keep_lines: bool = False) -> str:
    """Replace control characters by escape sequences as in Python.

    ``keep_lines``: newlines and tabs stay, for a text of several lines.
    """
    return (_IN_LINES if keep_lines else _IN_LINE).sub(_escape, text)


def escape_json(text: str) -> str:
    """Replace control characters in the strings of a JSON document, which stays the same value."""
    return _IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_BLANK = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),  # variation selectors
            *range(0xE0100, 0xE01F0),
        ),
    )
)
"""Characters that `str.isprintable` counts as such, and that a reader does not see."""


def escape_invisible(text: str) -> str:
    """Escape, as in JSON, what a reader does not see or cannot tell from a space: for text on which
    a person decides. Of a JSON document the value stays the same; newlines stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        each
        if each == "\n" or (each.isprintable() and each not in _BLANK)
        else json.dumps(each)[1:-1]
        for each in text
    )


def _escape(found: "re.Match[str]") -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
