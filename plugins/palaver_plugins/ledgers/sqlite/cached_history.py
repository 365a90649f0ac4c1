"""Cache of a conversation's newest history entries in the SQLite ledger."""

from collections import deque
from collections.abc import Sequence

from palaver import HistoryEntry, HistorySelection, encode, take_history

MAX_CACHED_ENTRIES = 80
MAX_CACHED_BYTES = 65_536
"""Size of a history, as JSON, above which it is not cached."""


class CachedHistory:
    """Newest entries of a history, and their size; ``is_complete`` when there are no older ones."""

    __slots__ = ("_size", "entries", "is_complete")

    def __init__(self, entries: Sequence[HistoryEntry], *, is_complete: bool) -> None:
        self.entries = deque(entries)
        self.is_complete = is_complete
        self._size = sum(len(encode(entry)) for entry in entries)

    @property
    def is_too_large(self) -> bool:
        return self._size > MAX_CACHED_BYTES

    def add(self, entries: Sequence[HistoryEntry], size: int) -> None:
        """Add newer entries, which take ``size`` bytes."""
        self.entries += entries
        self._size += size
        while len(self.entries) > MAX_CACHED_ENTRIES:
            self._size -= len(encode(self.entries.popleft()))
            self.is_complete = False

    def newest(self, count: int, size: int) -> HistorySelection | None:
        """Return the newest ``count`` entries that fit into ``size`` bytes, or None when some are
        not cached."""
        if count > len(self.entries) and not self.is_complete:
            return None
        entries = tuple(self.entries)[-count:] if count > 0 else ()
        if self._size <= size:
            return HistorySelection(entries, "", is_cut=False)
        return take_history((("", entry) for entry in reversed(entries)), count, size)
