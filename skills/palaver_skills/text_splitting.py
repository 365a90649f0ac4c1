"""Splitting of text into sentences, words, and parts of limited size.

The parts joined are the text. All of it takes linear time: every pattern reads a run of characters
once, from its beginning.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from palaver_skills.markdown import split_blocks

_END = re.compile(
    r"""(?:(?<![.!?…])[.!?…]++["'”’»)\]*_]*+[ \t]++)"""  # followed by a space, as in most scripts
    r"|(?:[。！？；]++[”’」』）]*+[ \t]*+)"  # or by nothing, as in Chinese and Japanese
    r"|\n++[ \t]*+"
)
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr vs etc eg e.g ie i.e no fig vol pp ca approx inc ltd co "
    "bzw ca d.h z.b u.a usw nr abs str hr fr evtl ggf inkl vgl z.t "
    "m mme mlle env p.ex sra srta ud uds ee.uu p.ej núm".split()
)
_LONGEST_WORD = 40
"""Characters that are searched for the word before a full stop."""
_WORD = re.compile(r"\s*+\S++\s*+|\s++")
_LAST_WORD = re.compile(r"(\S+?)\.\S*\s*$")


def split_sentences(text: str) -> list[str]:
    """Return the sentences with the white space after each. A line break ends one as well."""
    found = []
    start = 0
    for match in _END.finditer(text):
        if match.end() < len(text) and _ends_sentence(text, start, match):
            found.append(text[start : match.end()])
            start = match.end()
    return [*found, text[start:]] if start < len(text) else found


def _ends_sentence(text: str, start: int, end: re.Match[str]) -> bool:
    if not end.group().startswith("."):
        return True
    word = _LAST_WORD.search(text[max(start, end.end() - _LONGEST_WORD) : end.end()])
    before = word[1].lstrip("(\"'“„«").casefold() if word else ""
    ordinal = before.isdigit() and len(before) <= 2
    initial = len(before) == 1 and before.isalpha()
    return not (ordinal or initial or before in _ABBREVIATIONS or text[end.end()].islower())


def split_words(text: str) -> list[str]:
    """Return the words with the white space around them."""
    return [match.group() for match in _WORD.finditer(text)]


def split_to_size(text: str, size: Callable[[str], float], limit: float) -> list[str]:
    """Split ``text`` into parts of at most ``limit`` by ``size``.

    Blocks of Markdown stay whole if they fit, else items of lists and rows of tables, else
    sentences, else words, else characters. The ``size`` of a text must be the sum of its parts'
    sizes.
    """
    return list(_fitting(text, size, limit, _CUTS))


def _fitting(
    text: str,
    size: Callable[[str], float],
    limit: float,
    cuts: Sequence[Callable[[str], list[str]]],
) -> Iterator[str]:
    if not cuts or size(text) <= limit:
        yield text
        return
    gathered: list[str] = []
    gathered_size = 0.0
    for part in cuts[0](text):
        if gathered_size + size(part) > limit:
            if gathered:
                yield "".join(gathered)
            *whole, part = _fitting(part, size, limit, cuts[1:])
            yield from whole
            gathered, gathered_size = [], 0.0
        gathered.append(part)
        gathered_size += size(part)
    if gathered:
        yield "".join(gathered)


_CUTS = (split_blocks, partial(split_blocks, nested=True), split_sentences, split_words, list)
