"""Names of files, cleaned: each is one line of visible characters that every system can store."""

import re
import unicodedata

MAX_NAME_CHARACTERS = 120
MAX_NAME_BYTES = 240
"""Bytes of a name in UTF-8: file systems allow 255."""
UNNAMED = "file"
MAX_MARKS = 4
"""Combining marks on one letter; more of them are drawn over other lines."""
_MAX_READ = 2_000
"""Characters of a longer name that are read, from its end: normalizing takes longer than linear
time."""
_SUFFIX_CHARACTERS = 20
_RESERVED = re.compile(r'[<>:"|?*]')
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)", re.IGNORECASE)
"""Names that stand for a device on Windows, with any extension."""
_JOINERS = "\u200c\u200d"
"""Invisible characters that words and emoji need."""


def clean_name(name: str) -> str:
    """Return the last part of a path as a name without characters that could deceive a reader or
    mean something to a file system."""
    name = re.split(r"[/\\]", name[-_MAX_READ:].rstrip("/\\"))[-1]
    visible = "".join(map(_visible, _limit_marks(unicodedata.normalize("NFC", name))))
    name = _RESERVED.sub("_", " ".join(visible.split())).strip(" ." + _JOINERS)
    if _DEVICE.fullmatch(name.partition(".")[0].strip()):
        name = f"_{name}"
    return _shorten(name) or UNNAMED


def _visible(character: str) -> str:
    """Return a character, a space for a line end, or nothing for one that cannot be seen."""
    category = unicodedata.category(character)
    if category in ("Zl", "Zp", "Zs") or character in "\t\n\v\f\r\x85":
        return " "
    if category in ("Cc", "Cf", "Cs", "Co", "Cn") and character not in _JOINERS:
        return ""
    return character


def _limit_marks(text: str) -> str:
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= MAX_MARKS:
            kept.append(character)
    return "".join(kept)


def _shorten(name: str) -> str:
    """Return a name that is short enough; its extension is kept."""
    stem, dot, suffix = name.rpartition(".")
    if not dot or len(suffix) > _SUFFIX_CHARACTERS:
        stem, dot, suffix = name, "", ""
    end = dot + suffix
    stem = stem[: MAX_NAME_CHARACTERS - len(end)]
    while len((stem + end).encode()) > MAX_NAME_BYTES:
        stem = stem[:-1]
    return stem.rstrip(" ." + _JOINERS) + end
