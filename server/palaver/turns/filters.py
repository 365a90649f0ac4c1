"""Filters of a reply while it is written."""

from typing import Protocol

from palaver.engine import OnText


class Filter(Protocol):
    """Filter of a reply while it is written; it may keep text back until more has come."""

    def feed(self, text: str) -> str:
        """Return the text to say now that ``text`` has come."""

    def end(self) -> str:
        """Return the text that is kept back, and forget it.

        More may be fed: after a takeover the filter gets the stored text, its end, and the rest.
        """


class FilteredText:
    """Receives text for a filter, and passes on what the filter lets through."""

    def __init__(self, filter_: Filter, on_text: OnText) -> None:
        self._filter = filter_
        self._on_text = on_text

    def __call__(self, text: str) -> None:
        self._on_text(self._filter.feed(text))
