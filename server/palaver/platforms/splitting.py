"""Splitting: a long reply in several messages of a platform.

A reply is cut between its blocks where that is possible, else between the items of a list, the
rows of a table, the lines of code, sentences, words. Code that is cut is closed and opened again,
a table repeats its head. A part is final once it is cut off: what follows does not change it.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Callable

from palaver.platforms.cuts import (
    LAST_RANK,
    WHOLE,
    Cut,
    Part,
    begins_block,
    cut_anywhere,
    find_cuts,
)

__all__ = ["WHOLE", "Part", "end_part", "split"]

MIN_FILL = 0.5
"""Share of the limit that a part fills at least, where a better cut would leave it emptier."""
_INVISIBLE_JOINERS = frozenset("\u200d\ufe0f\ufe0e")


def split(text: str, fits: Callable[[str], bool], limit: int, last: Part = WHOLE) -> list[Part]:
    """Return ``text`` as parts of which each ``fits``, beginning with the part ``last``, which may
    grow. ``limit`` is about the most characters that fit: a text of a quarter of it always does.
    """
    parts: list[Part] = []
    part = last
    while True:
        part = part._replace(end=min(len(text), part.start + 2 * limit))
        if part.end == len(text) and fits(part.source(text)):
            return [*parts, part]
        cut = _best_cut(text, part, fits, limit)
        parts.append(part._replace(end=cut.position))
        part = Part(cut.position, 0, cut.prefix, cut.indent)


def end_part(text: str, part: Part, is_possible: Callable[[str], bool], limit: int) -> Part | None:
    """Return what comes after a part that has to end where ``is_possible`` holds for its Markdown;
    when it holds, it holds for longer ones too. None: it does so nowhere before the text's end.
    ``limit`` as in `split`."""
    window = part._replace(end=len(text))
    last_of_rank = {cut.rank: cut for cut in sorted(set(find_cuts(text, window, limit)))}
    for _, cut in sorted(last_of_rank.items()):
        if is_possible(window._replace(end=cut.position).source(text)):
            return Part(cut.position, 0, cut.prefix, cut.indent)
    return None


def _best_cut(text: str, window: Part, fits: Callable[[str], bool], limit: int) -> Cut:
    """Return the last cut of the best rank behind which the part fits and is not too empty."""

    def is_possible(cut: Cut) -> bool:
        return fits(window._replace(end=cut.position).source(text))

    cuts = sorted(set(find_cuts(text, window, limit)))
    best = None
    for rank in sorted({cut.rank for cut in cuts}):
        ranked = [cut for cut in cuts if cut.rank == rank]
        found = _last_possible(ranked, is_possible)
        if found is None:
            continue
        if found.position - window.start >= MIN_FILL * limit:
            return found
        if best is None or found.position - window.start > 2 * (best.position - window.start):
            best = found
    within = _cut_anywhere(text, window, is_possible, limit)
    if best is None or within.position - window.start > 4 * (best.position - window.start):
        return within
    return best


def _last_possible(cuts: list[Cut], is_possible: Callable[[Cut], bool]) -> Cut | None:
    """Return the last of ``cuts`` that is possible, found by halving."""
    low = bisect_right(cuts, False, key=lambda cut: not is_possible(cut))
    while low and not is_possible(cuts[low - 1]):  # a longer part may be the shorter message
        low -= 1
    return cuts[low - 1] if low else None


def _cut_anywhere(text: str, window: Part, is_possible: Callable[[Cut], bool], limit: int) -> Cut:
    """Return a cut between two words, or at least between two characters as people see them."""
    size, least, found = window.end - window.start - 1, 1, window.start + 1
    while size > least:
        end = window.start + size
        position = text.rfind(" ", end - size // 2, end) + 1
        position = position or _character_boundary(text, end, window.start + 1)
        if is_possible(Cut(position, LAST_RANK)):
            if not begins_block(text, position):
                return cut_anywhere(text, window._replace(end=position), limit)
            if least == 1:
                least, found = size // 2, position
        size = size * 7 // 8
    return cut_anywhere(text, window._replace(end=found), limit)


def _character_boundary(text: str, position: int, lowest: int) -> int:
    """Return the end of a character as people see it, at or before ``position``."""
    at = position
    while at > lowest and at > position - 32 and at < len(text):
        if not (
            unicodedata.combining(text[at])
            or text[at] in _INVISIBLE_JOINERS
            or text[at - 1] == "\u200d"
        ):
            return at
        at -= 1
    return position
