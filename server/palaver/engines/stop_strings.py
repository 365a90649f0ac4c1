"""Stop strings: end a text that arrives in pieces."""

from collections.abc import Sequence


class StopStringFilter:
    """Passes text on up to the first stop string, and withholds a possible beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._withheld = ""
        self.found = False

    def push(self, text: str) -> str:
        """Add ``text`` and return what can be delivered."""
        if self.found:
            return ""
        text = self._withheld + text
        matches = [index for stop in self._stops if (index := text.find(stop)) >= 0]
        self.found = bool(matches)
        overlap = max((overlap_length(text, stop) for stop in self._stops), default=0)
        end = min(matches) if matches else len(text) - overlap
        self._withheld = "" if matches else text[end:]
        return text[:end]

    def flush(self) -> str:
        text, self._withheld = self._withheld, ""
        return text


def overlap_length(text: str, stop: str) -> int:
    """Return the length of the longest proper prefix of ``stop`` that ``text`` ends with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
