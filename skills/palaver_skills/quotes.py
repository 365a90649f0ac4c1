"""Quotations in an answer: words in quotation marks that a passage must have.

Marks around other words are dropped: what a model only paraphrases is no quotation. The words stay.
Code is left as it is, and so are quotations of a few words, which may be names or irony.
"""

import re
from collections.abc import Iterable, Sequence

from palaver import Filter, is_unspaced

_CLOSING = {'"': '"', "“": "”", "„": "“”", "«": "»", "「": "」", "『": "』"}
_EVENT = re.compile(r"`+|\n|[\"“„«「『]")
_LONGEST = 400
"""Characters of the longest quotation that is checked."""
_LEAST_WORDS, _LEAST_CHARACTERS = 4, 8
"""Words of the shortest one, or characters where no spaces separate words."""
_BEFORE_OPENING = re.compile(r"[\s(\[{:;,–—/*_>-]")
_WORD = re.compile(r"[^\W_]+")
_MARK = re.compile(r"\[\d{1,2}\]")
_GAP = re.compile(r"\[?(?:…|\.{3})\]?")
"""Where a quotation leaves something out."""
_INDENT = "    "


class QuoteFilter:
    """Filter that drops the quotation marks around what none of the ``sources`` has."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._sources = [_normalize(source) for source in sources]
        self._pending = ""
        self._code = ""
        """The backticks that have opened code."""
        self._line = ""
        """The beginning of the last line."""
        self._last = ""

    def feed(self, text: str) -> str:
        return self._read(self._pending + text, is_last=False)

    def end(self) -> str:
        return self._read(self._pending, is_last=True)

    def _read(self, text: str, *, is_last: bool) -> str:
        out: list[str] = []
        at = 0
        while event := _EVENT.search(text, at):
            self._pass(text[at : event.start()], out)
            at = event.start()
            end = self._find_end(text, event, is_last)
            if end is None:
                break
            part = text[at:end]
            is_quotation = len(part) > 1 and part[0] in _CLOSING
            self._pass(self._check(part) if is_quotation else part, out)
            at = end
        else:
            self._pass(text[at:], out)
            at = len(text)
        self._pending = text[at:]
        return "".join(out)

    def _find_end(self, text: str, event: re.Match[str], is_last: bool) -> int | None:
        """Return the end of what begins here; None: more is needed to tell."""
        found, start = event[0], event.start()
        if found.startswith("`"):
            if event.end() == len(text) and not is_last:
                return None
            if not self._code:
                self._code = found
            elif self._code == found:
                self._code = ""
            return event.end()
        if found == "\n" or self._code or self._line.startswith((_INDENT, "\t")):
            return event.end()
        if found == '"' and self._last and not _BEFORE_OPENING.match(self._last):
            return event.end()
        for end in range(start + 1, min(len(text), start + _LONGEST)):
            if text[end] in _CLOSING[found]:
                return end + 1
            if text[end] in "\n`":
                return event.end()
        return event.end() if is_last or len(text) - start >= _LONGEST else None

    def _check(self, quotation: str) -> str:
        """Return a quotation, without its marks when no source has its words."""
        words = quotation[1:-1]
        if any(map(is_unspaced, words)):
            is_long = len(words) >= _LEAST_CHARACTERS
        else:
            is_long = len(_WORD.findall(words)) >= _LEAST_WORDS
        parts = [_normalize(part) for part in _GAP.split(words)]
        is_told = any(all(part in source for part in parts) for source in self._sources)
        return quotation if is_told or not is_long else words

    def _pass(self, part: str, out: list[str]) -> None:
        if not part:
            return
        out.append(part)
        _before, newline, line = part.rpartition("\n")
        self._line = (line if newline else self._line + line)[: len(_INDENT)]
        self._last = part[-1]
        if newline and len(self._code) < 3:
            self._code = ""


class FilterChain:
    """Several filters, of which each gets what the one before lets through."""

    def __init__(self, *filters: Filter) -> None:
        self._filters: Sequence[Filter] = filters

    def feed(self, text: str) -> str:
        for each in self._filters:
            text = each.feed(text)
        return text

    def end(self) -> str:
        text = ""
        for each in self._filters:
            text = each.feed(text) + each.end()
        return text


def _normalize(text: str) -> str:
    """Return the words of a text, whatever their case and what is between them."""
    return " ".join(_WORD.findall(_MARK.sub(" ", text).casefold()))
