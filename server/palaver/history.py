"""History: selects the newest entries that fit into a number of bytes. Shared by the ledgers."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from palaver.errors import InvalidInput
from palaver.ledger import HistoryEntry
from palaver.messages import encode

CUT_MARK = " […]"
"""End of a text that was cut."""
MAX_POSITION_DIGITS = 18


class HistorySelection(NamedTuple):
    """Entries that `take_history` has selected, oldest first. ``earlier`` as in `HistoryPage`;
    ``is_cut``: the limit of bytes left something out."""

    entries: tuple[HistoryEntry, ...]
    earlier: str
    is_cut: bool


def take_history(
    newest_first: Iterable[tuple[str, HistoryEntry]],
    count: int,
    size: int,
    *,
    newest_complete: bool = False,
) -> HistorySelection:
    """Select the newest ``count`` entries that fit into ``size`` bytes, as JSON.

    Each entry comes with the position after it. The entry that does not fit ends the history. It is
    cut, rather than left out, when it could not fit into ``size`` alone. ``newest_complete``: no
    entry is cut, and the newest is taken in any case. Reads one entry more than it takes.
    """
    taken: list[HistoryEntry] = []
    left = size
    for position, entry in newest_first:
        if len(taken) >= count:
            return HistorySelection(tuple(reversed(taken)), position, is_cut=False)
        entry_size = len(encode(entry))
        if entry_size > left and (taken or not newest_complete):
            if not newest_complete and entry_size > size and (cut := _cut_entry(entry, left)):
                taken.append(cut)
            return HistorySelection(tuple(reversed(taken)), position, is_cut=True)
        taken.append(entry)
        left -= entry_size
    return HistorySelection(tuple(reversed(taken)), "", is_cut=False)


def _cut_entry(entry: HistoryEntry, size: int) -> HistoryEntry | None:
    """Return the entry with a text that is cut so that its JSON takes at most ``size`` bytes, or
    None when there is no room for any text."""
    room = size - len(encode(msgspec.structs.replace(entry, text=CUT_MARK)))
    text = entry.text[: max(room, 0)]
    while (length := len(encode(text)) - 2) > room and text:  # without the quotation marks
        text = text[: len(text) * room // length]
    return msgspec.structs.replace(entry, text=text + CUT_MARK) if text else None


def parse_position(before: str) -> int:
    """Return a position that is a number. Raises `InvalidInput`."""
    if not before.isascii() or not before.isdigit() or len(before) > MAX_POSITION_DIGITS:
        raise InvalidInput(
            f"before={before[:60]!r} is no position; give `earlier` of a snapshot or a page"
        )
    return int(before)


def cut_text(text: str, length: int) -> str:
    """Return the first ``length`` code points of a text, and `CUT_MARK` if there are more."""
    return text if len(text) <= length else text[:length] + CUT_MARK
